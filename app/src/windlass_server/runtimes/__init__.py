"""What runs models: one module per runtime, imported in that runtime's processes only."""

from __future__ import annotations

import importlib
from typing import cast

from windlass_contract.manifest import ModelFormat
from windlass_server.runtimes.runtime import RuntimeModule

RUNTIME_OF = {ModelFormat.SAVED_MODEL: "tensorflow", ModelFormat.TFLITE: "litert"}
"""Which runtime opens which format."""


def import_runtime(name: str) -> RuntimeModule:
    """Imports a runtime, and with it its framework. Raises `ImportError`."""
    return cast("RuntimeModule", importlib.import_module(f"windlass_server.runtimes.{name}_runtime"))
