"""What a worker is denied by the kernel, from before it opens a model to its end.

Each measure is a function of its own that takes effect or says why it can't: kernels and container runtimes differ. All
of them together are meant to be more than enough; none is relied on alone. They hold for the threads that are made
afterwards too, so they are taken while there is one. Nothing here needs a privilege, and what privileges there are go.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from windlass_server.hosting.seccomp import install_filter

IN_FORCE = "in force"
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_DUMPABLE = 4
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 2
_FILE_BYTES = 64 * 1024 * 1024
_OPEN_FILES = 4096

_COMMAND_LINE = "/proc/self/cmdline"

_libc = ctypes.CDLL(None, use_errno=True)

# Landlock: numbers that are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_FILE_RIGHTS_BY_VERSION = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_NETWORK_RIGHTS = 3  # bind and connect by TCP, since version 4
_SCOPES = 3  # abstract Unix sockets and signals, since version 6
_OF_FILES = 0x1 | 0x2 | 0x4 | 0x4000 | 0x8000  # execute, write, read, truncate, ioctl: what a rule for a file may say

_SYSTEM = (
    *("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"),
    *("/etc/localtime", "/dev/urandom", "/dev/random", "/dev/zero", "/proc/cpuinfo", "/proc/meminfo"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node"),
)
"""What Python, the C library and TensorFlow read of the system; nothing of it is secret."""


def confine(version: Path, scratch: Path) -> dict[str, str]:
    """Takes every measure that this kernel and container allow; measure to `in force`, or why it isn't. `version` is
    read, `scratch` is written, and nothing else. The process must have one thread."""
    measures: list[tuple[str, Callable[[], None]]] = [
        ("limits", limit_resources),
        ("network", leave_network),
        ("capabilities", drop_capabilities),
        ("noNewPrivileges", forbid_new_privileges),
        ("files", lambda: _restrict_to(version, scratch)),
        ("systemCalls", install_filter),  # last: it forbids what the others need
    ]
    return {name: _outcome(measure) for name, measure in measures}


def _restrict_to(version: Path, scratch: Path) -> None:
    # TensorFlow ends the process when it can't read its own command line. A rule is for an inode, and the kernel may
    # make another for the same file of /proc unless somebody holds it: so this is never closed.
    os.open(_COMMAND_LINE, os.O_PATH | os.O_CLOEXEC)
    restrict_files([*python_paths(), *map(Path, _SYSTEM), Path(_COMMAND_LINE), version], [scratch])


def lacking(report: dict[str, str]) -> dict[str, str]:
    """The measures that aren't in force."""
    return {name: outcome for name, outcome in report.items() if outcome != IN_FORCE}


def _outcome(measure: Callable[[], None]) -> str:
    try:
        measure()
    except OSError as error:
        return f"not in force: {error.strerror or error}"
    return IN_FORCE


def limit_resources() -> None:
    """No core dumps, few open files, no large file in the scratch. (Processes are counted per user by the kernel, not
    per worker: the filter of system calls denies them instead.)"""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = _FILE_BYTES if hard == resource.RLIM_INFINITY else min(hard, _FILE_BYTES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # Python ignores SIGXFSZ: a write then fails


def leave_network() -> None:
    """An empty network of its own: not even loopback is up. With a privilege directly, else by a user namespace."""
    try:
        _unshare(_CLONE_NEWNET | _CLONE_NEWIPC)
    except PermissionError:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)


def drop_capabilities() -> None:
    """Of a superuser only the right to read the version stays (its files may be another user's); of others nothing."""
    effective = _capabilities() & (1 << _CAP_DAC_READ_SEARCH) if os.geteuid() == 0 else 0
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = effective & 0xFFFFFFFF, effective >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    _check(_libc.capset(header, data), "capset")


def _capabilities() -> int:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data), "capget")
    words = struct.unpack("=6I", data.raw)
    return int(words[1]) | int(words[4]) << 32


def forbid_new_privileges() -> None:
    """No program that is run could gain any; Landlock and the filter ask for it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_from_others() -> None:
    """Of this process: what is in `/proc` of it, its memory and environment, is not for others of its user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def python_paths() -> list[Path]:
    """Where modules and their libraries are."""
    named = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path]
    named += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    # `/` itself would be everything.
    return sorted({path for name in named if name and (path := Path(name).resolve()) != Path("/")})


def restrict_files(readable: Sequence[Path], writable: Sequence[Path]) -> None:
    """Landlock: whatever isn't named can't be opened, nor `/proc`, nor what is mounted later. Raises `OSError`."""
    version = _check(_libc.syscall(_CREATE_RULESET, None, 0, _GET_VERSION), "Landlock")
    handled = _FILE_RIGHTS_BY_VERSION[min(version, 5)]
    attributes = struct.pack("=QQQ", handled, _NETWORK_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _check(_libc.syscall(_CREATE_RULESET, attributes[:size], size, 0), "Landlock")
    try:
        for path in readable:
            _allow(rules, path, _READ_FILE | _READ_DIR | _EXECUTE)
        for path in writable:
            _allow(rules, path, handled & ~_EXECUTE)
        _allow(rules, Path(os.devnull), _READ_FILE | _WRITE_FILE)
        _check(_libc.syscall(_RESTRICT_SELF, rules, 0), "Landlock")
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return  # what isn't there needn't be allowed
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        _check(
            _libc.syscall(_ADD_RULE, rules, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0), str(path)
        )
    finally:
        os.close(descriptor)


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl({option})")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
    return result
