# check=error=true
# The replica's image. Targets: server (TensorFlow and LiteRT), litert (LiteRT alone), debug (server with a shell to
# work in). Built by `make images`; docs/image.md says how it is run and why each line is there.
#
# Stages that aren't shipped, and debug, stay root (DL3002). What builders take of the checkout they COPY, and don't mount:
# Skaffold knows by COPY which files an image is made of.
#
# BASE can name a digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:…
ARG BASE=python:3.11-slim-bookworm

# --- what the final stages take from Debian: an init that reaps, as one static file --------------------------------
FROM ${BASE} AS init
ARG TINI_VERSION=0.19.0
# hadolint ignore=DL3002
USER 0:0
RUN --mount=type=tmpfs,target=/var/cache/apt \
    --mount=type=tmpfs,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends "tini=${TINI_VERSION}-*"

# --- the tools that build, and stay behind -------------------------------------------------------------------------
FROM ${BASE} AS builder
ARG BINUTILS_VERSION=2.40
# hadolint ignore=DL3002
USER 0:0
RUN --mount=type=tmpfs,target=/var/cache/apt \
    --mount=type=tmpfs,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends "binutils=${BINUTILS_VERSION}-*"
COPY requirements-uv.lock /
RUN --mount=type=cache,id=windlass-pip,target=/root/.cache/pip \
    ["python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore", \
     "--require-hashes", "--target=/opt/uv", "--requirement=/requirements-uv.lock"]
ENV PATH=/opt/uv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    UV_CACHE_DIR=/uv-cache \
    UV_LINK_MODE=copy \
    UV_NO_PROGRESS=1 \
    UV_PYTHON_DOWNLOADS=never \
    PYTHONHASHSEED=0 \
    VIRTUAL_ENV=/opt/windlass
RUN ["uv", "venv", "--quiet", "--python=/usr/local/bin/python3", "/opt/windlass"]

# --- what we depend on: big, and made anew only when the lock changes ----------------------------------------------
FROM builder AS tensorflow-packages
COPY docker/build /build
COPY docker/requirements/server.lock /
RUN --mount=type=cache,id=windlass-uv,target=/uv-cache \
    uv pip sync --quiet --require-hashes /server.lock \
 && python3 /build/finish.py /opt/windlass \
      --remove /build/removed.txt --compile /build/compiled.txt --strip tensorflow ai_edge_litert

FROM builder AS litert-packages
COPY docker/build /build
COPY docker/requirements/litert.lock /
RUN --mount=type=cache,id=windlass-uv,target=/uv-cache \
    uv pip sync --quiet --require-hashes /litert.lock \
 && python3 /build/finish.py /opt/windlass \
      --remove /build/removed.txt --compile /build/compiled.txt --strip ai_edge_litert

# --- our own packages: small, and made anew with each edited line --------------------------------------------------
FROM builder AS application
COPY docker/build /build
COPY contract /source/contract
COPY app /source/app
COPY cli /source/cli
RUN --mount=type=cache,id=windlass-uv,target=/uv-cache \
    uv build --quiet --wheel --out-dir=/wheels /source/contract \
 && uv build --quiet --wheel --out-dir=/wheels /source/app \
 && uv build --quiet --wheel --out-dir=/wheels /source/cli \
 && uv pip install --quiet --no-cache --no-deps --no-index --find-links=/wheels windlass-contract windlass-server windlass-cli \
 && python3 /build/finish.py /opt/windlass --remove /build/removed.txt --editable

# --- what both images have in common -------------------------------------------------------------------------------
FROM ${BASE} AS runtime
USER 0:0
# The base's installers are of no use to a server, and of some to an intruder.
RUN --mount=type=bind,source=docker/build,target=/build \
    ["python3", "-I", "-B", "/build/finish.py", "/", "--remove", "/build/removed-from-base.txt"]
COPY --from=init /usr/bin/tini-static /usr/bin/tini
COPY --chmod=0555 docker/health.py /usr/local/bin/windlass-health
# Any user may write to the state folder: which one runs the image is the platform's choice.
RUN ["install", "-d", "-m", "1777", "/var/lib/windlass/server"]
ENV PATH=/opt/windlass/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    WINDLASS_HOST=0.0.0.0 \
    WINDLASS_MODELS=/models \
    WINDLASS_STATE_DIR=/var/lib/windlass/server
WORKDIR /models
WORKDIR /
USER 65532:65532
EXPOSE 8000/tcp 8001/tcp
STOPSIGNAL SIGTERM
# The numbers are windlass_contract.health.HEALTH; a test compares them.
HEALTHCHECK --interval=5s --timeout=3s --start-period=330s --start-interval=1s --retries=3 \
    CMD ["windlass-health", "windlass-server"]
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "windlass-server"]

# --- the images ----------------------------------------------------------------------------------------------------
FROM runtime AS litert
ARG BASE VERSION=0.0.0 REVISION=unknown CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="windlass-server (LiteRT)" \
      org.opencontainers.image.description="The Windlass inference replica for .tflite models, without TensorFlow" \
      org.opencontainers.image.version="${VERSION}-litert" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=litert-packages /opt/windlass /opt/windlass
COPY --from=application /opt/windlass /opt/windlass

FROM runtime AS tensorflow
ARG BASE VERSION=0.0.0 REVISION=unknown CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="windlass-server" \
      org.opencontainers.image.description="The Windlass inference replica: SavedModel and .tflite models" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=tensorflow-packages /opt/windlass /opt/windlass
COPY --from=application /opt/windlass /opt/windlass

# For people: a shell, the tools of a builder, and a root that can be written. Never deployed.
FROM tensorflow AS debug
# hadolint ignore=DL3002
USER 0:0
RUN --mount=type=tmpfs,target=/var/cache/apt \
    --mount=type=tmpfs,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends \
      "curl=7.88.*" "gdb=13.*" "iproute2=6.1.*" "less=590-*" "procps=2:4.0.*" "strace=6.1-*"
COPY --from=builder /opt/uv /opt/uv
ENV PATH=/opt/windlass/bin:/opt/uv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/bin/tini", "-s", "--"]
CMD ["bash"]

# The last one is what a build without --target makes.
FROM tensorflow AS server
