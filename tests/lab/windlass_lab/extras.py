"""What only some tests need, made when the first of them asks: images of other projects, and commands.

An image comes under its official name: pulled where that can be, else a stand-in from `stand-ins/<name>`, which says in
its label what it is. A command is the machine's own where the machine's tools are used, else built from its Go module.
"""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass
from pathlib import Path

from windlass_lab import tools
from windlass_lab.engine import image_labels
from windlass_lab.errors import LabError
from windlass_lab.home import Home, Mode
from windlass_lab.images import FINGERPRINT, Builder, pull
from windlass_lab.steps import Step, fingerprint, take
from windlass_lab.tools import Family, Go
from windlass_lab.versions import ROOT, Versions

STAND_IN = "dev.windlass.lab.stand-in"
"""The label of a stand-in that tells what it is."""


@dataclass(frozen=True)
class Image:
    """An image of another project. `is_really`: what stands in for it; `command`: what that is made around."""

    is_really: str
    command: str = ""


IMAGES = {
    "postgres": Image("PostgreSQL of Debian 12, which is 15"),
    "nginx": Image("nginx of Debian 12, which is 1.22"),
    "registry": Image("the registry, built from its module on a Debian root", "registry"),
    "sbom-scanner": Image("syft, built from its module, behind BuildKit's protocol for scanners", "syft"),
    "s3": Image("versitygw, built from its module on a Debian root", "versitygw"),
}
"""By the name that tests ask for; what they are called officially is in versions.toml."""


def commands(versions: Versions) -> dict[str, Family]:
    """The commands by the name that tests ask for."""
    of = versions.modules
    modules = {
        "registry": ("github.com/distribution/distribution/v3", "cmd/registry", "{module}/version.version"),
        "syft": ("github.com/anchore/syft", "cmd/syft", "main.version"),
        "kubeconform": ("github.com/yannh/kubeconform", "cmd/kubeconform", "main.version"),
        "helm-unittest": (
            "github.com/helm-unittest/helm-unittest",
            "cmd/helm-unittest",
            "{module}/internal/build.version",
        ),
        "kube-score": ("github.com/zegl/kube-score", "cmd/kube-score", "main.version"),
        "versitygw": ("github.com/versity/versitygw", "cmd/versitygw", "main.Version"),
    }
    return {
        name: Family(
            title=f"{name} {of[module]}",
            module=name,
            packages=(f"{module}/{package}",),
            stamps={stamp.format(module=module): of[module]},
            place="extras",
        )
        for name, (module, package, stamp) in modules.items()
    }


def names(versions: Versions) -> list[str]:
    """All that can be asked for."""
    return sorted({*IMAGES, *commands(versions)})


class Extras:
    """The extras of one lab that stands."""

    def __init__(self, home: Home, versions: Versions, mode: Mode) -> None:
        self.home, self.versions, self.mode = home, versions, mode
        self.environment = home.environment(mode)
        self.go = Go(home, versions)
        self.builder = Builder(home)
        self.families = commands(versions)

    def image(self, name: str) -> str:
        """Makes sure that an image is in the engine; gives its official name. Raises `LabError` for an unknown one."""
        self._make(self._image_steps(self._known(name, list(IMAGES))))
        return self.versions.extra_images[name]

    def command(self, name: str) -> Path:
        """Makes sure that a command is there, and gives its path. Raises `LabError` for an unknown one."""
        family = self.families[self._known(name, list(self.families))]
        machines = self._machines(name)
        if machines is not None:
            return machines
        self._make([self._family_step(family)])
        return tools.place_of(family, self.home) / name

    def steps(self, wanted: list[str]) -> list[Step]:
        """The steps that make all of these; each step once."""
        steps: dict[str, Step] = {}
        for name in wanted:
            self._known(name, names(self.versions))
            found = self._image_steps(name) if name in IMAGES else []
            if not found and self._machines(name) is None:
                found = [self._family_step(self.families[name])]
            steps |= {step.name: step for step in found}
        return list(steps.values())

    def _known(self, name: str, among: list[str]) -> str:
        if name not in among:
            raise LabError(f"the lab has no extra {name!r}; it has {', '.join(sorted(among))}")
        return name

    def _machines(self, name: str) -> Path | None:
        found = shutil.which(name) if self.mode == "system" else None
        return Path(found) if found else None

    def _make(self, steps: list[Step]) -> None:
        """Takes the steps that aren't done; runs of tests that ask at once wait for each other."""
        if all(step.done() for step in steps):
            return
        with (self.home.path / "extras.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            take(steps, self.home)

    def _family_step(self, family: Family) -> Step:
        step = tools.step(family, self.home, self.go)

        def act() -> None:
            if self.go.command() is None:
                raise LabError(
                    f"{family.module} is neither on the PATH nor can it be built without Go; install one of them"
                )
            step.act()

        return Step(step.name, step.done, act)

    def _image_steps(self, name: str) -> list[Step]:
        tag, image = self.versions.extra_images[name], IMAGES[name]
        if self.mode == "system":
            return pull([tag], self.environment, self.home)
        before = [self._family_step(self.families[image.command])] if image.command else []
        folder = ROOT / "stand-ins" / name

        def sums() -> str:
            base = image_labels([self.versions.debian], self.environment).get(self.versions.debian, {})
            note = tools.note(self.families[image.command], self.home) if image.command else None
            built = note.read_text(encoding="utf-8") if note is not None and note.is_file() else ""
            return fingerprint(folder, base.get(FINGERPRINT, ""), built, image.is_really)

        def act() -> None:
            self.builder.build(
                tag,
                folder / "Dockerfile",
                folder,
                sums=sums(),
                log=f"stand-in-{name}",
                labels={STAND_IN: image.is_really},
                contexts={"commands": self.home.extras} if image.command else {},
                base=self.versions.debian,
            )

        return [*before, Step(tag, lambda: self.builder.there(tag, sums()), act)]
