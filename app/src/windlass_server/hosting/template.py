"""A template: a process that has imported a runtime and done nothing more, and forks workers from that state.

Forking saves each version the import's seconds, and most of its memory is shared with the template. It is safe because
nothing runs here: no operation was run (TensorFlow makes its thread pools at the first one), one thread only (checked
before each fork; numpy's BLAS is told not to make its own), and the worker's life begins in the child.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from windlass_server.hosting.confinement import confine
from windlass_server.hosting.memory_reading import prepare_to_measure
from windlass_server.hosting.processes import (
    arrange_descriptors,
    await_adoption,
    die_with_parent,
    receive_message,
    send_message,
    set_name,
)

_CHANNEL = 3
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run(descriptor: int, runtime: str, launcher: int) -> NoReturn:
    """The whole life of a template, just forked from the launcher. Never returns, nor raises into its caller."""
    try:
        die_with_parent(launcher)
        set_name(f"windlass-{runtime}")
        arrange_descriptors([1, 2, descriptor])
        connection = socket.socket(fileno=_CHANNEL)
        started = time.monotonic()
        gc.disable()  # modules are not garbage: looking for some takes a sixth of the time that importing them does
        run_worker = _import(runtime)
        gc.collect()
        gc.freeze()  # the collector would write into every object's header, and unshare its page
        gc.enable()
        send_message(connection, {"op": "ready", "runtime": runtime, "seconds": time.monotonic() - started})
        while (received := receive_message(connection)) is not None:
            message, descriptors = received
            pid = _fork(message, descriptors, run_worker, launcher)
            for received_descriptor in descriptors:
                os.close(received_descriptor)
            send_message(connection, {"op": "forked", "id": message["id"], "pid": pid})
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a fork must not run on in its parent's code
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _import(runtime: str) -> Callable[[socket.socket, str, dict[str, Any]], NoReturn]:
    for name in _THREAD_SETTINGS:
        os.environ[name] = "1"
    if runtime == "helpers":
        from windlass_server.hosting import helper_process

        helper_process.prepare()
        return helper_process.run
    from windlass_server.hosting import worker
    from windlass_server.runtimes import import_runtime

    import_runtime(runtime)
    return worker.run


def _fork(
    message: dict[str, Any],
    descriptors: list[int],
    run_worker: Callable[[socket.socket, str, dict[str, Any]], NoReturn],
    launcher: int,
) -> int:
    """Forks a worker that is a child of the launcher: through a process in between that ends at once. Returns the
    worker's id. Raises `OSError`."""
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads != 1:
        raise RuntimeError(f"a template must have one thread to be forked, it has {threads}")
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.write(writing, pid.to_bytes(4, "little"))
            os._exit(0)
        _become_worker(message, descriptors, run_worker, launcher, parent)
    os.close(writing)
    data = os.read(reading, 4)
    os.close(reading)
    os.waitpid(between, 0)
    if len(data) != 4:
        raise OSError("the worker could not be forked")
    return int.from_bytes(data, "little")


def _become_worker(
    message: dict[str, Any],
    descriptors: list[int],
    run_worker: Callable[[socket.socket, str, dict[str, Any]], NoReturn],
    launcher: int,
    between: int,
) -> NoReturn:
    try:
        await_adoption(launcher, between)
        die_with_parent(launcher)
        channel, output = descriptors
        arrange_descriptors([output, output, channel])
        set_name("windlass-worker")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        scratch = message["argument"]["scratch"]
        os.chdir(scratch)
        for name in ("HOME", "TMPDIR"):
            os.environ[name] = scratch
        prepare_to_measure()  # while /proc is in reach
        confinement = confine(Path(message["argument"]["path"]), Path(scratch))
        die_with_parent(launcher)  # the kernel forgets it when privileges change
        run_worker(
            socket.socket(fileno=_CHANNEL), message["runtime"], {**message["argument"], "confinement": confinement}
        )
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)
