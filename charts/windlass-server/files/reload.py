"""For development: runs `windlass-server`, and starts it anew when one of its files changes."""

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = "windlass-server"
PACKAGES = ("windlass_server", "windlass_contract")
FOLDERS = [Path(importlib.util.find_spec(name).origin).parent for name in PACKAGES]
LOOK_SECONDS = 0.5


def seen() -> dict[Path, float]:
    """Every file of the packages with the time of its last change."""
    files = {}
    for folder in FOLDERS:
        for file in folder.rglob("*.py"):
            try:
                files[file] = file.stat().st_mtime
            except FileNotFoundError:
                continue  # it is being replaced
    return files


def stop(server: subprocess.Popen) -> None:
    """At once: a second signal ends it without draining."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGTERM)
    server.wait()


def main() -> None:
    """Ends when it is told to. A server that ends by itself, as with a mistake in it, waits for the next change."""
    server = subprocess.Popen([PROGRAM])

    def end(*_: object) -> None:
        stop(server)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    before = seen()
    while True:
        time.sleep(LOOK_SECONDS)  # files that Skaffold copies in are looked at: that needs no package
        now = seen()
        if now == before:
            continue
        changed = sorted(str(file) for file in now if before.get(file) != now[file])
        print(f"changed: {', '.join(changed) or 'files went'}; starting {PROGRAM} anew", file=sys.stderr, flush=True)
        for file in changed:
            # The image's compiled modules are trusted without a look at the source.
            Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)
        stop(server)
        server = subprocess.Popen([PROGRAM])
        before = now


main()
