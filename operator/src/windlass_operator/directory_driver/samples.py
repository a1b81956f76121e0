"""Acceptance samples on a directory: a file beside the ModelVersion's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.document import DocumentError, load_json, load_yaml
from windlass_contract.model_version import AcceptanceSource
from windlass_contract.samples import MAX_SAMPLES_BYTES, AcceptanceSamples

from .files import FileProblemError, read_bounded


@dataclass(frozen=True)
class Samples:
    """What is there of the samples that a ModelVersion asks for."""

    digest: str | None = None
    data: bytes = b""
    problem: str = ""
    """Why they can't be had; then `digest` is None."""


NO_SAMPLES = Samples()


@dataclass
class SamplesReader:
    """Reads samples files; what was valid once isn't checked again."""

    folder: Path
    _problems: dict[str, str] = field(default_factory=dict)
    """By digest of the bytes; empty: none."""

    def read(self, source: AcceptanceSource | None) -> Samples:
        """The samples that `source` names. Blocks."""
        if source is None:
            return NO_SAMPLES
        if source.uri is not None:
            return Samples(
                problem="spec.verify.samples.uri isn't supported on a directory: "
                "put the file beside the ModelVersion and name it in spec.verify.samples.file"
            )
        name = source.file if source.file is not None else f"{source.config_map}.json"
        path = self.folder / name
        try:
            data = read_bounded(path, MAX_SAMPLES_BYTES)
        except FileNotFoundError:
            return Samples(problem=f"there is no samples file {path}; put it there")
        except FileProblemError as error:
            return Samples(problem=f"{path}: {error}")
        digest = digest_of_bytes(data)
        if source.digest is not None and digest != source.digest:
            return Samples(
                problem=f"{path} has digest {digest}, spec.verify.samples.digest is {source.digest}: "
                "put the file there that it was made from"
            )
        problem = self._check(digest, data, str(path))
        return Samples(problem=problem) if problem else Samples(digest, data)

    def _check(self, digest: str, data: bytes, source: str) -> str:
        if digest not in self._problems:
            if len(self._problems) > 1000:
                self._problems.clear()
            try:
                is_json = data.lstrip()[:1] == b"{"
                load = load_json if is_json else load_yaml  # people write both; JSON is read a hundred times faster
                AcceptanceSamples.parse(load(data, source, MAX_SAMPLES_BYTES), source)
                self._problems[digest] = ""
            except DocumentError as error:
                self._problems[digest] = str(error)[:2000]
        return self._problems[digest]
