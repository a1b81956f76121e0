#!/usr/local/bin/python3 -IS
"""`windlass-health PROGRAM`: asks the program in this container for its health; what HEALTHCHECK runs.

Exit code 0 when it answers 200, else 1; its answer, or why there is none, goes to the output, which the engine keeps.
PROGRAM is `windlass-server` or `windlass-operator`. Where it listens is read from its settings, as it reads them
itself: from the command line of the container's first process, else from the environment, else the default. It runs
every few seconds beside the models, so that it imports next to nothing: with the modules of a web client it would take
twice as long. TLS is spoken without checking the certificate: it is asked by its address, and nothing secret is sent.
"""

from __future__ import annotations

import os
import socket
import sys

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = 2.5  # seconds in all, shorter than HEALTHCHECK's own, so that the reason is still said
MOST = 16384  # bytes of an answer that are read; the engine keeps 4096
FIRST_PROCESS = "/proc/1/cmdline"

# What is asked, the prefix of variables, and settings: host, port, TLS certificate, the default port.
PROGRAMS = {
    "windlass-server": ("/health", "WINDLASS_", "host", "port", "tls_certificate_file", 8000),
    "windlass-operator": ("/livez", "WINDLASS_OPERATOR_", "metrics_host", "metrics_port", "", 8011),
}


def where(program: str, environment: Mapping[str, str], command_line: list[str]) -> tuple[str, str, int, bool]:
    """(path, host, port, whether by TLS) of a program started with these variables and this command line."""
    path, prefix, host, port, certificate, default_port = PROGRAMS[program]
    names = [each.rsplit("/", 1)[-1] for each in command_line]
    arguments = command_line[names.index(program) + 1 :] if program in names else []

    def setting(name: str, default: str) -> str:
        flag = "--" + name.replace("_", "-")
        value = ""
        for i, argument in enumerate(arguments):
            if argument == flag and i + 1 < len(arguments):
                value = arguments[i + 1]
            elif argument.startswith(flag + "="):
                value = argument[len(flag) + 1 :]
        return value or environment.get(prefix + name.upper(), "") or default

    address = setting(host, "127.0.0.1")
    # What listens everywhere also listens here.
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return path, address, int(setting(port, str(default_port))), bool(certificate and setting(certificate, ""))


def ask(path: str, host: str, port: int, tls: bool) -> tuple[int, str]:
    """(status, body) of `GET path`. Raises OSError, ValueError."""
    # As bytes: for a text the codec for international names would be imported.
    connection = socket.create_connection((host.encode(), port), timeout=TIMEOUT)
    if tls:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    with connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while len(answer) < MOST:
            part = connection.recv(MOST)
            if not part:
                break
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("what answers there doesn't speak HTTP")
    return int(words[1]), body.decode(errors="replace")


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """The exit code."""
    if len(arguments) != 1 or arguments[0] not in PROGRAMS:
        sys.stderr.write(f"usage: windlass-health {'|'.join(PROGRAMS)}\n")
        return 2
    try:
        with open(FIRST_PROCESS, "rb") as file:  # noqa: PTH123 (pathlib is slow to import)
            command_line = file.read().decode(errors="replace").split("\0")
    except OSError:
        command_line = []  # a first process that can't be looked at: the variables remain
    try:
        path, host, port, tls = where(arguments[0], environment, command_line)
        status, body = ask(path, host, port, tls)
    except (OSError, ValueError) as error:
        sys.stdout.write(f"{arguments[0]} doesn't answer: {error}\n")
        return 1
    sys.stdout.write(f"{status} {body}\n")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
