"""What is in the layers of an image, read from `docker save` as it comes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass, field
from typing import IO, Any, cast

from windlass_lab.testing.docker import DockerEngine

GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Entry:
    """One file, folder or link in a layer. `path` has no slash before it."""

    path: str
    mode: int
    user: int
    group: int
    size: int
    is_file: bool


@dataclass
class Layer:
    """One layer: its digest (as the image's configuration names it, uncompressed) and sizes in bytes."""

    digest: str
    compressed: int
    uncompressed: int
    entries: list[Entry] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.entries)


class _Counted:
    """A stream that counts and sums what is read through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.count, self.sum = stream, 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.count += len(data)
        self.sum.update(data)
        return data


def layers(engine: DockerEngine, image: str) -> list[Layer]:
    """The layers of an image, the base's first."""
    wanted: list[str] = engine.inspect(image)["RootFS"]["Layers"]
    found: dict[str, Layer] = {}
    with subprocess.Popen(
        ["docker", "save", image], stdout=subprocess.PIPE, env=os.environ | engine.environment
    ) as out:
        assert out.stdout is not None
        with tarfile.open(fileobj=out.stdout, mode="r|") as archive:
            for member in archive:
                if member.isfile() and member.size > 0:
                    content = archive.extractfile(member)
                    assert content is not None
                    layer = _layer(content, member.size)
                    if layer is not None:
                        found[layer.digest] = layer
    assert out.returncode == 0, f"docker save {image}"
    missing = [digest for digest in wanted if digest not in found]
    assert not missing, f"docker save {image} lacks {missing}"
    return [found[digest] for digest in wanted]


def _layer(content: IO[bytes], size: int) -> Layer | None:
    """The layer that a blob is; None for a manifest or configuration."""
    head = content.read(2)
    if head[:1] in (b"{", b"["):
        return None
    joined = cast("IO[bytes]", _Prefixed(head, content))
    plain = _Counted(cast("IO[bytes]", gzip.GzipFile(fileobj=joined)) if head == GZIP else joined)
    layer = Layer("", size, 0)
    with tarfile.open(fileobj=cast("IO[bytes]", plain), mode="r|") as archive:
        for each in archive:
            layer.entries.append(
                Entry(each.name.removeprefix("./"), each.mode, each.uid, each.gid, each.size, each.isfile())
            )
    while plain.read(1024 * 1024):
        pass
    layer.digest, layer.uncompressed = f"sha256:{plain.sum.hexdigest()}", plain.count
    return layer


class _Prefixed:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self.head, self.stream = head, stream

    def read(self, size: int = -1) -> bytes:
        if not self.head:
            return self.stream.read(size)
        taken = self.head if size < 0 else self.head[:size]
        self.head = self.head[len(taken) :]
        return taken if 0 <= size == len(taken) else taken + self.stream.read(size - len(taken) if size >= 0 else -1)


def configuration(engine: DockerEngine, image: str) -> dict[str, Any]:
    """`Config` of an image."""
    found: dict[str, Any] = json.loads(json.dumps(engine.inspect(image)["Config"]))
    return found
