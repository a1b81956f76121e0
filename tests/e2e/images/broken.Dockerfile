# The server's image, broken by itself: what an update is taken back for.
ARG SERVER
FROM ${SERVER} AS ends-at-once
# A setting that it can't read.
ENV WINDLASS_PORT=eighty

FROM ${SERVER} AS never-healthy
# It runs, follows the plan, and can't load what the plan gives traffic to: a library of TensorFlow is missing.
USER 0:0
RUN ["python", "-c", "import pathlib; [file] = pathlib.Path('/opt/windlass').rglob('libtensorflow_cc.so.2'); file.unlink()"]
USER 65532:65532
