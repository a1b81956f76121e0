"""Versions that are not there yet: a real fetcher brings them from a real web server, and they go live."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import yaml

from windlass_contract.artifact import read_manifest
from windlass_contract.fetching import OWN_FOLDER
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import BIN, OneMachine, Process, one_machine, wait_until
from windlass_testing.web_folder import WebFolder, web_folder

_numbers = itertools.count(1)


class Rig:
    """A model of the test's own, of which version v answers v + 1 to 1."""

    def __init__(self, machine: OneMachine) -> None:
        self.machine = machine
        self.model = f"fetched{next(_numbers)}"

    def name(self, version: int) -> str:
        """Of a version's ModelVersion."""
        return f"{self.model}-{version}"

    def answer(self) -> float:
        """The first replica's answer to 1."""
        replica = next(iter(self.machine.replicas.values()))
        answer = replica.predict(self.model, [[1.0]])
        assert answer.status_code == 200, answer.text
        return float(answer.json()["predictions"][0][0])

    def retire(self) -> None:
        """Gives the memory of the test's model back."""
        for path in self.machine.directory.glob(f"{self.model}-*.yaml"):
            document = yaml.safe_load(path.read_text())
            document["spec"]["state"] = "Retired"
            self.machine.apply(document, path.name)


@dataclass
class Fetching:
    """A machine, and a web server that has what the machine lacks."""

    machine: OneMachine
    web: WebFolder
    fetcher: Process

    def publish(self, rig: Rig, version: int) -> str:
        """Packs a version on the web server; gives its digest."""
        return read_manifest(affine_tflite(self.web.root, rig.model, version, 2.0, version - 1.0)).digest

    def uri(self, rig: Rig, version: int) -> str:
        return f"{self.web.url}/{rig.model}/{version}"

    def apply(self, rig: Rig, version: int, digest: str) -> str:
        """The ModelVersion with its address."""
        artifact = {"uri": self.uri(rig, version), "digest": digest}
        return self.machine.apply(self.machine.document(rig.model, version, digest, artifact=artifact))

    def wait_for(self, name: str, kind: str, status: str, reason: str) -> dict:
        """Waits for a condition, and gives it."""
        wait_until(
            f"{name} is {kind}={status} {reason}",
            lambda: (found := self.machine.condition(name, kind)).get("status") == status and found["reason"] == reason,
            last_seen=lambda: f"{self.machine.status(name)}\n{self.fetcher.tail()}",
        )
        return self.machine.condition(name, kind)


