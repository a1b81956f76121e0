# check=error=true
# The operator's image, for both drivers. Built by `make images`; docs/image.md says how it is run. Stages that aren't
# shipped stay root (DL3002).
#
# BASE can name a digest, or Alpine: --build-arg BASE=python:3.11-alpine
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS init
ARG TINI_VERSION=0.19.0
# hadolint ignore=DL3002
USER 0:0
RUN --mount=type=tmpfs,target=/var/cache/apt \
    --mount=type=tmpfs,target=/var/lib/apt/lists \
    if command -v apk >/dev/null; then apk add --no-cache "tini-static=~${TINI_VERSION}"; \
    else apt-get update -q && apt-get install -q -y --no-install-recommends "tini=${TINI_VERSION}-*"; fi \
 && cp -p "$(command -v tini-static)" /tini

FROM ${BASE} AS builder
# hadolint ignore=DL3002
USER 0:0
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

FROM builder AS packages
COPY docker/build /build
COPY docker/requirements/operator.lock /
RUN --mount=type=cache,id=windlass-uv,target=/uv-cache \
    uv pip sync --quiet --require-hashes /operator.lock \
 && python3 /build/finish.py /opt/windlass \
      --remove /build/removed.txt --compile /build/compiled.txt

FROM builder AS application
COPY docker/build /build
COPY contract /source/contract
COPY operator /source/operator
RUN --mount=type=cache,id=windlass-uv,target=/uv-cache \
    uv build --quiet --wheel --out-dir=/wheels /source/contract \
 && uv build --quiet --wheel --out-dir=/wheels /source/operator \
 && uv pip install --quiet --no-cache --no-deps --no-index --find-links=/wheels windlass-contract windlass-operator \
 && python3 /build/finish.py /opt/windlass --remove /build/removed.txt --editable

FROM ${BASE} AS operator
USER 0:0
RUN --mount=type=bind,source=docker/build,target=/build \
    ["python3", "-I", "-B", "/build/finish.py", "/", "--remove", "/build/removed-from-base.txt"]
COPY --from=init /tini /usr/bin/tini
COPY --chmod=0555 docker/health.py /usr/local/bin/windlass-health
RUN ["install", "-d", "-m", "1777", "/var/lib/windlass/operator"]
ENV PATH=/opt/windlass/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    WINDLASS_OPERATOR_HOST=0.0.0.0 \
    WINDLASS_OPERATOR_METRICS_HOST=0.0.0.0
ARG BASE VERSION=0.0.0 REVISION=unknown CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="windlass-operator" \
      org.opencontainers.image.description="The Windlass rollout operator, for Kubernetes and for a directory" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=packages /opt/windlass /opt/windlass
COPY --from=application /opt/windlass /opt/windlass
WORKDIR /
USER 65532:65532
EXPOSE 8010/tcp 8011/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=330s --start-interval=1s --retries=3 \
    CMD ["windlass-health", "windlass-operator"]
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "windlass-operator"]
