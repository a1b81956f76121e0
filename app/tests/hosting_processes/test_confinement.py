"""What the kernel denies a worker: tried in processes that are confined for it. And the list of operations against
TensorFlow's own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.client import pywrap_tf_session

from windlass_contract.operations import operation_list
from windlass_contract.saved_model_graph import meta_graphs
from windlass_server.hosting.confinement import IN_FORCE, lacking
from windlass_server.hosting.seccomp import program
from windlass_testing.store import built

_TRIAL = """
import ctypes, json, os, socket, sys, threading
from pathlib import Path
from windlass_server.hosting.confinement import confine
version, scratch, outside = map(Path, sys.argv[1:4])
if sys.argv[4] != "-":
    os.setgroups([])
    os.setresgid(*[int(sys.argv[4])] * 3)
    os.setresuid(*[int(sys.argv[4])] * 3)
report = confine(version, scratch)
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "denied")
def thread():
    each = threading.Thread(target=str)
    each.start()
    each.join()
def outcome(action):
    try:
        action()
        return "done"
    except (OSError, ImportError) as error:
        return type(error).__name__
trials = {
    "read the version": lambda: (version / "model").read_text(),
    "write the version": lambda: (version / "model").write_text("x"),
    "write the scratch": lambda: (scratch / "new").write_text("x"),
    "fill the scratch": lambda: (scratch / "large").write_bytes(bytes(65 * 1024 * 1024)),
    "read elsewhere": lambda: (outside / "secret").read_text(),
    "list elsewhere": lambda: os.listdir(outside),
    "write elsewhere": lambda: (outside / "new").write_text("x"),
    "read its environment": lambda: Path("/proc/self/environ").read_text(),
    "read its parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_text(),
    "read its command line": lambda: Path("/proc/self/cmdline").read_text(),
    "make a socket": socket.socket,
    "make a pair of sockets": socket.socketpair,
    "fork": os.fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "start a thread": thread,
    "change rights": lambda: os.chmod(version / "model", 0o777),
    "trace": lambda: call(101 if os.uname().machine == "x86_64" else 117, 16, os.getppid(), 0, 0),
    "make a namespace": lambda: call(272 if os.uname().machine == "x86_64" else 97, 0x10000000),
    "use io_uring": lambda: call(425, 1, 0),
    "import a module": lambda: __import__("colorsys"),
}
print(json.dumps({"report": report, "trials": {name: outcome(action) for name, action in trials.items()}}))
"""
ALLOWED = {
    "read the version",
    "write the scratch",
    "read its command line",
    "signal itself",
    "start a thread",
    "import a module",
}


@pytest.fixture(scope="module", params=["as this user", "as another user"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Report and outcomes; as another user, who has no privileges, where this one may become one."""
    folders = []
    base = tmp_path_factory.mktemp("confined")
    ours = itertools.takewhile(lambda parent: parent != Path(tempfile.gettempdir()), base.parents)
    for parent in (base, *ours):
        parent.chmod(0o755)
    for name in ("version", "scratch", "outside"):
        folder = base / name
        folder.mkdir()
        folder.chmod(0o777)
        folders.append(str(folder))
    (base / "version" / "model").write_text("m")
    (base / "outside" / "secret").write_text("hunter2")
    other = request.param == "as another user" and os.geteuid() == 0
    done = subprocess.run(
        [sys.executable, "-c", _TRIAL, *folders, "65534" if other else "-"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, str]] = json.loads(done.stdout)
    return result


def test_a_measure_that_is_in_force_denies_and_one_that_is_not_says_why(trial: dict[str, dict[str, str]]) -> None:
    report = trial["report"]
    assert set(report) == {"limits", "network", "capabilities", "noNewPrivileges", "files", "systemCalls"}
    assert all(why.startswith("not in force: ") for why in lacking(report).values())
    # Python itself may be where another user can't read.
    done = {name for name, outcome in trial["trials"].items() if outcome == "done"} | {"import a module"}
    assert done >= ALLOWED
    if report["files"] == IN_FORCE and report["systemCalls"] == IN_FORCE:
        assert done == ALLOWED


def test_the_filter_is_written_for_both_architectures_and_for_no_other() -> None:
    assert program("x86_64", 1) != program("aarch64", 1)
    assert len(program("x86_64", 1)) % 8 == 0
    with pytest.raises(OSError, match="no filter for riscv64"):
        program("riscv64", 1)


def test_every_operation_of_tensorflow_is_in_the_list() -> None:
    registered = op_def_pb2.OpList()
    registered.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    names = {op.name for op in registered.op if not op.name.startswith("_")}
    known = operation_list()
    listed = known.allowed | known.checked | known.refused.keys()
    assert names - listed == set(), "new in this TensorFlow: say in operations.txt what they may do"


def test_tensorflow_takes_no_function_with_the_name_of_an_operation() -> None:
    graph = tf.Graph().as_graph_def()
    function = graph.library.function.add()
    function.signature.name = "MatMul"
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="op with the same name already exists"):
        tf.graph_util.import_graph_def(graph)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("affine", {"scale": 0.5, "offset": 2.0, "ballast_mb": 0, "load_seconds": 0}),
        ("affine_v1", {"scale": 0.5, "offset": 2.0}),
        ("image_decoder", {}),
        ("crashing", {"at_load": False}),
    ],
)
def test_the_walker_sees_the_graphs_that_tensorflows_parser_sees(kind: str, parameters: dict[str, object]) -> None:
    content = (built(kind, **parameters) / "saved_model.pb").read_bytes()
    parsed = saved_model_pb2.SavedModel.FromString(content)
    walked = list(meta_graphs(memoryview(content)))
    assert len(walked) == len(parsed.meta_graphs)
    for ours, theirs in zip(walked, parsed.meta_graphs, strict=True):
        assert [(node.name, node.op) for node in ours.main.nodes] == [
            (node.name, node.op) for node in theirs.graph_def.node
        ]
        assert {name: [node.op for node in body.nodes] for name, body in ours.functions.items()} == {
            each.signature.name: [node.op for node in each.node_def] for each in theirs.graph_def.library.function
        }
        assert set(theirs.object_graph_def.concrete_functions) <= ours.named_functions
        assert ours.save_node == theirs.saver_def.save_tensor_name.partition(":")[0]
        assert ours.restore_node == theirs.saver_def.restore_op_name
