"""What is read and written in another process is so to the letter: the protocols' tests once more, with every body and
every answer there, however small."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
from test_oip_binary import *  # noqa: F403
from test_oip_v2 import *  # noqa: F403
from test_predict import *  # noqa: F403
from test_tfs_v1_errors import *  # noqa: F403
from test_tfs_v1_requests import *  # noqa: F403

from windlass_server.api.bodies import Bodies
from windlass_server.api.envelope import Traffic
from windlass_server.hosting import json_helpers
from windlass_server.hosting.json_helpers import JsonHelpers
from windlass_server.hosting.launcher import Launcher

pytestmark = pytest.mark.hardening


class Elsewhere:
    """`JsonHelpers` in an event loop of its own: each test has another one."""

    refused = 0

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.read = self.written = 0

    async def start(self):
        self._launcher = Launcher()
        self._work = JsonHelpers(self._launcher)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self):
        async def end():
            await self._work.close()
            await self._launcher.close()

        self.run(end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @asynccontextmanager
    async def reading(self, body, size):
        # In one task there, as its deadlines want it.
        steps, entered = asyncio.Queue(), asyncio.get_running_loop().create_future()
        here = asyncio.get_running_loop()

        async def serve():
            async with self._work.reading(body, size) as reading:
                here.call_soon_threadsafe(entered.set_result, None)
                while True:
                    step = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(steps.get(), here))
                    if step is None:
                        return
                    name, arguments, answer = step
                    try:
                        result = await getattr(reading, name)(*arguments)
                    except BaseException as error:
                        here.call_soon_threadsafe(answer.set_exception, error)
                        raise
                    here.call_soon_threadsafe(answer.set_result, result)

        class Steps:
            def __getattr__(self, name):
                async def step(*arguments):
                    answer = here.create_future()
                    steps.put_nowait((name, arguments, answer))
                    return await answer

                return step

        served = self.run(serve())
        await entered
        self.read += 1
        try:
            yield Steps()
        finally:
            steps.put_nowait(None)
            await asyncio.wait([asyncio.wrap_future(served)])

    async def write(self, writer, outputs, **arguments):
        self.written += 1
        return await asyncio.wrap_future(self.run(self._work.write(writer, outputs, **arguments)))


@pytest.fixture(scope="module")
def elsewhere():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_helpers, "LARGE", 0)
        work = Elsewhere()
        work.run(work.start()).result()
        try:
            yield work
            assert work.read > 100
            assert work.written > 50
        finally:
            work.close()


@pytest.fixture
def make_api(make_api, elsewhere):
    """Of models whose JSON is read and written elsewhere."""
    return lambda *models, **options: make_api(*models, traffic=Traffic(Bodies(), elsewhere), **options)
