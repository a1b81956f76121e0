"""Starts the launcher's process. Standard library only: `windlass-server` does this before it imports what it serves
with, so that both go on beside each other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

from windlass_server.hosting.processes import send_message

_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL")
"""What Python and TensorFlow may need; nothing else of main's environment goes to launcher, templates and workers."""
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": os.defpath,
    "TF_CPP_MIN_LOG_LEVEL": "2",  # errors only: its warnings are about requests that clients are told about
}


@dataclass(frozen=True)
class StartedLauncher:
    """A launcher's process that nobody listens to yet. It ends with the thread that started it."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    """Main's end of what they talk over."""
    output: int
    """Descriptor that its stdout and stderr are read from."""

    def warm(self, runtime: str) -> None:
        """Has it make the runtime's template. One that is gone is noticed by whoever listens to it."""
        with contextlib.suppress(OSError):
            send_message(self.control, {"op": "warm", "runtime": runtime})


def start_launcher() -> StartedLauncher:
    """Raises `OSError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [
                sys.executable,
                "-I",
                "-m",
                "windlass_server.hosting.launcher_process",
                str(theirs.fileno()),
                str(os.getpid()),
            ],
            env={**_ENVIRONMENT, **environment},
            cwd="/",
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            # Ctrl-C reaches main alone, which then drains. A session of its own would do that too, but the kernel may
            # share its processors out by sessions: then what a worker prepares would not give way to main.
            process_group=0,
        )
    except OSError:
        ours.close()
        os.close(reading)
        raise
    finally:
        theirs.close()
        os.close(writing)
    return StartedLauncher(process, ours, reading)
