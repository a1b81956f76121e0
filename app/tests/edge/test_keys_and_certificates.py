"""A real `windlass-server` whose keys and certificates change while it serves."""

from __future__ import annotations

import io
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from windlass_server.tls import Tls, TlsFiles
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import OneMachine, wait_until

pytestmark = pytest.mark.hardening

BODY = {"instances": [[1.0]]}
KEY = "the-key-of-the-first-client"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key, chain = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    return chain, key


def test_keys_and_certificates_are_read_anew_while_it_serves(tmp_path):
    machine = OneMachine(tmp_path / "machine")
    affine_tflite(machine.models, "m", 1, 2, 0)
    keys, chain, key = tmp_path / "keys", tmp_path / "tls.pem", tmp_path / "tls.key"
    keys.write_text(f"{KEY}\n")
    first, second = certificate(tmp_path, "first"), certificate(tmp_path, "second")

    def install(pair: tuple[Path, Path]) -> None:
        for source, target in zip(pair, (chain, key), strict=True):
            part = target.with_suffix(".part")
            part.write_bytes(source.read_bytes())
            part.chmod(0o600)
            part.replace(target)

    install(first)
    replica = machine.add_replica(
        "edge", "--api-key-file", str(keys), "--tls-certificate-file", str(chain), "--tls-key-file", str(key),
        managed=False,
    )  # fmt: skip
    url = replica.url.replace("http://", "https://")

    def ask(pair: tuple[Path, Path], api_key: str, path: str = "/v1/models/m:predict") -> int:
        trust = ssl.create_default_context(cafile=str(pair[0]))
        try:
            return httpx.post(url + path, json=BODY, headers={"X-API-Key": api_key}, verify=trust).status_code
        except httpx.ConnectError as error:
            return -1 if "CERTIFICATE_VERIFY_FAILED" in str(error) else -2

    try:
        wait_until("it answers", lambda: ask(first, KEY) == 200, timeout=150, last_seen=replica.process.tail)
        assert ask(first, "a-key-that-isn't-one") == 401
        assert httpx.get(url + "/readyz", verify=ssl.create_default_context(cafile=str(first[0]))).status_code == 200
        with httpx.Client(verify=ssl.create_default_context(cafile=str(first[0])), headers={"X-API-Key": KEY}) as kept:
            assert kept.post(url + "/v1/models/m:predict", json=BODY).status_code == 200
            install(second)
            wait_until("the new certificate is shown", lambda: ask(second, KEY) == 200)
            assert ask(first, KEY) == -1
            assert kept.post(url + "/v1/models/m:predict", json=BODY).status_code == 200  # on its old connection
        key.write_text("no key")
        keys.write_text("")
        wait_until(
            "both are warned of",
            lambda: all(
                words in replica.process.log.read_text() for words in ("TLS certificate stays", "API keys stay")
            ),
        )
        assert ask(second, KEY) == 200
        install(first)
        keys.write_text("the-key-of-the-second-client\n")
        wait_until("both are new", lambda: ask(first, "the-key-of-the-second-client") == 200)
        assert ask(first, KEY) == 401
        log = replica.process.log.read_text()
        assert KEY not in log
        assert "everyone on this machine can read a secret" in log
    finally:
        machine.stop()


def test_old_protocols_are_refused(tmp_path):
    assert Tls(TlsFiles(*certificate(tmp_path, "only"))).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_file_of_keys_that_holds_none_is_said_at_the_start(tmp_path):
    machine = OneMachine(tmp_path)
    (tmp_path / "keys").write_text("short\n")
    replica = machine.add_replica("edge", "--api-key-file", str(tmp_path / "keys"), managed=False)
    assert replica.process.popen.wait(60) == 1
    assert "line 1 of the file of API keys" in replica.process.tail()
    assert io.StringIO(replica.process.tail()).readline().startswith("windlass-server: ")