def fetcher_of(machine: OneMachine, web: WebFolder, *extra: str) -> Process:
    return Process(
        "fetcher",
        [
            str(BIN / "windlass-fetcher"),
            *("--server", machine.server, "--models", str(machine.models)),
            *("--operator", f"http://127.0.0.1:{machine.control_port}"),
            *("--control-token-file", str(machine.state / "tokens" / machine.server)),
            *("--allow-host", f"localhost:{urlsplit(web.url).port}", "--source-ca-file", str(web.ca_file)),
            *extra,
        ],
        machine.logs / "fetcher.log",
    )


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetching]:
    """An operator and two replicas; the fetcher isn't started yet."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "web").mkdir()
    with web_folder(folder / "web", folder) as web, one_machine(folder / "machine", replicas=2) as machine:
        fetcher = fetcher_of(machine, web)
        try:
            yield Fetching(machine, web, fetcher)
        finally:
            if fetcher.running:
                fetcher.stop()


@pytest.fixture
def rig(fetching: Fetching) -> Iterator[Rig]:
    rig = Rig(fetching.machine)
    yield rig
    rig.retire()


def test_without_a_fetcher_it_is_not_started_and_with_one_it_goes_live(fetching, rig):
    rig.machine.apply(rig.machine.document(rig.model, 1, read_manifest(
        affine_tflite(rig.machine.models, rig.model, 1, 2.0, 0.0)).digest))  # fmt: skip
    rig.machine.wait_for_phase(rig.name(1), "Serving")
    # The operator doesn't wait for a replica that comes after the commit.
    wait_until("both replicas serve it", lambda: all(each.ready() for each in rig.machine.replicas.values()))
    name = fetching.apply(rig, 2, fetching.publish(rig, 2))
    fetching.wait_for(name, "Fetched", "False", "NoFetcher")
    said = "spec.artifact.uri is https://, and on replica-1, replica-2 there is no fetcher"
    wait_until(
        "both replicas are named",
        lambda: said in rig.machine.condition(name, "Fetched")["message"],
        last_seen=lambda: rig.machine.status(name),
    )
    assert rig.answer() == 2.0
    fetching.fetcher.start()
    rig.machine.wait_until_ready(name)
    assert rig.answer() == 3.0
    assert rig.machine.condition(name, "Fetched")["status"] == "True"
    log = fetching.fetcher.log.read_text()
    assert '"event": "fetched"' in log
    assert rig.machine.state.joinpath("tokens", rig.machine.server).read_text().strip() not in log
    # The first model's files were there: nobody asked for them.
    assert {path.split("/")[2] for path, _ in fetching.web.asked} == {"2"}


def test_tampered_bytes_are_refused_by_name_the_old_version_serves_and_repair_is_enough(fetching, rig):
    if not fetching.fetcher.running:
        fetching.fetcher.start()
    fetching.apply(rig, 1, fetching.publish(rig, 1))
    rig.machine.wait_for_phase(rig.name(1), "Serving")
    digest = fetching.publish(rig, 2)
    path = fetching.web.root / rig.model / "2" / "model.tflite"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    name = fetching.apply(rig, 2, digest)
    message = fetching.wait_for(name, "Fetched", "False", "FileDigestMismatch")["message"]
    assert f"{fetching.uri(rig, 2)}/model.tflite has other bytes than when it was packed" in message
    assert rig.machine.condition(name, "Stalled")["status"] == "True"
    assert not (rig.machine.models / rig.model / "2").exists()
    assert rig.answer() == 2.0
    path.write_bytes(good)
    rig.machine.wait_until_ready(name)
    assert rig.answer() == 3.0


def test_a_withdrawn_version_leaves_nothing_behind(fetching, rig):
    if not fetching.fetcher.running:
        fetching.fetcher.start()
    fetching.apply(rig, 1, fetching.publish(rig, 1))
    rig.machine.wait_for_phase(rig.name(1), "Serving")
    digest = fetching.publish(rig, 2)
    own = rig.machine.models / OWN_FOLDER
    part = own / f"{digest.removeprefix('sha256:')}.part"
    fetching.web.stall = True
    try:
        name = fetching.apply(rig, 2, digest)
        wait_until("the first bytes came", lambda: part.exists() and any(part.iterdir()))
        fetching.wait_for(name, "Fetched", "False", "Fetching")
        (rig.machine.directory / f"{name}.yaml").unlink()
        wait_until("nothing is left", lambda: not part.exists(), last_seen=fetching.fetcher.tail)
    finally:
        fetching.web.stall = False
    assert [each.suffix for each in own.iterdir() if each.stem == part.stem] == [".lock"]
    assert (rig.machine.models / rig.model / "1" / "manifest.json").exists()


def test_a_replica_that_starts_anew_gets_the_committed_version_from_the_durable_plan_alone(fetching, rig, tmp_path):
    """As in a Pod whose volume is gone, while there is no operator."""
    if not fetching.fetcher.running:
        fetching.fetcher.start()
    fetching.apply(rig, 1, fetching.publish(rig, 1))
    rig.machine.wait_until_ready(rig.name(1))
    state = rig.machine.state / "servers" / f"{rig.machine.server}.json"
    plan = tmp_path / "state.json"
    shutil.copy(state, plan)
    models = tmp_path / "models"
    models.mkdir()
    alone = fetcher_of(rig.machine, fetching.web)
    arguments = list(alone.arguments)
    arguments[arguments.index("--models") + 1] = str(models)
    at = arguments.index("--operator")
    arguments[at : at + 4] = ["--plan-file", str(plan)]
    alone = Process("alone", arguments, tmp_path / "alone.log")
    alone.start()
    try:
        wait_until("it is there", (models / rig.model / "1" / "manifest.json").exists, last_seen=alone.tail)
        assert alone.stop() == 0
    finally:
        if alone.running:
            alone.stop()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    arguments = ["--server", "one", "--plan-file", "plan", "--allow-host", "*", "--models", str(tmp_path / "missing")]
    process = Process("fetcher", [str(BIN / "windlass-fetcher"), *arguments], tmp_path / "log")
    process.start()
    assert process.popen.wait(30) == 1
    assert re.search(r"the folder of models .*missing can't be written", process.tail())
