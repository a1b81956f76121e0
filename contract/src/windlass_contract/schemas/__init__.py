"""JSON Schemas of all documents, generated from the models and checked in: for editors, other languages and reviewers.

`python -m windlass_contract.schemas` writes them, with `--check` it only says what has drifted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from windlass_contract.control import PlanAnswer, ReportAnswer
from windlass_contract.decision import Decision
from windlass_contract.described import json_schema
from windlass_contract.document import Document
from windlass_contract.health import Health, HealthTimings
from windlass_contract.manifest import Manifest
from windlass_contract.model_version import ModelVersion, ModelVersionStatus
from windlass_contract.plan import ServingPlan
from windlass_contract.record import ServerState
from windlass_contract.report import ServingReport
from windlass_contract.samples import AcceptanceSamples

FOLDER = Path(__file__).parent
DOCUMENTS: tuple[type[Document], ...] = (
    AcceptanceSamples,
    Decision,
    Health,
    HealthTimings,
    Manifest,
    ModelVersion,
    ModelVersionStatus,
    PlanAnswer,
    ReportAnswer,
    ServerState,
    ServingPlan,
    ServingReport,
)


class _Generator(GenerateJsonSchema):
    """Without titles made from the fields' names, which say nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # pydantic's signature
        return False


def generate() -> dict[str, str]:
    """File name to content, the same on every machine."""
    files = {}
    for document in DOCUMENTS:
        schema = json_schema(document, _Generator)
        schema["$schema"] = _Generator.schema_dialect
        text = json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False)
        files[f"{document.__name__}.json"] = text + "\n"
    return files


def drifted(folder: Path = FOLDER) -> list[str]:
    """Names of the files that are missing, differ from the models, or belong to none; sorted."""
    expected = generate()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def write(folder: Path = FOLDER) -> list[str]:
    """Makes the files what they should be; returns the names of those that weren't."""
    changed = drifted(folder)
    expected = generate()
    for name in changed:
        if name in expected:
            (folder / name).write_text(expected[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed
