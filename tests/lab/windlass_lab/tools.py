"""The tools as Go modules: which commands come from which module, and how they are built.

One `go.mod` per family: their requirements collide, and `go install module@version` refuses modules that replace
others.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from windlass_lab.commands import run, run_long
from windlass_lab.errors import LabError
from windlass_lab.home import Home
from windlass_lab.steps import Step, fingerprint
from windlass_lab.versions import ROOT, Versions

OLDEST_GO = (1, 21)
"""Since then Go fetches the toolchain that a go.mod asks for by itself."""

_NAMED_AS = {"buildx": "docker-buildx", "v2/cmd": "docker-compose", "server/v3": "etcd", "v4/cmd/helm": "helm4"}
"""By the end of a package's path, where the command isn't called like the last part of it."""


@dataclass(frozen=True)
class Family:
    """Commands built together: packages of the module in `modules/<module>`."""

    title: str
    module: str
    packages: tuple[str, ...]
    stamps: dict[str, str] = field(default_factory=dict)  # Go variable: value
    place: str = (
        "libexec"  # bin: for people; plugins: Docker's client; cni: into the node image; extras: for some tests
    )
    cgo: bool = False
    tags: str = ""

    def commands(self) -> dict[str, str]:
        """The command's name for each package."""
        return {package: _command(package) for package in self.packages}


def _command(package: str) -> str:
    for ending, name in _NAMED_AS.items():
        if package.endswith("/" + ending):
            return name
    return package.rsplit("/", 1)[-1]


def families(versions: Versions) -> list[Family]:
    """Everything that is built, the longest first."""
    of = versions.modules
    component = "k8s.io/component-base/version"
    minor = of["k8s.io/kubernetes"].split(".")[1]
    kubernetes = {
        # without these kubeadm takes itself for v0.0.0
        f"{component}.gitVersion": of["k8s.io/kubernetes"],
        f"{component}.gitMajor": "1",
        f"{component}.gitMinor": minor,
        f"{component}.gitTreeState": "clean",
    }
    moby, containerd = "github.com/moby/moby/v2", "github.com/containerd/containerd/v2/cmd"
    daemons = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubeadm")
    cni = "github.com/containernetworking/plugins/plugins"
    return [
        Family(
            f"Kubernetes {of['k8s.io/kubernetes']}",
            "kubernetes",
            tuple(f"k8s.io/kubernetes/cmd/{name}" for name in daemons),
            kubernetes,
        ),
        Family(
            f"kubectl, kind {of['sigs.k8s.io/kind']}",
            "kubernetes",
            ("k8s.io/kubernetes/cmd/kubectl", "sigs.k8s.io/kind"),
            kubernetes,
            "bin",
        ),
        Family(f"etcd {of['go.etcd.io/etcd/server/v3']}", "etcd", ("go.etcd.io/etcd/server/v3",)),
        Family(f"CoreDNS {of['github.com/coredns/coredns']}", "coredns", ("github.com/coredns/coredns",)),
        Family("local-path provisioner", "local-path", ("github.com/rancher/local-path-provisioner",)),
        Family(
            "CNI plug-ins",
            "cni",
            tuple(f"{cni}/{name}" for name in ("ipam/host-local", "main/loopback", "main/ptp", "meta/portmap")),
            place="cni",
        ),
        Family(f"Helm {of['helm.sh/helm/v3']}", "helm3", ("helm.sh/helm/v3/cmd/helm",), _helm("v3", of), "bin"),
        Family(f"Helm {of['helm.sh/helm/v4']}", "helm4", ("helm.sh/helm/v4/cmd/helm",), _helm("v4", of), "bin"),
        Family(
            f"Docker Engine {versions.engine_reports} (moby {of[moby]})",
            "engine",
            (
                f"{moby}/cmd/dockerd",
                f"{moby}/cmd/docker-proxy",
                *(f"{containerd}/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")),
            ),
            {f"{moby}/dockerversion.Version": versions.engine_reports},
        ),
        Family(
            f"runc {of['github.com/opencontainers/runc']}",
            "engine",
            ("github.com/opencontainers/runc",),
            cgo=True,
            tags="seccomp",
        ),
        Family(
            f"Docker client {of['github.com/docker/cli'].removesuffix('+incompatible')}",
            "docker",
            ("github.com/docker/cli/cmd/docker",),
            {
                "github.com/docker/cli/cli/version.Version": of["github.com/docker/cli"]
                .removeprefix("v")
                .removesuffix("+incompatible")
            },
            "bin",
        ),
        Family(
            f"buildx {of['github.com/docker/buildx']}",
            "buildx",
            ("github.com/docker/buildx/cmd/buildx",),
            {"github.com/docker/buildx/version.Version": of["github.com/docker/buildx"]},
            "plugins",
        ),
        Family(
            f"Compose {of['github.com/docker/compose/v2']}",
            "compose",
            ("github.com/docker/compose/v2/cmd",),
            {"github.com/docker/compose/v2/internal.Version": of["github.com/docker/compose/v2"]},
            "plugins",
        ),
    ]


def _helm(major: str, of: dict[str, str]) -> dict[str, str]:
    return {f"helm.sh/helm/{major}/internal/version.version": of[f"helm.sh/helm/{major}"]}


