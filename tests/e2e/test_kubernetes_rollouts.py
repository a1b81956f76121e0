"""Five replicas on the cluster: rollouts under load without a lost request, and bad versions that never answer."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median

import pytest
from cluster_rig import REPLICAS, Document, Server, constant_load
from windlass_lab.fixtures import COLLECTORS
from windlass_lab.testing.waiting import until

from windlass_contract.artifact import read_manifest
from windlass_contract.manifest import DataType, ModelFormat, Signature
from windlass_testing.evidence import measured
from windlass_testing.models import affine_tflite, spec, write_manifest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

LONG = [pytest.mark.soak, pytest.mark.timeout(3600)]
OVERHEAD_SECONDS = 2
"""From `kubectl apply` to the new version on every replica, beyond what the slowest took to load and warm it."""
COLUMN = spec(DataType.FP32, [-1, 1])
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def server(five_replicas: Server) -> Server:
    """Five replicas that serve."""
    return five_replicas


@pytest.fixture(autouse=True)
def _kept_on_failure(server: Server, request: pytest.FixtureRequest) -> None:
    request.node.stash.setdefault(COLLECTORS, []).append(server.space.evidence)


class Observer:
    """A Pod that asks each replica by its address all the time."""

    def __init__(self, server: Server) -> None:
        self.space = server.space
        addresses = ",".join(sorted(pod["status"]["podIP"] for pod in server.pods()))
        security = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        container = {
            "name": "observer",
            "image": f"windlass-server:{server.tag}-litert",
            "command": ["python", "-c", (Path(__file__).parent / "observe.py").read_text()],
            "env": [{"name": "ADDRESSES", "value": addresses}, {"name": "MODEL", "value": server.model}],
            "securityContext": security,
        }
        self.space.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "observer"},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            }
        )
        until("the observer has seen every replica", lambda: len(self.changes()) >= REPLICAS)

    def changes(self) -> list[Document]:
        """What it has seen so far."""
        return [json.loads(line) for line in self.space.kubectl("logs", "observer").splitlines()]

    def begun(self) -> dict[str, tuple[float, float]]:
        """For each version that every replica has answered with: when the first and when the last of them began to."""
        begun: dict[str, dict[str, float]] = defaultdict(dict)
        for change in self.changes():
            assert change["boot"] == BOOT, "the cluster is on another machine: its clock isn't this one"
            begun[change["version"]].setdefault(change["address"], change["at"])
        return {version: (min(at.values()), max(at.values())) for version, at in begun.items() if len(at) == REPLICAS}

    def end(self) -> None:
        """Removes the Pod."""
        self.space.kubectl("delete", "pod", "observer", "--wait=false")


def _preparations(server: Server) -> dict[int, float]:
    """For each version, the seconds from the plan that names it until the slowest replica had it loaded and warm."""
    slowest: dict[int, float] = {}
    for pod in server.pods():
        taken = None
        for line in server.space.kubectl("logs", pod["metadata"]["name"], "--container=server").splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            at = datetime.fromisoformat(said["timestamp"]) if "timestamp" in said else None
            if said.get("event") == "plan taken":
                taken = at
            elif said.get("event") == "version prepared" and taken is not None and at is not None:
                version, took = int(said["version"]), (at - taken).total_seconds()
                slowest[version] = max(took, slowest.get(version, 0))
    return slowest


@pytest.mark.parametrize(
    ("rollouts", "command"),
    [(10, "make e2e"), pytest.param(100, "make soak-lab", marks=LONG)],
)
def test_rollouts_under_load_lose_no_request_and_replicas_change_over_together(
    server: Server, rollouts: int, command: str
) -> None:
    first = server.next_version()
    last = first + rollouts - 1
    for version in range(first, last + 1):
        affine_tflite(server.models, server.model, version, version, version)
    observer = Observer(server)
    applied: dict[int, float] = {}
    with constant_load(server) as load:
        for version in range(first, last + 1):
            value = server.version(version)
            applied[version] = time.monotonic()
            server.space.apply(value)
            server.wait_for(version, "Serving")
    until("the observer saw the last version everywhere", lambda: str(last) in observer.begun())
    begun = observer.begun()
    observer.end()
    assert load.lost == []
    assert load.wrong == []
    assert load.steps_back() == []
    assert len({answer.instance for answer in load.answers}) >= 2, "the Service led to one replica only"
    assert set(applied) <= {int(version) for version in begun if version.isdigit()}
    apart = {version: begun[str(version)][1] - begun[str(version)][0] for version in applied}
    assert max(apart.values()) < 1, apart
    assert set(server.restarts().values()) == {0}
    took = {version: begun[str(version)][1] - at for version, at in applied.items()}
    prepared = _preparations(server)
    beyond = {version: took[version] - prepared[version] for version in applied}
    assert median(beyond.values()) <= OVERHEAD_SECONDS, (beyond, prepared)
    measured(
        "nothing-lost",
        f"{rollouts} rollouts InPlace on a kind cluster, {REPLICAS} replicas, constant load through the Service",
        f"0 of {len(load.answers)} requests lost, 0 answers from an older epoch; from kubectl apply until every "
        f"replica answers with the new version: median {median(took.values()):.1f} s, of which "
        f"{median(beyond.values()):.1f} s are more than the slowest took to load and warm it",
        command,
    )
    measured(
        "rollback",
        f"{rollouts} rollouts InPlace on a kind cluster, each of {REPLICAS} replicas asked by its address every 20 ms",
        f"replicas differ for {max(apart.values()):.2f} s at most",
        command,
    )


# --- bad versions ----------------------------------------------------------------------------------------------


def _good(server: Server, version: int) -> Path:
    return affine_tflite(server.models, server.model, version, version, version)


def half_copied(server: Server, version: int) -> tuple[str, Document]:
    """The manifest isn't there yet."""
    folder = _good(server, version)
    digest = read_manifest(folder).digest
    (folder / "manifest.json").unlink()
    return digest, {}


