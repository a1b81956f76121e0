# The same app on the same base and lock, as one writes it at first: what the sizes are compared with.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
WORKDIR /app
COPY . .
# The lock is for the Pythons that uv takes a package for: uv looks at no upper bound of Requires-Python, pip does.
RUN python3 -m pip install --no-deps --ignore-requires-python --require-hashes -r docker/requirements/server.lock \
 && python3 -m pip install --no-deps ./contract ./app ./cli
ENTRYPOINT ["windlass-server"]
