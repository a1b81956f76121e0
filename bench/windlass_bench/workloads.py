"""The workloads, how each is said on a server's wire, and whether the answer is right. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Wire = Literal["rows", "oip-json", "oip-binary", "jpeg", "multipart", "oip-base64", "oip-bytes"]

TITLES = {
    "W1": "a tiny model, one row of 32 numbers in JSON",
    "W1b": "the same row in the Open Inference Protocol's binary form",
    "W2": "one JPEG of 500 x 375 pixels, to a MobileNetV2 of 160 x 160 pixels and 1000 classes",
    "W3": "32 images of 160 x 160 pixels as one binary FP32 tensor (9.8 MB), to the same network",
}
MODEL_OF = {"W1": "tiny", "W1b": "tiny", "W2": "cnn", "W3": "cnn"}
TOP = 5
"""Classes in an answer to W2, as `POST /predict` gives them; every server is asked for as many."""
TOLERANCE = 1e-3
"""Largest difference of an answer's number from the model's own answer."""
_BOUNDARY = "windlass-bench-boundary"


@dataclass(frozen=True)
class Message:
    """A request, ready to be sent."""

    path: str
    body: bytes
    headers: dict[str, str]


def message(wire: Wire, path: str, tensor: Array, jpeg: bytes) -> Message:
    """The request on this wire."""
    match wire:
        case "rows":
            return _json(path, {"instances": tensor.tolist()})
        case "oip-json":
            return _json(path, {"inputs": [_described(tensor) | {"data": tensor.ravel().tolist()}]})
        case "oip-binary":
            return _binary(path, _described(tensor), tensor.tobytes())
        case "oip-bytes":
            entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES"}
            return _binary(path, entry, len(jpeg).to_bytes(4, "little") + jpeg)
        case "jpeg":
            return Message(path, jpeg, {"Content-Type": "image/jpeg"})
        case "multipart":
            head = (
                f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
                "Content-Type: image/jpeg\r\n\r\n"
            )
            body = head.encode() + jpeg + f"\r\n--{_BOUNDARY}--\r\n".encode()
            return Message(path, body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})
        case "oip-base64":
            text = base64.b64encode(jpeg).decode()
            entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
            return _json(path, {"inputs": [entry | {"parameters": {"content_type": "base64"}}]})


def _json(path: str, document: dict[str, Any]) -> Message:
    return Message(path, json.dumps(document).encode(), {"Content-Type": "application/json"})


def _binary(path: str, entry: dict[str, Any], raw: bytes) -> Message:
    entry = entry | {"parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    length = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Message(path, head + raw, length)


def _described(tensor: Array) -> dict[str, Any]:
    return {"name": "x", "shape": list(tensor.shape), "datatype": "FP32"}


def read_answer(content: bytes, headers: Mapping[str, str]) -> dict[str, Array]:
    """The numbers of an answer: `values`, or `index` and `score` of the best classes. Raises `ValueError`."""
    length = headers.get("inference-header-content-length")
    try:
        document = json.loads(content if length is None else content[: int(length)])
        if isinstance(document, list) or "outputs" not in document:
            rows = document if isinstance(document, list) else document["predictions"]
            if isinstance(rows[0], dict):
                return {name: np.array([row[name] for row in rows]) for name in ("index", "score")}
            return {"values": np.array(rows)}
        tail = memoryview(content)[len(content) if length is None else int(length) :]
        return _outputs(document["outputs"], tail)
    except (KeyError, TypeError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"an answer that isn't understood: {error!r} in {content[:200]!r}") from error


def _outputs(entries: list[dict[str, Any]], tail: memoryview) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for entry in entries:
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is None:
            flat = np.array(entry["data"])
        else:
            dtype = {"FP32": "<f4", "INT32": "<i4", "INT64": "<i8"}[entry["datatype"]]
            flat, tail = np.frombuffer(tail[:size], dtype=dtype), tail[size:]
        name = entry["name"] if entry["name"] in {"index", "score"} else "values"
        found[name] = flat.reshape(entry["shape"])
    return found


def difference(workload: str, answer: Mapping[str, Array], right: Array) -> float:
    """The largest difference of an answer's numbers from the model's own answer `right`. Raises `ValueError` when the
    best class or the shape is another."""
    if workload == "W2":
        best = np.argsort(-right[0], kind="stable")[:TOP]
        index = np.asarray(answer["index"]).ravel().astype(np.int64)
        if index.shape != (TOP,) or index[0] != best[0]:
            raise ValueError(f"the best classes are {best.tolist()}, the answer has {index.tolist()}")
        return float(np.abs(np.asarray(answer["score"]).ravel() - right[0][index]).max())
    values = np.asarray(answer["values"], dtype=np.float64)
    if values.shape != right.shape:
        raise ValueError(f"the answer has shape {list(values.shape)}, {list(right.shape)} is expected")
    return float(np.abs(values - right).max())
