"""What the operations of a model may do: those outside the list refuse the version, before anything is loaded.

A model is a program. `operations.txt` names every operation by purpose; this reads which of them a model uses, in its
graphs and in every function of its library, nested ones and bodies of loops included, and says which are forbidden.
Nothing is executed, and no framework is needed.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from .manifest import ModelFormat
from .saved_model_graph import Body, MetaGraph, Node, meta_graphs
from .tflite_operators import custom_operators

_SECTION = re.compile(r"\[(allowed|checked|refused): (.+)\]")
_SAVE = frozenset({"SaveV2", "MergeV2Checkpoints"})
_RESTORE = frozenset({"RestoreV2"})
_TABLE_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
_PRINT = "PrintV2"
_PYTHON = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
"""They call a function of the program that saved the model, which isn't in its files: no replica can run them."""
_STREAMS = frozenset({b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)"})
_TFLITE_CUSTOM = frozenset(
    {"TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify", "AvgPool", "MaxPool"}
)
"""Custom operators that LiteRT brings along itself; all compute, and nothing else."""
_SHOWN = 5


@dataclass(frozen=True, order=True)
class Forbidden:
    """One use of something that a model may not do."""

    operation: str
    """Empty: it is about an asset."""
    where: str
    why: str
    can_be_allowed: bool = True
    """By `--allow-operation`."""

    def __str__(self) -> str:
        what = f"operation {self.operation}" if self.operation else "an asset"
        return f"{what} ({self.where}) {self.why}"


@dataclass(frozen=True)
class OperationList:
    """`operations.txt`, read."""

    allowed: frozenset[str]
    checked: frozenset[str]
    refused: dict[str, str]
    """Operation to what it does, as the end of a sentence."""


@cache
def operation_list() -> OperationList:
    """What this package's list says."""
    allowed: set[str] = set()
    checked: set[str] = set()
    refused: dict[str, str] = {}
    kind, title = "", ""
    for line in files(__package__).joinpath("operations.txt").read_text().splitlines():
        if match := _SECTION.fullmatch(line):
            kind, title = match.groups()
        elif line and not line.startswith("#"):
            for name in line.split():
                if kind == "refused":
                    refused[name] = title
                else:
                    (allowed if kind == "allowed" else checked).add(name)
    return OperationList(frozenset(allowed), frozenset(checked), refused)


def forbidden_operations(
    folder: Path, model_format: ModelFormat, allowed_by_owner: Collection[str] = ()
) -> list[Forbidden]:
    """What the model in a version's folder uses and may not; sorted, each operation and place once. Raises
    `ValueError` for a file that can't be read as a model, `OSError`."""
    if model_format is ModelFormat.TFLITE:
        found: list[Forbidden] = []
        for path in sorted(folder.glob("*.tflite")):
            found += _in_file(path, lambda data: _tflite(data, allowed_by_owner))
        return sorted(set(found))
    return _in_file(folder / "saved_model.pb", lambda data: _saved_model(data, allowed_by_owner))


def describe(found: Collection[Forbidden]) -> str:
    """For people: the first few, and the remedy."""
    names = sorted({use.operation for use in found if use.can_be_allowed})
    shown = "; ".join(str(use) for use in sorted(found)[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    remedy = "pack a model that does without"
    if names:
        flags = " ".join(f"--allow-operation {name}" for name in names[:_SHOWN])
        remedy += f"; a server's owner who trusts its models can start replicas with {flags}"
    return f"the model may not do all that it does: {shown}{more}. Remedy: {remedy}"


def _in_file(path: Path, read: Callable[[memoryview], list[Forbidden]]) -> list[Forbidden]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        data = memoryview(content)
        try:
            return read(data)
        finally:
            data.release()


def _tflite(data: memoryview, allowed_by_owner: Collection[str]) -> list[Forbidden]:
    known = _TFLITE_CUSTOM | set(allowed_by_owner)
    return [
        Forbidden(name, "a custom operator", "is unknown: it is no operator of LiteRT")
        for name in custom_operators(data)
        if name not in known
    ]


def _saved_model(data: memoryview, allowed_by_owner: Collection[str]) -> list[Forbidden]:
    found: set[Forbidden] = set()
    graphs = 0
    for graph in meta_graphs(data):
        graphs += 1
        found.update(_in_graph(graph, frozenset(allowed_by_owner)))
    if not graphs:
        raise ValueError("it holds no graph")
    return sorted(found)


def _in_graph(graph: MetaGraph, by_owner: frozenset[str]) -> Iterable[Forbidden]:
    for name in graph.assets:
        if name.startswith("/") or ".." in name.split("/") or "://" in name or "\\" in name or "\0" in name:
            yield Forbidden("", f"file {name[:100]!r}", "lies outside the version's folder", can_be_allowed=False)
    known = operation_list()
    saver = _SaverFunctions(graph)
    for body in (graph.main, *graph.functions.values()):
        for node in body.nodes:
            why = _fault(node, body, graph, known, by_owner, saver)
            if why is not None:
                yield Forbidden(node.op, _place(node, body), why, can_be_allowed=node.op not in _PYTHON)


def _place(node: Node, body: Body) -> str:
    return f"node {node.name[:100]!r}" + (f" of function {body.name[:100]!r}" if body.name else "")


def _fault(
    node: Node,
    body: Body,
    graph: MetaGraph,
    known: OperationList,
    by_owner: frozenset[str],
    saver: _SaverFunctions,
) -> str | None:
    """Why a node is forbidden; None: it isn't."""
    if node.op in _PYTHON:
        return "calls a Python function of the program that saved the model, which isn't part of its files"
    if node.op in by_owner or node.op in known.allowed:
        return None
    if node.op in known.checked:
        return _unmet_condition(node, body, saver)
    if node.op in known.refused:
        return known.refused[node.op]
    if node.op in graph.functions and (node.op.startswith("__") or not node.op.startswith("_")):
        # A call by name, of a function that is searched like all others. TensorFlow takes no function with the name of
        # an operation; of those with one underscore, which aren't listed, nothing is to be left to that.
        return None
    return "is unknown: it is no operation of TensorFlow's that a replica knows"


def _unmet_condition(node: Node, body: Body, saver: _SaverFunctions) -> str | None:
    if node.op in _SAVE | _RESTORE:
        kind = "save" if node.op in _SAVE else "restore"
        return None if saver.may(kind, node, body) else "reads or writes files, and is not the saver's own"
    if node.op == _PRINT:
        streams = node.streams
        return None if all(stream in _STREAMS for stream in streams) else "writes to a file"
    if node.op in _TABLE_FILES and body.name and any(name in body.constants for name in node.inputs[1:2]):
        return "reads a file that the function names itself, rather than an asset"
    return None


class _SaverFunctions:
    """Which functions and nodes save and restore, and whether only the saver gets to them."""

    def __init__(self, graph: MetaGraph) -> None:
        self._graph = graph
        self._reach = {"save": self._reaching(_SAVE), "restore": self._reaching(_RESTORE)}
        save, restore = (_before(graph.main, {root}) for root in (graph.save_node, graph.restore_node))
        others = _before(graph.main, graph.fetched)
        # A load runs the restoring part alone: nothing of it may save.
        self._places = {"save": save - restore - others, "restore": restore - others}
        self._sound = {kind: self._is_sound(kind) for kind in self._reach}

    def may(self, kind: str, node: Node, body: Body) -> bool:
        """Whether this node may save, or restore."""
        return self._sound[kind] and (bool(body.name) or node.name in self._places[kind])

    def _reaching(self, operations: frozenset[str]) -> set[str]:
        """The functions that come to one of the operations, by calls of calls."""
        callers: dict[str, set[str]] = {}
        pending = []
        for name, body in self._graph.functions.items():
            for node in body.nodes:
                for called in node.calls:
                    callers.setdefault(called, set()).add(name)
                if node.op in operations:
                    pending.append(name)
        reached: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in reached:
                reached.add(name)
                pending.extend(callers.get(name, ()))
        return reached

    def _is_sound(self, kind: str) -> bool:
        """Nothing but the saver's nodes calls them, and nothing else has their names."""
        reach = self._reach[kind]
        if reach & self._graph.named_functions:
            return False
        return all(
            node.name in self._places[kind]
            for node in self._graph.main.nodes
            if any(call in reach for call in node.calls)
        )


def _before(body: Body, roots: Iterable[str]) -> set[str]:
    """The nodes that these depend on, themselves included."""
    inputs = body.inputs_by_name()
    seen: set[str] = set()
    pending = [root for root in roots if root]
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending.extend(inputs.get(name, ()))
    return seen
