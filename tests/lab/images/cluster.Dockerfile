# The cluster's own images, each around one command built from its Go module. Context: the folder of the commands.
ARG ROOT
FROM scratch AS command
ARG COMMAND
COPY --chmod=0755 ${COMMAND} /usr/local/bin/${COMMAND}
ENV PATH=/usr/local/bin

FROM command AS coredns
ENTRYPOINT ["coredns"]

FROM ${ROOT} AS proxy
COPY --chmod=0755 kube-proxy /usr/local/bin/kube-proxy

FROM scratch AS busybox
COPY --chmod=0755 busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin

FROM busybox AS pause
USER 65535:65535
ENTRYPOINT ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done"]
