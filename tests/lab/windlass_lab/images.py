"""Base images out of Debian's packages, under the names of the official ones that can't be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from windlass_lab.commands import run, run_long
from windlass_lab.engine import image_labels
from windlass_lab.errors import LabError
from windlass_lab.home import Home
from windlass_lab.steps import Step, fingerprint
from windlass_lab.versions import ROOT, Versions

FINGERPRINT = "dev.windlass.lab.fingerprint"
"""The label of an image that holds the fingerprint of what went into it."""

SYSTEMD_ROOT = "windlass-lab/debian-systemd"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
IMAGES = ROOT / "images"


class Builder:
    """Builds images for the lab, each labelled with its fingerprint."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.environment = home.environment("built")

    def there(self, image: str, sums: str) -> bool:
        """Whether this image was made from exactly that."""
        return image_labels([image], self.environment).get(image, {}).get(FINGERPRINT) == sums

    def build(
        self,
        image: str,
        dockerfile: Path,
        context: Path,
        *,
        sums: str,
        target: str = "",
        log: str = "images",
        labels: dict[str, str] | None = None,
        contexts: dict[str, Path] | None = None,
        **arguments: str,
    ) -> None:
        """`docker build`. No attestations: containerd's import in the nodes stumbles over those of other platforms."""
        run_long(
            "docker",
            "build",
            "--progress=plain",
            "--provenance=false",
            f"--label={FINGERPRINT}={sums}",
            f"--tag={image}",
            f"--file={dockerfile}",
            *([f"--target={target}"] if target else []),
            *(f"--label={name}={value}" for name, value in (labels or {}).items()),
            *(f"--build-context={name}={folder}" for name, folder in (contexts or {}).items()),
            *(f"--build-arg={name.upper()}={value}" for name, value in arguments.items()),
            context,
            log=self.home.logs / f"{log}.log",
            environment=self.environment,
        )


def steps(home: Home, versions: Versions) -> list[Step]:
    """The base image, Python's, and the nodes' root."""
    builder = Builder(home)

    def base_sums() -> str:
        """Looked at when the step's turn comes: certificates may come with the packages."""
        if not CERTIFICATES.exists():
            raise LabError(f"{CERTIFICATES} isn't there; install ca-certificates")
        sources = (versions.debian, versions.suite, versions.mirror, versions.security_mirror)
        return fingerprint("debootstrap 2", *sources, CERTIFICATES)

    def derived_sums() -> str:
        return fingerprint(base_sums(), IMAGES / "base.Dockerfile")

    def derived(image: str, target: str) -> Step:
        def act() -> None:
            with tempfile.TemporaryDirectory() as empty:
                builder.build(
                    image,
                    IMAGES / "base.Dockerfile",
                    Path(empty),
                    sums=derived_sums(),
                    target=target,
                    base=versions.debian,
                )

        return Step(image, lambda: builder.there(image, derived_sums()), act)

    return [
        Step(
            versions.debian,
            lambda: builder.there(versions.debian, base_sums()),
            lambda: _debootstrap(home, versions, base_sums()),
        ),
        derived(versions.python, "python"),
        derived(SYSTEMD_ROOT, "systemd"),
    ]


def _debootstrap(home: Home, versions: Versions, sums: str) -> None:
    root = home.path / "partial" / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    run_long(
        "debootstrap",
        "--variant=minbase",
        "--include=ca-certificates,tzdata",
        versions.suite,
        root,
        versions.mirror,
        log=home.logs / "debootstrap.log",
    )
    _make_slim(root)
    main, security = f"deb {versions.mirror} {versions.suite}", f"deb {versions.security_mirror} {versions.suite}"
    sources = f"{main} main\n{main}-updates main\n{security}-security main\n"
    (root / "etc/apt/sources.list").write_text(sources, encoding="utf-8")
    shutil.copyfile(
        CERTIFICATES, root / str(CERTIFICATES).lstrip("/")
    )  # builds reach the package registries as this machine does
    environment = home.environment("built")
    with subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE) as archive:
        assert archive.stdout is not None
        imported = subprocess.run(
            [
                "docker",
                "import",
                "--change",
                'CMD ["bash"]',
                "--change",
                f"LABEL {FINGERPRINT}={sums}",
                "-",
                versions.debian,
            ],
            stdin=archive.stdout,
            capture_output=True,
            env={**os.environ, **environment},
            check=False,
        )
    if imported.returncode != 0 or archive.returncode != 0:
        raise LabError(f"docker import of {versions.debian} failed: {imported.stderr.decode(errors='replace')}")
    shutil.rmtree(root)


def _make_slim(root: Path) -> None:
    """Removes what Debian's slim images lack (manuals, caches), and keeps later packages from bringing it."""
    kept_out = "".join(f"path-exclude /usr/share/{folder}/*\n" for folder in ("doc", "info", "locale", "man"))
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(kept_out + "path-include /usr/share/doc/*/copyright\n")
    caches = 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    clean = 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n'
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(clean + caches)
    for folder in ("info", "locale", "man"):
        shutil.rmtree(root / "usr/share" / folder, ignore_errors=True)
    for pattern in ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*.log"):
        for file in root.glob(pattern):
            if file.is_file():
                file.unlink()


def pull(images: list[str], environment: dict[str, str], home: Home) -> list[Step]:
    """Where images can be pulled: the official ones."""

    def of(image: str) -> Step:
        return Step(
            image,
            lambda: image in image_labels([image], environment),
            lambda: run_long("docker", "pull", image, log=home.logs / "pull.log", environment=environment),
        )

    return [of(image) for image in images]


def can_pull(image: str, environment: dict[str, str]) -> str | None:
    """None when a registry gives the image's manifest (or the image is here); else why not, in one line."""
    if image in image_labels([image], environment):
        return None
    try:
        run("docker", "manifest", "inspect", image, environment=environment, timeout=40)
    except LabError as error:
        return str(error).strip().splitlines()[-1][:200]
    return None
