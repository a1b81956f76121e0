"""What launcher, templates and workers need of Linux: dying with the parent, messages with descriptors, hygiene.

Standard library only: the launcher is to stay tiny.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

MAX_MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 4
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""
_LARGE_BYTES = 1024 * 1024
_M_TRIM_THRESHOLD = -1
_KEPT_BYTES = 8 * 1024 * 1024


def _prctl(option: int, value: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.c_ulong(value) if isinstance(value, int) else ctypes.c_char_p(value)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when the thread that started it ends. Ends it now if `parent` is gone already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def adopt_orphans() -> None:
    """Grandchildren whose parent ends become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def processor_seconds(pid: int) -> float:
    """That a process has used in its life, in all its threads. Raises `OSError` when there is none."""
    return time.clock_gettime((~pid << 3) | 2)  # the kernel's number for that clock, as clock_getcpuclockid makes it


def lower_priority(niceness: int) -> None:
    """Of the calling thread, which has a nice value of its own on Linux, to at least this one. An ordinary user can't
    raise a priority: a thread whose nice value is higher already, as its program was started or made nicer since,
    keeps it."""
    if os.getpriority(os.PRIO_PROCESS, 0) < niceness:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def run_when_idle() -> None:
    """The calling thread gets a processor only while nobody else wants it, and loses it at once to whoever does: one of
    low priority would first finish its slice, of some milliseconds. An ordinary user can't take it back. Where it isn't
    allowed, priorities stay as they are."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def give_memory_back() -> None:
    """What is as large as a client's body is given back to the system as soon as it is freed. The C library would learn
    from the first large ones to keep them, and fall to pieces over those that grow side by side.

    Some of what is smaller is kept: given back after each image and taken anew for the next, it comes as pages of zeros
    one by one, 235 for an image of 500 x 375 pixels."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have no such habit
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def trim_memory() -> None:
    """What was freed in small pieces, too."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def set_name(name: str) -> None:
    """What `ps` and `top` show, cut to 15 bytes."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def forbid_core_dumps() -> None:
    """A crashing model is not to fill the disk, nor to be slow about dying."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def await_adoption(adopter: int, between: int) -> None:
    """Returns once this process is a child of `adopter`: its parent, `between`, has ended. Ends this process if it went
    to somebody else, since `adopter` was gone first."""
    while os.getppid() == between:
        try:
            watch = os.pidfd_open(between)
        except ProcessLookupError:
            continue  # it ended between the two calls
        try:
            # Readable when the parent has ended; its children are handed over before that.
            select.select([watch], [], [])
        finally:
            os.close(watch)
    if os.getppid() != adopter:
        os._exit(0)


def arrange_descriptors(wanted: Sequence[int]) -> None:
    """Makes 0 an empty input, 1 and 2 and 3 … the given descriptors in this order, and closes all others."""
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, len(wanted) + 1) for descriptor in wanted]
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    for target, copy in enumerate(moved, start=1):
        os.dup2(copy, target, inheritable=True)
    os.closerange(len(wanted) + 1, _highest_descriptor() + 1)


def _highest_descriptor() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - no pathlib in the launcher


def send_message(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """One message on a SOCK_SEQPACKET socket. Raises `OSError` when the other side is gone."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are sent")
    socket.send_fds(connection, [data], list(descriptors), socket.MSG_NOSIGNAL)


def receive_message(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors (close-on-exec); None at the end. Raises `OSError`."""
    try:
        data, descriptors, flags, _ = socket.recv_fds(
            connection, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return None
    if not data:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError("a message or its descriptors were cut off")
    message = json.loads(data)
    if not isinstance(message, dict):
        raise OSError("a message that is no object")
    return message, list(descriptors)
