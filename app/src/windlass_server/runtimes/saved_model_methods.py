"""Which method each signature of a SavedModel is for: predict, classify or regress.

`tf.saved_model.load` doesn't say, and parsing the file again would take its size in memory once more (weights may stand
in it). So this walks the protocol buffer's fields and skips what it doesn't need.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from windlass_contract.wire import named

_META_GRAPHS = 2  # of SavedModel
_META_INFO, _SIGNATURE_DEF = 1, 5  # of MetaGraphDef
_TAGS = 4  # of MetaInfoDef
_KEY, _VALUE = 1, 2  # of a map's entry
_METHOD_NAME = 3  # of SignatureDef


def methods(path: Path, tag: str = "serve") -> dict[str, str]:
    """Signature to `method_name`, e.g. `tensorflow/serving/predict`, of the meta graph with that tag. Raises
    `ValueError` for a file that is no SavedModel."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        data = memoryview(content)
        try:
            return _methods(data, tag)
        finally:
            data.release()


def _methods(data: memoryview, tag: str) -> dict[str, str]:
    for meta_graph in named(data, (0, len(data)), _META_GRAPHS):
        tags = [bytes(data[a:b]) for info in named(data, meta_graph, _META_INFO) for a, b in named(data, info, _TAGS)]
        if tag.encode() in tags:
            found = {}
            for entry in named(data, meta_graph, _SIGNATURE_DEF):
                name = "".join(_text(data, *part) for part in named(data, entry, _KEY))
                for value in named(data, entry, _VALUE):
                    found[name] = "".join(_text(data, *part) for part in named(data, value, _METHOD_NAME))
            return found
    return {}


def _text(data: memoryview, start: int, end: int) -> str:
    return bytes(data[start:end]).decode()
