"""The command `windlass-server`, as far as it comes before what a replica is made of is imported.

That takes longer than all the rest of a start. So the launcher is started first of all, which is also before any secret
is read, and imports the runtime on another processor meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import sys

from windlass_server.hosting.launcher_start import start_launcher
from windlass_server.hosting.likely_runtime import likely_runtime


def main() -> None:
    """Runs a replica; exit code 0 after SIGTERM or SIGINT, 1 when it can't start or go on, 2 for wrong settings."""
    launcher = None
    with contextlib.suppress(OSError):  # it is tried again, and told of, when there is somebody to listen to it
        launcher = start_launcher()
    # Modules are not garbage: looking for some again and again takes a sixth of the time that importing them does.
    gc.disable()
    # structlog imports it where it is installed, as with TensorFlow, for tracebacks in colours that we don't write:
    # 0.04 s and 4 MB.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from windlass_server import command_line

    settings = command_line.parse(sys.argv[1:])
    runtime = likely_runtime(settings.models)
    if launcher is not None and runtime is not None:
        launcher.warm(runtime)
    from windlass_server import main as replica

    del sys.modules["rich"]
    gc.enable()
    replica.run(settings, launcher)


if __name__ == "__main__":
    main()
