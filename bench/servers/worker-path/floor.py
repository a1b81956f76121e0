"""The floor of HTTP, and a worker that runs the tiny model for each request: `floor.py FOLDER PORT BACKEND`.

Body and answer are converted by the fastest there is, unchecked; no admission, no log, no metrics.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvicorn
import uvloop

from windlass_server.hosting.hosted_worker import HostedWorker, ResidentSettings
from windlass_server.hosting.launcher import Launcher


def application(worker: HostedWorker) -> Any:
    """An ASGI application over a worker."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        if not body:
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        x = np.array(orjson.loads(body)["instances"], dtype=np.float32)
        answer = await worker.run("serving_default", {"x": x}, ["y"], time.monotonic() + 30)
        content = orjson.dumps({"predictions": answer["y"]}, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


async def main(folder: Path, port: int, backend: str) -> None:
    """Serves until a signal."""
    launcher = Launcher()
    await launcher.start()
    settings = ResidentSettings()
    try:
        worker = await HostedWorker.start(launcher, backend, folder, settings, {"part": "benchmark"})
        await worker.call({"op": "load"})
        config = uvicorn.Config(
            application(worker), port=port, lifespan="off", access_log=False, log_level="warning", server_header=False
        )
        await uvicorn.Server(config).serve()
        await worker.end(settings.unload_grace)
    finally:
        await launcher.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
