"""One version, fetched from a real web server with TLS: what arrives is what was declared, or nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from windlass_contract.artifact import verify
from windlass_contract.canonical import digest_of
from windlass_contract.failures import Failure, Reason
from windlass_contract.fetching import OWN_FOLDER, lock_path, work_folder
from windlass_server.fetching.download import Bounds, BusyError, Wanted, download, remove_leftovers
from windlass_server.fetching.https_source import HttpsSource, allowed
from windlass_server.fetching.sources import FetchError
from windlass_testing import connections_closed
from windlass_testing.models import affine_tflite
from windlass_testing.web_folder import WebFolder, web_folder

BOUNDS = Bounds(max_bytes=1024**2, deadline=30)


class Rig:
    """A version `m/1` on the web server, and an empty folder of models."""

    def __init__(self, web: WebFolder, folder: Path) -> None:
        self.web = web
        self.models = folder / "models"
        (self.models / OWN_FOLDER).mkdir(parents=True)
        self.packed = web.root / "m" / "1"
        self.digest = digest_of(json.loads((self.packed / "manifest.json").read_text()))
        self.port = urlsplit(web.url).port
        self.progress: list[float] = []
        self.options = {"plain": False, "ca_file": web.ca_file, "netrc_file": None, "stall_seconds": 5.0}
        self.hosts: tuple[str, ...] = (f"localhost:{self.port}",)

    @property
    def place(self) -> Path:
        return self.models / "m" / "1"

    @property
    def work(self) -> Path:
        return self.models / work_folder(self.digest)

    def wanted(self) -> Wanted:
        return Wanted("m", 1, self.digest, f"{self.web.url}/m/1")

    def fetch(self, wanted: Wanted | None = None, bounds: Bounds = BOUNDS) -> None:
        source = HttpsSource(self.hosts, **self.options)
        connections_closed.run(download(self.models, wanted or self.wanted(), source, bounds, self.progress.append))

    def refused(self, wanted: Wanted | None = None, bounds: Bounds = BOUNDS) -> Failure:
        with pytest.raises(FetchError) as caught:
            self.fetch(wanted, bounds)
        assert not self.place.exists()
        return caught.value.failure

    def asked(self, name: str) -> list[str]:
        """The ranges asked for."""
        return [wanted for path, wanted in self.web.asked if path.endswith(name)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    root = tmp_path / "web"
    affine_tflite(root, "m", 1, 2.0, 0.0)
    with web_folder(root, tmp_path) as web:
        yield Rig(web, tmp_path)


def test_a_version_arrives_whole_and_nothing_is_left_beside(rig):
    rig.fetch()
    assert verify(rig.place, model="m", version=1, digest=rig.digest).digest == rig.digest
    assert (rig.progress[0], rig.progress[-1]) == (0.0, 1.0)
    assert not rig.work.exists()
    assert {each.stat().st_mode & 0o777 for each in rig.place.rglob("*") if each.is_file()} == {0o644}
    rig.web.asked.clear()
    rig.fetch()
    assert rig.web.asked == [], "what is there isn't asked for again"


def test_a_broken_connection_is_taken_up_where_it_ended(rig):
    rig.web.cut_after = 100
    assert rig.refused().reason is Reason.FETCH_FAILED
    rig.fetch()
    assert rig.asked("model.tflite") == ["", "bytes=100-"]
    verify(rig.place, model="m", version=1, digest=rig.digest)


def test_what_changed_since_an_attempt_is_fetched_anew(rig):
    rig.work.mkdir()
    (rig.work / "model.tflite").write_bytes(b"another file's beginning")
    assert "fetched anew" in rig.refused().message
    rig.fetch()
    verify(rig.place, model="m", version=1, digest=rig.digest)


def tampered(rig: Rig) -> None:
    path = rig.packed / "model.tflite"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def longer(rig: Rig) -> None:
    with (rig.packed / "model.tflite").open("ab") as file:
        file.write(b"more")


def manifest_changed(rig: Rig) -> None:
    path = rig.packed / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"producer": {"somebody": "else"}}))


def manifest_endless(rig: Rig) -> None:
    (rig.packed / "manifest.json").write_bytes(b" " * (5 * 1024 * 1024))


@pytest.mark.parametrize(
    ("how", "reason", "file"),
    [
        (tampered, Reason.FILE_DIGEST_MISMATCH, "model.tflite"),
        (longer, Reason.FILE_SIZE_MISMATCH, "model.tflite"),
        (manifest_changed, Reason.DIGEST_MISMATCH, "manifest.json"),
        (manifest_endless, Reason.MANIFEST_INVALID, "manifest.json"),
        (lambda rig: (rig.packed / "manifest.json").write_text("{"), Reason.MANIFEST_INVALID, "manifest.json"),
        (lambda rig: (rig.packed / "manifest.json").unlink(), Reason.NOT_FOUND, "manifest.json"),
        (lambda rig: (rig.packed / "model.tflite").unlink(), Reason.NOT_FOUND, "model.tflite"),
    ],
)
def test_other_bytes_than_declared_are_refused_by_name_and_never_put_in_place(rig, how, reason, file):
    how(rig)
    failure = rig.refused()
    assert (failure.gate, failure.reason, failure.file) == ("Fetch", reason, file)
    assert f"{rig.web.url}/m/1/{file}" in failure.message
    assert not failure.is_verdict


def test_a_repaired_file_arrives_at_the_next_attempt(rig):
    good = (rig.packed / "model.tflite").read_bytes()
    tampered(rig)
    rig.refused()
    (rig.packed / "model.tflite").write_bytes(good)
    rig.fetch()
    verify(rig.place, model="m", version=1, digest=rig.digest)


def test_no_other_file_is_asked_for_before_the_manifest_is_the_declared_one(rig):
    manifest_changed(rig)
    rig.refused()
    assert [path for path, _ in rig.web.asked] == ["/m/1/manifest.json"]


def test_another_models_manifest_is_refused(rig):
    folder = rig.web.root / "m" / "2"
    shutil.copytree(rig.packed, folder)
    wanted = Wanted("m", 2, rig.digest, f"{rig.web.url}/m/2")
    assert rig.refused(wanted).reason is Reason.MANIFEST_MISMATCH


def test_what_is_in_its_place_already_is_left_alone(rig):
    affine_tflite(rig.models, "m", 1, 9.0, 9.0)
    before = {path: path.read_bytes() for path in rig.place.rglob("*") if path.is_file()}
    with pytest.raises(FetchError) as caught:
        rig.fetch()
    assert caught.value.failure.reason is Reason.FETCH_NOT_ALLOWED
    assert "leaves alone" in str(caught.value)
    assert {path: path.read_bytes() for path in rig.place.rglob("*") if path.is_file()} == before


def test_a_half_copied_folder_is_left_alone_and_an_empty_one_is_filled(rig):
    rig.place.mkdir(parents=True)
    (rig.place / "model.tflite").write_bytes(b"half")
    with pytest.raises(FetchError, match="is taken by something that isn't this version"):
        rig.fetch()
    (rig.place / "model.tflite").unlink()
    rig.fetch()
    verify(rig.place, model="m", version=1, digest=rig.digest)


def test_bounds_are_kept_before_anything_is_fetched(rig):
    failure = rig.refused(bounds=Bounds(max_bytes=10, deadline=30))
    assert failure.reason is Reason.FETCH_NOT_ALLOWED
    assert "--max-bytes" in failure.message
    assert rig.asked("model.tflite") == []


def test_a_source_that_stalls_is_given_up(rig):
    rig.web.stall = True
    rig.options["stall_seconds"] = 0.3
    failure = rig.refused()
    assert failure.reason is Reason.FETCH_FAILED
    assert "nothing came for 0.3 s" in failure.message


def test_an_attempt_ends_at_its_deadline(rig):
    rig.web.stall = True
    failure = rig.refused(bounds=Bounds(max_bytes=1024**2, deadline=0.5))
    assert "isn't there after 0.5 s" in failure.message


def test_a_certificate_that_is_not_trusted_is_refused(rig):
    rig.options["ca_file"] = None
    failure = rig.refused()
    assert failure.reason is Reason.FETCH_FAILED
    assert "--source-ca-file" in failure.message


def test_hosts_that_are_not_allowed_are_never_asked(rig):
    rig.hosts = ("models.example.com", "localhost")
    failure = rig.refused()
    assert failure.reason is Reason.FETCH_NOT_ALLOWED
    assert "--allow-host (WINDLASS_ALLOW_HOST)" in failure.message
    assert rig.web.asked == []


def test_a_redirect_leads_only_to_allowed_hosts_and_its_address_is_not_told(rig):
    rig.web.redirects["/m/1/manifest.json"] = f"https://127.0.0.1:{rig.port}/m/1/manifest.json?signature=secret"
    failure = rig.refused()
    assert failure.reason is Reason.FETCH_NOT_ALLOWED
    assert "127.0.0.1" in failure.message
    assert "secret" not in failure.message
    rig.web.redirects["/m/1/manifest.json"] = "/elsewhere/manifest.json"
    shutil.copytree(rig.packed, rig.web.root / "elsewhere")
    rig.fetch()


def test_a_redirect_to_plain_http_and_one_in_a_circle_are_refused(rig):
    rig.web.redirects["/m/1/manifest.json"] = f"http://localhost:{rig.port}/m/1/manifest.json"
    assert "--allow-http" in rig.refused().message
    rig.web.redirects["/m/1/manifest.json"] = "/m/1/manifest.json"
    assert "more than 5 redirects" in rig.refused().message


def test_credentials_are_asked_for_given_to_their_host_alone_and_never_told(rig, tmp_path):
    rig.web.user = ("ada", "lovelace")
    failure = rig.refused()
    assert failure.reason is Reason.FETCH_DENIED
    assert "the fetcher has no credentials for localhost" in failure.message
    rig.options["netrc_file"] = tmp_path / "netrc"
    rig.options["netrc_file"].write_text("machine localhost login ada password wrong-one\n")
    failure = rig.refused()
    assert "doesn't take the credentials" in failure.message
    assert "wrong-one" not in failure.message
    rig.options["netrc_file"].write_text("machine localhost login ada password lovelace\n")
    rig.fetch()


def test_one_fetcher_of_a_volume_works_on_a_version(rig):
    with (rig.models / lock_path(rig.digest)).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            rig.fetch()
        rig.work.mkdir()
        remove_leftovers(rig.models, rig.digest)
        assert rig.work.exists(), "it is the other's"
    remove_leftovers(rig.models, rig.digest)
    assert not rig.work.exists()
    rig.fetch()


def test_folders_in_a_version_and_names_that_a_url_has_to_quote(rig):
    (rig.packed / "assets").mkdir()
    name, text = "assets/a b%25?#ü.txt", b"x"
    (rig.packed / name).write_bytes(text)
    manifest = json.loads((rig.packed / "manifest.json").read_text())
    entry = {"path": name, "size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    manifest["files"] = sorted([*manifest["files"], entry], key=lambda each: each["path"])
    (rig.packed / "manifest.json").write_text(json.dumps(manifest))
    rig.digest = digest_of(manifest)
    rig.fetch()
    verify(rig.place, model="m", version=1, digest=rig.digest)


@pytest.mark.parametrize(
    ("host", "port", "patterns", "answer"),
    [
        ("models.example.com", 443, ("models.example.com",), True),
        ("MODELS.example.com", 443, ("models.example.com",), True),
        ("models.example.com", 8443, ("models.example.com",), False),
        ("models.example.com", 8443, ("models.example.com:8443",), True),
        ("a.example.com", 443, ("*.example.com",), True),
        ("example.com", 443, ("*.example.com",), False),
        ("evil-example.com", 443, ("*.example.com",), False),
        ("a.example.com", 8443, ("*.example.com:8443",), True),
        ("169.254.169.254", 80, ("*.example.com",), False),
        ("anything", 1, ("*",), True),
        ("anything", 443, (), False),
    ],
)
def test_allowed_hosts(host, port, patterns, answer):
    assert allowed(host, port, patterns) is answer
