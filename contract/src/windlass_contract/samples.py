"""Acceptance samples: inputs and the answers that the model's owner expects."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from .document import StrictDocument

MAX_SAMPLES_BYTES = 1024 * 1024


class Expectation(StrictDocument):
    """What the answer has to be: the class with the highest score, or values within a tolerance."""

    class_index: Annotated[int, Field(ge=0, strict=True)] | None = None
    class_name: str | None = None
    """By the manifest's `classes`."""
    min_score: float | None = None
    """The expected class has at least this score."""
    output: str | None = None
    """Which output to look at; may be left out when there is one."""
    values: Any = None
    """The output itself, nested lists without the batch dimension."""
    rtol: Annotated[float, Field(ge=0)] = 1e-3
    atol: Annotated[float, Field(ge=0)] = 1e-4

    @model_validator(mode="after")
    def _one_kind(self) -> Expectation:
        if sum(given is not None for given in (self.class_index, self.class_name, self.values)) != 1:
            raise ValueError("exactly one of classIndex, className and values is expected")
        if self.min_score is not None and self.values is not None:
            raise ValueError("minScore goes with classIndex or className")
        return self


class AcceptanceSample(StrictDocument):
    """One input with its expected answer."""

    name: Annotated[str, Field(max_length=256)] = ""
    inputs: dict[str, Any]
    """Input name to value, nested lists without the batch dimension; bytes as {"b64": "…"}."""
    expect: Expectation


class AcceptanceSamples(StrictDocument):
    """The file: samples of one signature."""

    signature: str = "serving_default"
    samples: Annotated[list[AcceptanceSample], Field(min_length=1, max_length=10_000)]
