"""`windlass profile`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from windlass_cli.errors import UserError
from windlass_cli.packing.build import SAVED_MODEL_FILE, TFLITE_FILE, version_format
from windlass_cli.packing.folder import write_file
from windlass_cli.packing.helper import require, run_program
from windlass_cli.packing.profile import Cell, advice, plot
from windlass_cli.terminal import Progress, note, out, screen, size
from windlass_contract import artifact
from windlass_contract.artifact import ArtifactError
from windlass_contract.manifest import MANIFEST_NAME, ModelFormat

from . import options


def profile(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of one version, with a manifest or without.")],
    signature: Annotated[str, typer.Option(metavar="NAME", help="Default: the one that clients get.")] = "",
    batch_sizes: Annotated[
        str, typer.Option(metavar="SIZES", help="Rows in a request, where the model takes any number.")
    ] = "1,2,4,8,16,32",
    threads: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Requests at a time. Default: one, and one for each processor.")
    ] = "",
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Real inputs: .npy (one input) or .npz (named as the inputs). Else made up."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.05, max=600, help="For each figure.")] = 1.0,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw rows per second there.")
    ] = None,
) -> None:
    """Measure what this machine can do with a version: rows per second by batch size and threads, memory.

    It is run as a replica's worker runs it: one thread for an operation, so many requests beside each other. HTTP and
    decoding images aren't in it, so a replica reaches less. The machine should do nothing else meanwhile.
    """
    kind = version_format(folder)
    if kind is None:
        raise UserError(
            f"{folder} holds neither {SAVED_MODEL_FILE} nor {TFLITE_FILE}; is it the folder of one version?"
        )
    require("ai_edge_litert" if kind is ModelFormat.TFLITE else "tensorflow", f"profiling {folder}")
    if plot_file is not None and not plot_file.parent.is_dir():
        raise UserError(f"{plot_file.parent} is no folder; make it first")
    request = {
        "folder": str(folder), "format": kind.value, "signature": signature, "image": _image(folder),
        "inputs": "" if inputs is None else str(inputs), "batchSizes": options.batch_sizes(batch_sizes),
        "seconds": seconds,
    }  # fmt: skip
    cells: list[Cell] = []
    memory: dict[int, int | None] = {}
    notes: list[str] = []
    with Progress(f"profiling {folder}") as progress:
        for count in options.thread_counts(threads or f"1,{len(os.sched_getaffinity(0))}"):
            # Each in a process of its own: the framework's threads are made once, and memory is measured afresh.
            told = run_program("timing", {**request, "threads": count}, progress, "trying it")
            cells += [_cell(each) for each in told.result["cells"]]
            memory[count] = told.result["memoryBytes"]
            notes += [text for text in told.notes if text not in notes]
    for text in notes:
        note(text)
    if not cells:
        raise UserError("the model refuses every batch size; choose others with --batch-sizes")
    screen.print(_table(cells))
    for count, taken in memory.items():
        if taken is not None:
            out.print(f"memory with {count} at a time: {size(taken)}", markup=False)
    for sentence in advice(cells).sentences():
        out.print(sentence, markup=False)
    if plot_file is not None:
        write_file(plot_file, plot(cells, folder.resolve().parent.name))


def _cell(told: dict[str, Any]) -> Cell:
    return Cell(told["threads"], told["batch"], told["rowsPerSecond"], told["p50"], told["p99"])


def _image(folder: Path) -> dict[str, Any] | None:
    """The manifest's `image`, so that made-up inputs have the range of pixels."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    try:
        image = artifact.read_manifest(folder).manifest.image
    except ArtifactError as error:
        raise UserError(f"{error.failure.reason}: {error}") from error
    return None if image is None else image.model_dump(mode="json")


def _table(cells: list[Cell]) -> Table:
    """Rows: batch sizes; columns: requests at a time."""
    table = Table(box=None, pad_edge=False)
    table.add_column("rows in\na request", justify="right")
    counts = sorted({each.threads for each in cells})
    for count in counts:
        table.add_column(f"{count} at a time\nrows/s", justify="right", no_wrap=True)
        table.add_column("\np50 / p99 ms", justify="right", no_wrap=True)
    found = {(each.threads, each.batch): each for each in cells}
    for batch in sorted({each.batch for each in cells}):
        shown = [str(batch)]
        for count in counts:
            cell = found.get((count, batch))
            shown += ["", ""] if cell is None else [f"{cell.rows_per_second:,.0f}", f"{cell.p50:.3g} / {cell.p99:.3g}"]
        table.add_row(*shown)
    return table
