"""Artifacts that arrive after the Pods run: fetched from a web server and S3 into an emptyDir, pushed to a claim."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_rig import RESTRICTED, Document, Server, crd_file
from sources_rig import ACCESS_KEY, BUCKET, SECRET_KEY, Sources, fetcher_log
from windlass_lab.fixtures import COLLECTORS
from windlass_lab.testing.kubernetes import Helm, KindCluster, Namespace
from windlass_lab.testing.standing import StandingLab
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import BIN
from windlass_testing.pages import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

FETCHING = ("models.existingClaim=", "models.emptyDir.enabled=true", "fetcher.enabled=true")


@pytest.fixture(scope="module")
def space(kind_cluster: KindCluster) -> Iterator[Namespace]:
    """With Pod Security `restricted`."""
    space = Namespace(kind_cluster, f"artifacts-{secrets.token_hex(3)}")
    space.create({"pod-security.kubernetes.io/enforce": RESTRICTED.split("=")[1]})
    kind_cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd_file()))
    yield space
    space.delete()


@pytest.fixture(scope="module")
def helm(standing_lab: StandingLab, space: Namespace) -> Iterator[Helm]:
    """Helm 4; what it installed is uninstalled."""
    helm = Helm(standing_lab.helms()[4], 4, space)
    yield helm
    for release in ("fetched", "pushed", "windlass"):
        helm("uninstall", release, "--ignore-not-found")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 3 of the model, which no replica has: version v answers (v + 1) to 1."""
    folder = tmp_path_factory.mktemp("packed")
    for version in (1, 2, 3):
        affine_tflite(folder, "digits", version, 2, version - 1)
    return folder / "digits"


@pytest.fixture(scope="module")
def sources(
    space: Namespace,
    packed: Path,
    windlass_images: str,
    official_image: Callable[[str], str],
    load_image: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Sources:
    """Version 1 on the web server, version 2 in S3; version 3 is on the web server with a byte changed."""
    s3_image = official_image("s3")
    load_image(s3_image)
    sources = Sources(space, tmp_path_factory.mktemp("tls"), f"windlass-server:{windlass_images}-litert", s3_image)
    tampered = tmp_path_factory.mktemp("tampered") / "3"
    tampered.mkdir()
    for path in (packed / "3").iterdir():
        data = path.read_bytes()
        changed = bytes([data[-1] ^ 1]) if path.suffix == ".tflite" else data[-1:]
        (tampered / path.name).write_bytes(data[:-1] + changed)
    sources.start({"digits/1": packed / "1", "digits/3": tampered})
    sources.upload(packed / "2", "digits/2")
    return sources


@pytest.fixture(scope="module")
def operator(space: Namespace, helm: Helm, windlass_images: str, standing_lab: StandingLab) -> Server:
    """An operator that looks at this namespace."""
    server = Server(space, helm, windlass_images, standing_lab.home.shared)
    server.install_operator()
    return server


@pytest.fixture(scope="module")
def fetched(operator: Server, sources: Sources) -> Server:
    """Two replicas with an empty folder each; their fetcher knows no credentials for S3 yet."""
    server = Server(operator.space, operator.helm, operator.tag, operator.shared, name="fetched")
    server.values = [
        *FETCHING,
        "replicas=2",
        f"fetcher.allowedHosts={{{sources.web_host}}}",
        f"fetcher.s3.endpoint={sources.s3_endpoint}",
        "fetcher.caConfigMap=source-ca",
        "networkPolicy.fetchPorts={8443,7070}",
    ]
    server.install_server()
    until("both Pods run", lambda: len([p for p in server.pods() if p["status"]["phase"] == "Running"]) == 2)
    return server


@pytest.fixture(autouse=True)
def _kept_on_failure(space: Namespace, request: pytest.FixtureRequest) -> None:
    request.node.stash.setdefault(COLLECTORS, []).append(space.evidence)


def modelversion(server: Server, packed: Path, version: int, uri: str) -> dict[str, Any]:
    identity = {"server": server.name, "model": "digits", "version": version}
    artifact = {"uri": uri, "digest": read_manifest(packed / str(version)).digest}
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": f"digits-{version}"},
        "spec": {**identity, "artifact": artifact},
    }


def condition(server: Server, version: int, kind: str) -> dict[str, Any]:
    found = (each for each in server.status(version).get("conditions", ()) if each["type"] == kind)
    return next(found, {})


def wait_for_reason(server: Server, version: int, reason: str) -> str:
    """The message, once the files count as not fetched for that reason."""
    until(
        f"version {version} isn't fetched: {reason}",
        lambda: condition(server, version, "Fetched").get("reason") == reason,
        timeout=90,
        every=0.2,
    )
    assert condition(server, version, "Fetched")["status"] == "False"
    return str(condition(server, version, "Fetched")["message"])


