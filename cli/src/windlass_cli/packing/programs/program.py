"""A program that `packing.helper` runs: a JSON request on standard input, JSON lines on the descriptor in argv.

Lines: `{"step": "…"}`, `{"note": "…"}` and at the end `{"result": …}` or `{"error": "…"}`. Whatever TensorFlow and the
model's own code print goes to standard output and error, which the parent keeps apart.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from windlass_cli.errors import UserError
from windlass_contract.document import DocumentError


class Teller:
    """Tells the parent what goes on."""

    def __init__(self, descriptor: int) -> None:
        self._lines = os.fdopen(descriptor, "w", encoding="utf-8")

    def step(self, text: str) -> None:
        """What is done now; it may take long."""
        self.line("step", text)

    def note(self, text: str) -> None:
        """What a person should know of the outcome."""
        self.line("note", text)

    def line(self, kind: str, value: Any) -> None:
        """Writes one line, at once."""
        self._lines.write(json.dumps({kind: value}) + "\n")
        self._lines.flush()


def run(work: Callable[[dict[str, Any], Teller], dict[str, Any]]) -> None:
    """Does the work of a program, and tells the outcome."""
    teller = Teller(int(sys.argv[1]))
    request = json.load(sys.stdin)
    try:
        teller.line("result", work(request, teller))
    except (UserError, DocumentError) as error:
        teller.line("error", str(error))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the model's own code runs here and may raise anything
        traceback.print_exc()
        teller.line("error", f"{type(error).__name__}: {error}")
        sys.exit(1)


def load_module(path: str) -> Any:
    """Imports a Python file of the user's; what lies beside it can be imported by it. Raises `UserError`."""
    import importlib.util
    from pathlib import Path

    file = Path(path).resolve()
    if not file.is_file():
        raise UserError(f"there is no Python file {path}")
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file: its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
