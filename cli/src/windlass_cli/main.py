"""`windlass`: what people type."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.metadata import version as installed_version
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .commands import deciding, packing, profiling, pushing, rollouts
from .errors import UserError
from .terminal import err, out

INTERRUPTED = 128 + signal.SIGINT


class _Group(TyperGroup):
    """Says what a person did wrong in a sentence, never by a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            err.print("[bold red]Error:[/]", end=" ")
            err.print(str(error), markup=False)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=True,
    help="Pack TensorFlow models into versions, roll them out, and watch.",
    epilog="Exit codes: 0 done, 1 not found or failed, 2 used wrongly, 130 interrupted.",
)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version of this program.")] = False,
) -> None:
    if version:
        out.print(f"windlass {installed_version('windlass-cli')}")
        raise typer.Exit


_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Models": (packing.pack, packing.adopt, packing.verify, profiling.profile, pushing.push),
    "Rollouts": (rollouts.get, rollouts.describe, rollouts.watch),
    "Decisions": (deciding.approve, deciding.pause, deciding.resume, deciding.undo, deciding.clear),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


def main() -> None:
    """Entry point. A polite end cleans up like Ctrl-C does."""
    signal.signal(signal.SIGTERM, _end)
    app(prog_name="windlass")


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