def replicas(server: Server) -> list[Document]:
    """Those that are ready and aren't on their way out."""
    return server.space.ready_pods(f"windlass.dev/server={server.name}")


def ask(server: Server, expected: float) -> None:
    """Every replica answers so."""
    body = '{"instances": [[1.0]]}'
    program = (
        "import urllib.request as r; print(r.urlopen(r.Request('http://127.0.0.1:8000/v1/models/digits:predict',"
        f" {body!r}.encode(), {{'Content-Type': 'application/json'}})).read().decode())"
    )
    for pod in replicas(server):
        said = server.space.exec(pod["metadata"]["name"], "python", "-c", program, container="server")
        assert f"[[{expected}]]" in said.replace(" ", "").replace("\n", ""), said


def test_versions_go_live_from_the_web_and_from_s3_in_pods_that_run_already(
    fetched: Server, sources: Sources, packed: Path
) -> None:
    space = fetched.space
    before = {pod["metadata"]["uid"] for pod in fetched.pods()}
    space.apply(modelversion(fetched, packed, 1, f"https://{sources.web_host}/digits/1"))
    fetched.wait_for(1, "Serving", 120)
    ask(fetched, 2.0)

    space.apply(modelversion(fetched, packed, 2, f"s3://{BUCKET}/digits/2"))
    said = wait_for_reason(fetched, 2, "FetchDenied")
    assert "the fetcher has no credentials" in said
    assert "--s3-credentials-dir" in said
    ask(fetched, 2.0)
    assert {pod["metadata"]["uid"] for pod in fetched.pods()} == before

    # Bytes that are others than declared are refused, and named.
    space.apply(modelversion(fetched, packed, 3, f"https://{sources.web_host}/digits/3"))
    assert "digits/3/model.tflite has other bytes" in wait_for_reason(fetched, 3, "FileDigestMismatch")
    space.kubectl("delete", "modelversion", "digits-3")

    # With credentials, which are the Pod's: new Pods get the committed version first, and then the other.
    keys = (f"--from-literal=access-key-id={ACCESS_KEY}", f"--from-literal=secret-access-key={SECRET_KEY}")
    space.kubectl("create", "secret", "generic", "s3", *keys)
    chart = ROOT / "charts" / "windlass-server"
    options = fetched.server_options("fetcher.s3.existingSecret=s3")
    fetched.helm("upgrade", fetched.name, chart, *options, "--wait", "--timeout=240s")
    fetched.wait_for(2, "Serving", 120)
    ask(fetched, 3.0)
    assert len(replicas(fetched)) == 2
    for pod in replicas(fetched):
        name = pod["metadata"]["name"]
        text = space.kubectl("logs", name, "--all-containers")
        assert SECRET_KEY not in text
        assert {line.get("version") for line in fetcher_log(space, name) if line["event"] == "fetched"} >= {"digits/2"}
        with pytest.raises(Exception, match="Read-only file system"):
            space.exec(name, "python", "-c", "open('/models/x', 'w')", container="server")
    assert not any(fetched.restarts().values())


def test_a_pushed_version_is_rolled_out(
    operator: Server, packed: Path, kind_cluster: KindCluster, tmp_path: Path
) -> None:
    server = Server(operator.space, operator.helm, operator.tag, operator.shared, name="pushed")
    try:
        server.make_volume()
        # As a volume that is made for a claim: its root belongs to root, and the group that Pods ask for may write.
        os.chown(server.models, -1, 65532)
        server.models.chmod(0o2775)
        server.install_server("replicas=1")
        command = [str(BIN / "windlass"), "push", str(packed / "1"), "--server", "pushed"]
        command += ["--namespace", server.space.name]
        environment = os.environ | kind_cluster.environment
        for said in ("is verified and in its place", "is there already"):
            done = subprocess.run(
                [*command, "--namespace", server.space.name],
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, done.stderr
            assert said in done.stderr
            assert done.stdout.strip() == read_manifest(packed / "1").digest
        until("no Pod is left", lambda: not server.space.all_of("pods", "app.kubernetes.io/name=windlass-push"))
        document = modelversion(server, packed, 1, "volume://")
        document["metadata"]["name"] = "pushed-1"
        server.space.apply(document)
        until(
            "it serves",
            lambda: server.space.get("modelversion", "pushed-1").get("status", {}).get("phase") == "Serving",
            timeout=120,
        )
        ask(server, 2.0)
    finally:
        server.remove_volume()
