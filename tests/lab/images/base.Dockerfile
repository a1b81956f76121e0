# What is made of Debian's packages on the base image: a stand-in for Python's image, and a root for the nodes.
ARG BASE
FROM ${BASE} AS python
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3 python3-venv python3-pip tzdata netbase \
 && rm -rf /var/lib/apt/lists/* /usr/lib/python3*/EXTERNALLY-MANAGED \
 && ln -sf /usr/bin/python3 /usr/local/bin/python3 && ln -sf /usr/bin/python3 /usr/local/bin/python
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
# pip brings certificates of its own; this image's are those of the machine that the lab runs on.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]

FROM ${BASE} AS systemd
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
      systemd dbus conntrack iptables nftables iproute2 ethtool mount kmod pigz curl jq procps e2fsprogs \
 && rm -rf /var/lib/apt/lists/*
