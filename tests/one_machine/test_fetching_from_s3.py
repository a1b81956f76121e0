"""A real fetcher with a real S3 server (versitygw), by TLS with an authority of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from windlass_contract.artifact import read_manifest, verify
from windlass_contract.failures import Reason
from windlass_contract.fetching import FetchNote, note_path
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import ServerState
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import BIN, Process, free_port, wait_until
from windlass_testing.web_folder import certificates

pytestmark = pytest.mark.lab

ACCESS_KEY, SECRET_KEY = "windlass-reader", "a-secret-that-is-in-no-log"


@dataclass
class S3:
    """A server whose buckets are the folders below `root`."""

    endpoint: str
    root: Path
    ca_file: Path


@pytest.fixture(scope="module")
def s3(lab_command: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "root" / "models").mkdir(parents=True)
    made = certificates(folder, "localhost", "IP:127.0.0.1")
    port = free_port()
    server = subprocess.Popen(
        [
            str(lab_command("versitygw")),
            *("--port", f"127.0.0.1:{port}", "--cert", str(made.chain), "--key", str(made.key)),
            *("posix", str(folder / "root")),
        ],
        env=os.environ | {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield S3(f"https://localhost:{port}", folder / "root" / "models", made.authority)
    finally:
        server.terminate()
        server.wait(30)


@dataclass
class Rig:
    s3: S3
    folder: Path
    digest: str
    fetcher: Process | None = None

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def start(self, *extra: str, uri: str = "s3://models/m/1") -> None:
        """A fetcher that follows a plan which wants version 1 from `uri`."""
        self.models.mkdir(exist_ok=True)
        planned = PlannedVersion(version=1, digest=self.digest, uri=uri, weight=1000)
        plan = ServingPlan.build("one", 1, {"m": ModelPlan(versions=[planned], committed=1)})
        file = self.folder / "plan.json"
        file.write_text(ServerState(server="one", plan=plan).model_dump_json(by_alias=True, exclude_unset=True))
        self.fetcher = Process(
            "fetcher",
            [
                str(BIN / "windlass-fetcher"),
                *("--server", "one", "--models", str(self.models), "--plan-file", str(file)),
                *("--s3-endpoint", self.s3.endpoint, "--source-ca-file", str(self.s3.ca_file), *extra),
            ],
            self.folder / "fetcher.log",
        )
        self.fetcher.start()

    def keys(self, secret: str = SECRET_KEY) -> list[str]:
        """The option with credentials."""
        folder = self.folder / "keys"
        folder.mkdir(exist_ok=True)
        (folder / "access-key-id").write_text(ACCESS_KEY + "\n")
        (folder / "secret-access-key").write_text(secret + "\n")
        return ["--s3-credentials-dir", str(folder)]

    def waits_for_failure(self, reason: Reason, said: str) -> None:
        """Waits until the replicas would be told of that reason, in words with `said` in them."""

        def found() -> bool:
            path = self.models / note_path(self.digest)
            failure = FetchNote.parse_json(path.read_bytes(), "note").failure if path.exists() else None
            return failure is not None and failure.reason is reason and said in failure.message

        wait_until(f"the note says {reason}: {said}", found, last_seen=self.fetcher.tail)

    def arrives(self) -> None:
        place = self.models / "m" / "1"
        wait_until("it is there", (place / "manifest.json").exists, last_seen=self.fetcher.tail)
        verify(place, model="m", version=1, digest=self.digest)


@pytest.fixture
def rig(s3: S3, tmp_path: Path) -> Iterator[Rig]:
    shutil.rmtree(s3.root / "m", ignore_errors=True)
    rig = Rig(s3, tmp_path, read_manifest(affine_tflite(s3.root, "m", 1, 2.0, 0.0)).digest)
    try:
        yield rig
    finally:
        if rig.fetcher is not None and rig.fetcher.running:
            assert rig.fetcher.stop() == 0
            assert SECRET_KEY not in rig.fetcher.log.read_text()


def test_a_version_arrives_and_the_secret_is_in_no_log(rig):
    rig.start(*rig.keys())
    rig.arrives()


def test_without_credentials_it_says_so_and_goes_on_when_they_are_right(rig):
    rig.start()
    rig.waits_for_failure(Reason.FETCH_DENIED, "the fetcher has no credentials: give it some with --s3-credentials-dir")
    rig.fetcher.stop()
    rig.start(*rig.keys("another-secret"))
    rig.waits_for_failure(Reason.FETCH_DENIED, "doesn't take the fetcher's credentials")
    rig.keys()
    rig.arrives()


def test_a_tampered_object_is_refused_and_named(rig):
    path = rig.s3.root / "m" / "1" / "model.tflite"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    rig.start(*rig.keys())
    rig.waits_for_failure(Reason.FILE_DIGEST_MISMATCH, "s3://models/m/1/model.tflite has other bytes")
    assert not (rig.models / "m").exists()


def test_what_was_begun_is_gone_on_with(rig):
    work = rig.models / ".windlass-fetcher" / f"{rig.digest.removeprefix('sha256:')}.part"
    work.mkdir(parents=True)
    (work / "model.tflite").write_bytes((rig.s3.root / "m" / "1" / "model.tflite").read_bytes()[:100])
    rig.start(*rig.keys())
    rig.arrives()


def test_no_such_object_and_no_such_bucket_are_named(rig):
    rig.start(*rig.keys(), uri="s3://models/elsewhere")
    rig.waits_for_failure(Reason.NOT_FOUND, "s3://models/elsewhere/manifest.json")
    rig.fetcher.stop()
    rig.start(*rig.keys(), uri="s3://nowhere/m/1")
    rig.waits_for_failure(Reason.NOT_FOUND, "s3://nowhere/m/1/manifest.json")


def test_a_certificate_that_is_not_trusted_is_refused(rig, tmp_path):
    (tmp_path / "other").mkdir()
    other = certificates(tmp_path / "other", "localhost").authority
    rig.start(*rig.keys(), "--source-ca-file", str(other))
    rig.waits_for_failure(
        Reason.FETCH_FAILED, "isn't trusted (BadSignature); name its authority's with --source-ca-file"
    )
