"""A web server and a real S3 server as containers beside a Compose project, with TLS by an authority of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from image_kit import running
from sources_rig import ACCESS_KEY, BUCKET, S3_PORT, SECRET_KEY, WEB, WEB_PORT
from windlass_lab.testing.docker import DockerEngine

from windlass_testing.web_folder import certificates


@dataclass(frozen=True)
class ContainerSources:
    """`published` is what the web server has, `bucket` what is in S3. Containers of `network` find them by name."""

    published: Path
    bucket: Path
    authority: Path

    def settings(self) -> dict[str, str]:
        """What a fetcher in the Compose project is told of them, in .env."""
        return {
            "WINDLASS_ALLOW_HOST": f"web:{WEB_PORT}",
            "WINDLASS_S3_ENDPOINT": f"https://s3:{S3_PORT}",
            "WINDLASS_S3_CREDENTIALS_DIR": "/run/secrets/fetcher",
            "WINDLASS_SOURCE_CA_FILE": "/run/secrets/fetcher/ca.crt",
        }

    def give_credentials(self, folder: Path) -> None:
        """Puts what the settings name where the fetcher has it."""
        shutil.copy(self.authority, folder / "ca.crt")
        (folder / "access-key-id").write_text(f"{ACCESS_KEY}\n")
        (folder / "secret-access-key").write_text(f"{SECRET_KEY}\n")
        for path in folder.iterdir():
            path.chmod(0o644)

    def web_uri(self, model: str, version: int) -> str:
        """Of a version that is published there."""
        return f"https://web:{WEB_PORT}/{model}/{version}"

    def s3_uri(self, model: str, version: int) -> str:
        """Of a version in the bucket."""
        return f"s3://{BUCKET}/{model}/{version}"


@contextmanager
def container_sources(
    engine: DockerEngine, network: str, folder: Path, web_image: str, s3_image: str
) -> Iterator[ContainerSources]:
    """Both of them on that network. `web_image` has Python."""
    root = folder / "sources"
    for name in ("web", f"s3/{BUCKET}", "tls"):
        (root / name).mkdir(parents=True)
    made = certificates(root / "tls", "web", "s3")
    sources = ContainerSources(root / "web", root / "s3" / BUCKET, made.authority)
    common = ("--user=0:0", f"--network={network}")
    common += (f"--volume={made.chain}:/tls/tls.crt:ro", f"--volume={made.key}:/tls/tls.key:ro")
    with ExitStack() as stack:
        options = (*common, "--network-alias=web", f"--volume={root}/web:/srv:ro", "--entrypoint=python")
        stack.enter_context(running(engine, web_image, "-c", WEB, options=options))
        options = (*common, "--network-alias=s3", f"--volume={root}/s3:/srv")
        options += (f"--env=ROOT_ACCESS_KEY={ACCESS_KEY}", f"--env=ROOT_SECRET_KEY={SECRET_KEY}")
        arguments = ("--cert=/tls/tls.crt", "--key=/tls/tls.key", f"--port=:{S3_PORT}", "posix", "/srv")
        stack.enter_context(running(engine, s3_image, *arguments, options=options))
        yield sources
