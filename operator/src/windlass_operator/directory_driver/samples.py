"""Acceptance samples on a directory: a file beside the ModelVersion's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from windlass_contract.model_version import AcceptanceSource
from windlass_contract.samples import MAX_SAMPLES_BYTES
from windlass_operator.driving.samples import NO_SAMPLES, Samples, SamplesChecker

from .files import FileProblemError, read_bounded


@dataclass
class SamplesReader:
    """Reads samples files."""

    folder: Path
    _checker: SamplesChecker = field(default_factory=SamplesChecker)

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
        return self._checker.check(data, str(path), source.digest)
