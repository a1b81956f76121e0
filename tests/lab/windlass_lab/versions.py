"""The lab's versions, read from `versions.toml`, and which of them are behind."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""tests/lab: the modules, image files and versions."""


@dataclass(frozen=True)
class Versions:
    """The content of `versions.toml`."""

    go: str
    toolchain_sums: dict[str, str]
    modules: dict[str, str]
    engine_reports: str
    debian: str
    python: str
    node: str
    extra_images: dict[str, str]
    suite: str
    mirror: str
    security_mirror: str

    @property
    def kubernetes(self) -> str:
        """Kubernetes' version with its v: "v1.35.4"."""
        return self.modules["k8s.io/kubernetes"]


def load(path: Path = ROOT / "versions.toml") -> Versions:
    """Reads `versions.toml`. Raises KeyError for a missing entry, which is a mistake in the tree."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    images = content["images"]
    return Versions(
        go=content["go"]["version"],
        toolchain_sums=content["go"]["toolchain_sums"],
        modules=content["modules"],
        engine_reports=content["engine"]["reports"],
        debian=images["debian"],
        python=images["python"],
        node=images["node"],
        extra_images=content["extra_images"],
        suite=images["suite"],
        mirror=images["mirror"],
        security_mirror=images["security_mirror"],
    )