class Go:
    """The Go command: the machine's, or one that the lab fetched as a Go module."""

    def __init__(self, home: Home, versions: Versions) -> None:
        self.home, self.versions = home, versions

    @staticmethod
    def _config() -> dict[str, str]:
        """Go would count its uses in the user's configuration, from a process that outlives it: here it doesn't count.

        What `go env -w` set (a proxy, say) is read from where it was.
        """
        users = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return {
            "XDG_CONFIG_HOME": str(ROOT / "go-config"),
            "GOENV": os.environ.get("GOENV") or str(users / "go" / "env"),
        }

    def environment(self) -> dict[str, str]:
        """Builds that don't depend on the machine; caches below the lab's folder unless they are set."""
        return self._config() | {
            "GOFLAGS": "-buildvcs=false -modcacherw",
            "GOTOOLCHAIN": "auto",
            "GOWORK": "off",
            "GOMODCACHE": os.environ.get("GOMODCACHE", str(self.home.path / "go" / "mod")),
            "GOCACHE": os.environ.get("GOCACHE", str(self.home.path / "go" / "cache")),
        }

    def command(self) -> Path | None:
        """The Go to build with: on the PATH or in its usual place, not older than `OLDEST_GO`; else the fetched one."""
        for place in (shutil.which("go"), "/usr/local/go/bin/go", self._fetched()):
            if place and Path(place).exists() and self._version(place) >= OLDEST_GO:
                return Path(place)
        return None

    def fetch(self) -> None:
        """Gets the pinned Go as a module by means of Debian's older one, which checks it against Go's sum database."""
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
        if architecture is None or architecture not in self.versions.toolchain_sums:
            raise LabError(
                f"no Go on the PATH, and none is pinned for {platform.machine()}; install Go {self.versions.go} from https://go.dev/dl"
            )
        module = f"golang.org/toolchain@v0.0.1-go{self.versions.go}.linux-{architecture}"
        with tempfile.TemporaryDirectory() as empty:
            answer = json.loads(
                run(
                    "go",
                    "mod",
                    "download",
                    "-json",
                    module,
                    environment=self.environment() | {"GOTOOLCHAIN": "local"},
                    folder=Path(empty),
                )
            )
        pinned = self.versions.toolchain_sums[architecture]
        if answer["Sum"] != pinned:
            raise LabError(f"{module} has the sum {answer['Sum']}, but versions.toml pins {pinned}")
        folder = Path(answer["Dir"])
        for file in [*folder.glob("bin/*"), *folder.glob("pkg/tool/*/*")]:
            file.chmod(file.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)  # modules carry no modes
        link = self._fetched()
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder / "bin" / "go")

    def _fetched(self) -> Path:
        return self.home.path / "go" / f"go{self.versions.go}"

    def _version(self, command: str | Path) -> tuple[int, ...]:
        found = re.search(
            r"go(\d+)\.(\d+)", run(command, "version", environment=self._config() | {"GOTOOLCHAIN": "local"})
        )
        return tuple(int(part) for part in found.groups()) if found else (0, 0)

    def module_folder(self, family_module: str, module: str) -> Path:
        """Where the source of a module lies, as pinned by one of the lab's go.mod files."""
        command = self.command()
        assert command is not None, "Go is found before anything is built"
        answer = run(
            command,
            "mod",
            "download",
            "-json",
            module,
            environment=self.environment(),
            folder=ROOT / "modules" / family_module,
        )
        return Path(json.loads(answer)["Dir"])


def place_of(family: Family, home: Home) -> Path:
    """The folder that a family's commands go to."""
    places = {"bin": home.bin, "libexec": home.libexec, "plugins": home.plugins, "extras": home.extras}
    return (places | {"cni": home.path / "cni"})[family.place]


def note(family: Family, home: Home) -> Path:
    """The file that holds the fingerprint of what a family was built from."""
    return home.done / f"tools-{family.module}-{fingerprint(*family.packages)[:6]}"


def step(family: Family, home: Home, go: Go) -> Step:
    """The step that builds a family; done when its commands are there, built from what its module folder holds now."""
    module = ROOT / "modules" / family.module
    sums = fingerprint(module, json.dumps([family.packages, family.stamps, family.cgo, family.tags]))
    kept = note(family, home)
    place = place_of(family, home)

    def done() -> bool:
        there = all(os.access(place / name, os.X_OK) for name in family.commands().values())
        return there and kept.is_file() and kept.read_text(encoding="utf-8") == sums

    def act() -> None:
        _build(family, home, go, place)
        kept.write_text(sums, encoding="utf-8")

    return Step(family.title, done, act)


def _build(family: Family, home: Home, go: Go, place: Path) -> None:
    command = go.command()
    assert command is not None, "Go is found before anything is built"
    place.mkdir(parents=True, exist_ok=True)
    beside = home.path / "partial" / f"{family.module}-{family.place}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    stamps = " ".join(f"-X {name}={value}" for name, value in family.stamps.items())
    run_long(
        command,
        "build",
        "-trimpath",
        *(["-tags", family.tags] if family.tags else []),
        "-ldflags",
        f"-s -w {stamps}".strip(),
        "-o",
        f"{beside}/",
        *family.packages,
        log=home.logs / f"build-{family.module}.log",
        environment=go.environment() | {"CGO_ENABLED": "1" if family.cgo else "0"},
        folder=ROOT / "modules" / family.module,
    )
    for package, name in family.commands().items():
        (beside / _built_as(package)).replace(place / name)
    shutil.rmtree(beside)


def _built_as(package: str) -> str:
    """What `go build` calls it: the last part of the path, or the one before a major version."""
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]
