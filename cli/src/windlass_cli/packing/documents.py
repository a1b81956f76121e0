"""The ModelVersion document of a packed version, as a person would write it."""

from __future__ import annotations

import re
from pathlib import Path

from windlass_cli.errors import UserError
from windlass_contract.document import DocumentError, dump_yaml, load_json
from windlass_contract.identifiers import API_VERSION
from windlass_contract.model_version import ModelVersion
from windlass_contract.samples import MAX_SAMPLES_BYTES, AcceptanceSamples


def object_name(model: str, version: int) -> str:
    """`metadata.name` of a version: a DNS name."""
    return f"{server_name(model)}-{version}"


def server_name(model: str) -> str:
    """The server that a model is for, unless one is named: a DNS label like it."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:50].rstrip("-") or "models"


def model_version_text(
    *, server: str, model: str, version: int, digest: str, samples: str = "", min_score: str = ""
) -> str:
    """YAML, ready to be put in the directory or applied. `samples`: a file's name. Raises `UserError`."""
    spec: dict[str, object] = {
        "server": server,
        "model": model,
        "version": version,
        "artifact": {"uri": "volume://", "digest": digest},
    }
    if samples:
        spec["verify"] = {"samples": {"file": samples, **({"minScore": min_score} if min_score else {})}}
    document = {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": object_name(model, version)},
        "spec": spec,
    }
    try:
        ModelVersion.parse(document, "the ModelVersion")
    except DocumentError as error:
        raise UserError(str(error)) from error
    return dump_yaml(document)


def check_samples(path: Path, signature_inputs: dict[str, list[str]]) -> str:
    """Reads acceptance samples and sees whether they go with the model's signatures (name to input names); gives what
    to tell of them. Raises `UserError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"--samples {path} can't be read: {error.strerror}") from error
    try:
        samples = AcceptanceSamples.parse(load_json(data, str(path), MAX_SAMPLES_BYTES), str(path))
    except DocumentError as error:
        raise UserError(f"--samples: {error}") from error
    inputs = signature_inputs.get(samples.signature)
    if inputs is None:
        raise UserError(
            f"--samples {path}: signature {samples.signature!r} isn't the model's; it has {sorted(signature_inputs)}"
        )
    for index, sample in enumerate(samples.samples):
        if sorted(sample.inputs) != sorted(inputs):
            raise UserError(
                f"--samples {path}: samples[{index}].inputs has {sorted(sample.inputs)}, "
                f"the model takes {sorted(inputs)}"
            )
    return f"{len(samples.samples)} acceptance samples"
