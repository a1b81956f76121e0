"""`windlass push`: the Pod that it asks for, and what it does with it.

`kubectl` is a program of our own here, which runs the Pod's side as a process on a folder; on a real cluster:
tests/e2e/test_artifacts.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from windlass_cli.errors import UserError
from windlass_cli.pushing import pod_of
from windlass_contract.artifact import list_files, read_manifest, verify
from windlass_contract.fetching import OWN_FOLDER
from windlass_testing.models import affine_tflite
from windlass_testing.one_machine import BIN, wait_until

KUBECTL = """#!{python}
import json, os, subprocess, sys, time
folder = {folder!r}
arguments = [each for each in sys.argv[1:] if each not in ("--stdin",)]
assert arguments[:2] == ["--namespace", "vision"], arguments
verb, rest = arguments[2], arguments[3:]
with open(folder + "/calls", "a") as calls:
    calls.write(verb + "\\n")
if verb == "get" and rest[0] == "deployment":
    print(open(folder + "/deployment.json").read())
elif verb == "create":
    open(folder + "/pod.json", "w").write(sys.stdin.read())
elif verb == "exec":
    command = rest[rest.index("--") + 1:]
    environment = dict(os.environ, WINDLASS_MODELS=folder + "/volume")
    receiver = subprocess.Popen([sys.executable, *command[1:]], env=environment, stdin=subprocess.PIPE)
    while "--look" not in command and (data := sys.stdin.buffer.read1(65536)):
        try:
            receiver.stdin.write(data)
        except BrokenPipeError:
            break
        time.sleep(0.05 if os.path.exists(folder + "/slow") else 0)  # a slow line
    try:
        receiver.stdin.close()
    except BrokenPipeError:
        pass
    sys.exit(receiver.wait())
"""


CLAIM = {"persistentVolumeClaim": {"claimName": "m", "readOnly": True}}


def deployment(volume: dict[str, Any] | None = None, sub_path: str = "") -> dict[str, Any]:
    """As the chart makes it."""
    mount = {"name": "models", "mountPath": "/models", "readOnly": True} | ({"subPath": sub_path} if sub_path else {})
    return {
        "metadata": {"name": "cats"},
        "spec": {
            "template": {
                "spec": {
                    "securityContext": {"runAsUser": 65532, "fsGroup": 65532, "runAsNonRoot": True},
                    "imagePullSecrets": [{"name": "registry"}],
                    "containers": [
                        {
                            "name": "server",
                            "image": "windlass-server:1.2.3",
                            "imagePullPolicy": "Never",
                            "env": [{"name": "WINDLASS_MODELS", "value": "/models"}],
                            "securityContext": {"readOnlyRootFilesystem": True},
                            "volumeMounts": [{"name": "state", "mountPath": "/var/lib/windlass/server"}, mount],
                        }
                    ],
                    "volumes": [
                        {"name": "state", "emptyDir": {}},
                        {"name": "models"}
                        | (volume or {"persistentVolumeClaim": {"claimName": "m", "readOnly": True}}),
                    ],
                }
            }
        },
    }


def test_the_pod_has_the_servers_image_user_and_volume_and_nothing_else_of_it():
    pod = pod_of(deployment(sub_path="models"), "push-1")
    spec = pod["spec"]
    assert spec["volumes"] == [{"name": "models", "persistentVolumeClaim": {"claimName": "m"}}]
    (container,) = spec["containers"]
    assert container["image"] == "windlass-server:1.2.3"
    assert container["imagePullPolicy"] == "Never"
    assert container["volumeMounts"] == [{"name": "models", "mountPath": "/models", "subPath": "models"}]
    assert container["securityContext"] == {"readOnlyRootFilesystem": True}
    assert spec["securityContext"]["fsGroup"] == 65532
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] > 0
    assert "windlass.dev/server" not in pod["metadata"]["labels"], "no request and no plan may reach it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"volume": {"emptyDir": {}}}, "a folder of their own each"),
        ({"volume": {"image": {"reference": "models/digits:1"}}}, "are an image"),
        ({"container": "other"}, "no container `server`"),
        ({"place": "/elsewhere"}, "mounts no volume at /elsewhere"),
    ],
)
def test_where_there_is_nothing_to_push_to_it_says_so(change, said):
    given = deployment(change.get("volume"))
    (container,) = given["spec"]["template"]["spec"]["containers"]
    container["name"] = change.get("container", "server")
    container["env"][0]["value"] = change.get("place", "/models")
    with pytest.raises(UserError, match=said):
        pod_of(given, "push-1")


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volume = folder / "volume"
        self.volume.mkdir()
        (folder / "deployment.json").write_text(json.dumps(deployment()))
        (folder / "bin").mkdir()
        program = folder / "bin" / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        self.packed = affine_tflite(folder / "packed", "m", 1, 2.0, 0.0)

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        command = [str(BIN / "windlass"), "push", str(self.packed), "--server", "cats", "--namespace", "vision"]
        return subprocess.Popen(
            # As in a terminal: what a shell starts in the background ignores Ctrl-C, and so does what that starts.
            ["env", "--default-signal=INT", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def push(self) -> tuple[int, str, str]:
        process = self.start()
        stdout, stderr = process.communicate(timeout=120)
        return process.returncode, stdout, stderr

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_version_is_sent_verified_and_put_in_place_and_the_second_time_nothing_is_sent(rig):
    digest = read_manifest(rig.packed).digest
    code, stdout, stderr = rig.push()
    assert (code, stdout) == (0, f"{digest}\n"), stderr
    assert "m/1 is verified and in its place" in stderr
    verify(rig.volume / "m" / "1", model="m", version=1, digest=digest)
    assert rig.calls() == ["get", "create", "wait", "exec", "exec", "delete"]
    code, stdout, stderr = rig.push()
    assert (code, stdout) == (0, f"{digest}\n")
    assert "is there already" in stderr
    assert rig.calls()[6:] == ["get", "create", "wait", "exec", "delete"]


def test_other_files_under_the_same_number_are_left_alone(rig):
    affine_tflite(rig.volume, "m", 1, 2.0, 1.0)
    before = read_manifest(rig.volume / "m" / "1").digest
    code, _, stderr = rig.push()
    assert code == 1
    assert "holds other files" in stderr
    assert read_manifest(rig.volume / "m" / "1").digest == before
    assert rig.calls()[-1] == "delete"


def test_a_folder_that_was_never_packed_is_refused_before_anything_is_asked_for(rig):
    (rig.packed / "manifest.json").unlink()
    code, _, stderr = rig.push()
    assert code == 1
    assert "ManifestMissing" in stderr
    assert not (rig.folder / "calls").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_interrupted_neither_the_pod_nor_half_a_version_stays(rig, how):
    large = rig.packed / "zz"
    large.write_bytes(os.urandom(1024) * 16 * 1024)
    manifest = json.loads((rig.packed / "manifest.json").read_text())
    manifest["files"] += [entry.to_dict() for entry in list_files(rig.packed) if entry.path == "zz"]
    (rig.packed / "manifest.json").write_text(json.dumps(manifest))
    (rig.folder / "slow").touch()
    process = rig.start()
    own = rig.volume / OWN_FOLDER
    wait_until("the first bytes arrived", lambda: any(own.glob("*.part/*")) if own.exists() else False)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert rig.calls()[-1] == "delete"
    wait_until("what was received is removed", lambda: not list(own.glob("*.part")))
    assert not (rig.volume / "m" / "1").exists()
