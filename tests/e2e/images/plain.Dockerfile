# The same app on the same base and lock, as one writes it at first: what the sizes are compared with.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
WORKDIR /app
COPY . .
RUN python3 -m pip install --no-deps --require-hashes -r docker/requirements/server.lock \
 && python3 -m pip install --no-deps ./contract ./app ./cli
ENTRYPOINT ["windlass-server"]
