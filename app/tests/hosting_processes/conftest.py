"""One launcher for all tests of this folder, so that TensorFlow is imported once; one event loop to go with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from windlass_server.hosting.launcher import Launcher
from windlass_server.hosting.resident import Resident, ResidentSettings, VersionSpec

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Runs a coroutine to its end, always in the same event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def launcher(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A launcher whose TensorFlow template is ready; where there is no TensorFlow, LiteRT's."""
    launcher = Launcher(tmp_path_factory.mktemp("scratch"))

    async def start() -> None:
        await launcher.start()
        await launcher.warm("tensorflow" if find_spec("tensorflow") else "litert")

    run(start())
    yield launcher
    run(launcher.close())


@pytest.fixture
def make_resident(run: Run, launcher: Launcher, tmp_path: Path) -> Iterator[Callable[..., Resident]]:
    """Makes residents of versions under `tmp_path`; they are unloaded afterwards. `seen` gets each state."""
    made: list[Resident] = []

    def make(
        model: str,
        version: int = 1,
        *,
        settings: ResidentSettings | None = None,
        seen: list[str] | None = None,
        **spec: Any,
    ) -> Resident:
        spec.setdefault("path", tmp_path / model / str(version))
        spec.setdefault("digest", None)

        def note(resident: Resident) -> None:
            if seen is not None:
                seen.append(resident.state.value)

        resident = Resident(
            VersionSpec(model=model, version=version, **spec), launcher, settings or ResidentSettings(threads=2), note
        )
        made.append(resident)
        return resident

    yield make

    async def unload() -> None:
        for resident in made:
            await resident.unload()

    run(unload())