def truncated(server: Server, version: int) -> tuple[str, Document]:
    """The last byte of a file is missing."""
    folder = _good(server, version)
    model = next(folder.glob("*.tflite"))
    model.write_bytes(model.read_bytes()[:-1])
    return read_manifest(folder).digest, {}


def tampered(server: Server, version: int) -> tuple[str, Document]:
    """One byte differs."""
    folder = _good(server, version)
    model = next(folder.glob("*.tflite"))
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(bytes(data))
    return read_manifest(folder).digest, {}


def other_digest(server: Server, version: int) -> tuple[str, Document]:
    """The files are fine, and not the declared ones."""
    _good(server, version)
    return "sha256:" + "0" * 64, {}


def wont_load(server: Server, version: int) -> tuple[str, Document]:
    """No model at all; the manifest lists it as it is."""
    folder = _good(server, version)
    next(folder.glob("*.tflite")).write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 200)
    signatures = {"serving_default": Signature(inputs={"x": COLUMN}, outputs={"y": COLUMN})}
    return write_manifest(folder, server.model, version, signatures, format=ModelFormat.TFLITE).digest(), {}


def wrong_answers(server: Server, version: int) -> tuple[str, Document]:
    """It agrees with itself, and not with its owner."""
    samples = {"samples": [{"name": "one", "inputs": {"x": [1.0]}, "expect": {"values": [-1.0]}}]}
    data = {"samples.json": json.dumps(samples)}
    server.space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "accept"}, "data": data})
    return read_manifest(_good(server, version)).digest, {"verify": {"samples": {"configMap": "accept"}}}


def changed_signature(server: Server, version: int) -> tuple[str, Document]:
    """Its clients would have to read another output."""
    folder = affine_tflite(server.models, server.model, version, version, version, signatures=False)
    return read_manifest(folder).digest, {}


BAD: list[tuple[Callable[[Server, int], tuple[str, Document]], str, str]] = [
    (half_copied, "Stalled", "ManifestMissing"),
    (truncated, "Stalled", "FileSizeMismatch"),
    (tampered, "Stalled", "FileDigestMismatch"),
    (other_digest, "Stalled", "DigestMismatch"),
    (wont_load, "Quarantined", "LoadFailed"),
    (wrong_answers, "Quarantined", "AcceptanceFailed"),
    (changed_signature, "Quarantined", "SignatureChanged"),
]


def test_bad_versions_never_answer_and_condition_and_event_name_the_reason(server: Server) -> None:
    serving = server.committed()
    version = max(100, server.next_version())
    with constant_load(server, rate=20) as load:
        for build, phase, reason in BAD:
            version += 1
            digest, rest = build(server, version)
            server.space.apply(server.version(version, digest, **rest))
            status = server.wait_for(version, phase)
            reasons = {condition["reason"] for condition in status["conditions"]}
            assert reason in reasons, f"{build.__name__}: {reasons}"
            until(
                f"an Event about {build.__name__} names {reason}",
                lambda number=version, word=reason: _named(server, number, word),
            )
            server.space.kubectl("delete", "modelversion", f"digits-{version}", "--timeout=30s")
    assert load.lost == []
    assert {answer.version for answer in load.answers} == {str(serving)}
    assert set(server.restarts().values()) == {0}
    measured(
        "bad-artifacts",
        f"{len(BAD)} bad versions on a kind cluster, {REPLICAS} replicas, condition and Event name the reason",
        f"0 of {len(load.answers)} answers from them, no request lost, no container restarted",
        "make e2e",
    )


def _named(server: Server, version: int, reason: str) -> bool:
    return any(reason in f"{event['reason']} {event['message']}" for event in server.events(version))
