"""What the lab needs of Debian, where it builds things itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from windlass_lab.commands import run_long, succeeds
from windlass_lab.errors import LabError
from windlass_lab.home import Home
from windlass_lab.steps import Step

PACKAGES = {
    "ca-certificates": "this machine's certificates, also for the images",
    "debootstrap": "the root of the base image",
    "busybox-static": "the pause container and the storage helper",
    "gcc": "runc is partly C",
    "libc6-dev": "runc is partly C",
    "libseccomp-dev": "runc's seccomp filters",
    "pkg-config": "finds libseccomp",
    "git": "fetches sources that dockerd builds from",
    "iptables": "the engine's networks",
    "nftables": "the engine's networks",
    "iproute2": "the engine's networks",
    "conntrack": "kube-proxy's checks",
    "kmod": "kernel modules for overlay networks",
    "pigz": "faster layers",
    "tini": "docker run --init",
    "xz-utils": "debootstrap unpacks with it",
}
BOOTSTRAP_GO = "golang-go"
"""Debian's Go is too old to build with, but it can fetch the right one and check its sum."""


def needed(go_there: bool) -> list[str]:
    """The Debian packages that the lab needs, whether installed or not."""
    return sorted([*PACKAGES, *([] if go_there or shutil.which("go") else [BOOTSTRAP_GO])])


def missing(go_there: bool) -> list[str]:
    """Those of them that aren't installed. Raises `LabError` where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        raise LabError(
            "building the lab's tools needs Debian or Ubuntu (no dpkg here). Elsewhere install Docker with buildx and "
            "Compose, kind, kubectl and Helm, and run `make lab LAB=system`"
        )
    return [package for package in needed(go_there) if not _installed(package)]


def _installed(package: str) -> bool:
    listed = Path("/var/lib/dpkg/info")
    return any(
        (listed / name).exists() for name in (f"{package}.list", f"{package}:amd64.list", f"{package}:arm64.list")
    )


def step(home: Home, go_there: bool) -> Step:
    """Installs what is missing, as root; else says what a person with root has to install."""

    def act() -> None:
        lacking = missing(go_there)
        if os.geteuid() != 0:
            raise LabError(
                "root is needed to install Debian packages; do it yourself, or run `make lab` as root:\n"
                f"  sudo apt-get install --no-install-recommends {' '.join(lacking)}"
            )
        log = home.logs / "packages.log"
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run_long("apt-get", "update", "-q", log=log, environment=quiet)
        run_long("apt-get", "install", "-q", "-y", "--no-install-recommends", *lacking, log=log, environment=quiet)
        for package in lacking:
            if not succeeds("dpkg", "-s", package):
                raise LabError(f"apt-get installed {package} but dpkg doesn't know it; see {log}")

    return Step("Debian packages", lambda: not missing(go_there), act)
