"""The answer to an inference request of the Open Inference Protocol v2, in JSON or with the binary extension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from windlass_server.hosting.hosting import Admission
from windlass_server.tensors import Tensor, datatype_of

from .exchange import JSON, Answer
from .oip_infer import Inference
from .oip_tensors import to_binary


def answer_inference(
    inference: Inference,
    outputs: Mapping[str, Tensor],
    texts: Mapping[str, bytes],
    admission: Admission,
    headers: Mapping[str, str],
) -> Answer:
    """The answer to a request. `texts`: the JSON of those outputs that aren't asked for in binary."""
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, binary in inference.outputs.items():
        tensor = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": str(datatype_of(tensor)), "shape": list(tensor.shape)}
        if binary:
            blobs.append(to_binary(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = orjson.Fragment(texts[name])
        entries.append(entry)
    document: dict[str, Any] = {"model_name": admission.model, "model_version": str(admission.version)}
    if inference.id is not None:
        document["id"] = inference.id
    document["outputs"] = entries
    text = orjson.dumps(document)
    if not blobs:
        return Answer(200, text, JSON, headers)
    return Answer(
        200,
        b"".join([text, *blobs]),
        "application/octet-stream",
        {**headers, "inference-header-content-length": str(len(text))},
    )
