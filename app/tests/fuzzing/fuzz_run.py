"""`python fuzz_run.py TARGET CORPUS …`: guided by the coverage of our own code."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(
    include=["windlass_contract", "windlass_server.api", "windlass_server.tensors", "windlass_server.hosting.parity"]
):
    import fuzz_targets

atheris.Setup([sys.argv[0], *sys.argv[2:]], fuzz_targets.TARGETS[sys.argv[1]])
atheris.Fuzz()
