# kind's node image on a Debian root. Context: kind's own base files, the commands, the CNI plugins.
ARG ROOT
FROM ${ROOT}
COPY --chmod=0755 files/usr/local/bin/ /usr/local/bin/
COPY --chmod=0644 files/kind/ /kind/
COPY --chmod=0755 files/kind/bin/ /kind/bin/
COPY --chmod=0644 files/etc/ /etc/
COPY manifests/ /kind/manifests/
COPY version /kind/version
RUN chmod 755 /kind /kind/bin /kind/manifests \
 && find /etc/systemd /etc/containerd /etc/default /etc/sysctl.d -type d -exec chmod 755 {} + \
 && find /lib/systemd/system/sysinit.target.wants/ -name systemd-tmpfiles-setup.service -delete \
 && rm -f /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/* /lib/systemd/system/local-fs.target.wants/* \
          /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl* \
 && echo ReadKMsg=no >>/etc/systemd/journald.conf \
 && ln -sf /usr/lib/systemd/systemd /sbin/init \
 && systemctl enable kubelet.service containerd.service undo-mount-hacks.service && systemctl mask systemd-binfmt.service \
 && mkdir -p /etc/kubernetes/manifests /opt/cni/bin
COPY --chmod=0755 bin/containerd bin/ctr bin/containerd-shim-runc-v2 /usr/local/bin/
COPY --chmod=0755 bin/runc /usr/local/sbin/
COPY --chmod=0755 bin/kubelet bin/kubeadm bin/kubectl /usr/bin/
COPY --chmod=0755 bin/host-local bin/loopback bin/ptp bin/portmap /opt/cni/bin/
RUN ctr oci spec | jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >/etc/containerd/cri-base.json
ENV container=docker
STOPSIGNAL SIGRTMIN+3
