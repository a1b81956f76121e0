"""Acceptance samples, once their bytes are read from wherever they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.document import DocumentError, load_json, load_yaml
from windlass_contract.samples import MAX_SAMPLES_BYTES, AcceptanceSamples

_REMEMBERED = 1000


@dataclass(frozen=True)
class Samples:
    """What is there of the samples that a ModelVersion asks for."""

    digest: str | None = None
    data: bytes = b""
    problem: str = ""
    """Why they can't be had; then `digest` is None."""


NO_SAMPLES = Samples()


@dataclass
class SamplesChecker:
    """Checks samples; what was valid once isn't checked again."""

    _problems: dict[str, str] = field(default_factory=dict)
    """By digest of the bytes; empty: none."""

    def check(self, data: bytes, source: str, expected: str | None) -> Samples:
        """The samples in `data`, which came from `source` and whose digest the ModelVersion says is `expected`."""
        digest = digest_of_bytes(data)
        if expected is not None and digest != expected:
            return Samples(
                problem=f"{source} has digest {digest}, spec.verify.samples.digest is {expected}: "
                "put the file there that it was made from"
            )
        if digest not in self._problems:
            if len(self._problems) > _REMEMBERED:
                self._problems.clear()
            self._problems[digest] = _problem(data, source)
        problem = self._problems[digest]
        return Samples(problem=problem) if problem else Samples(digest, data)


def _problem(data: bytes, source: str) -> str:
    try:
        is_json = data.lstrip()[:1] == b"{"
        load = load_json if is_json else load_yaml  # people write both; JSON is read a hundred times faster
        AcceptanceSamples.parse(load(data, source, MAX_SAMPLES_BYTES), source)
    except DocumentError as error:
        return str(error)[:2000]
    return ""
