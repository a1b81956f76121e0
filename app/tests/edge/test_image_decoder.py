"""Images in processes that may die, with real processes from a real launcher."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from windlass_contract.manifest import DataType, ImageInput, TensorSpec
from windlass_server.api.images import ImageHeader, image_tensor, read_header
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.image_decoder import DecoderSettings, ImageDecoder
from windlass_server.hosting.launcher import Launcher
from windlass_server.tensors import unpacked
from windlass_testing.waiting import until

HOW = ImageInput(input="x", width=8, height=8, channels=3, scale=1 / 255)
SPEC = TensorSpec(datatype=DataType.FP32, shape=[-1, 8, 8, 3])
BYTES = TensorSpec(datatype=DataType.BYTES, shape=[-1])


@asynccontextmanager
async def decoding(**settings):
    launcher = Launcher()
    decoder = ImageDecoder(launcher, DecoderSettings(**{"processes": 1, "deadline": 60.0, **settings}))
    try:
        yield decoder
    finally:
        await decoder.close()
        await launcher.close()


def only_process(decoder):
    return decoder.helpers._unused[0].process.pid


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_it_decodes_as_this_process_would_and_goes_on_with_the_same_process(images, form):
    async def test():
        async with decoding() as decoder:
            data = images.picture(form=form)
            header = read_header(data)
            for _ in range(3):
                tensor = await decoder.decode(data, header, HOW, SPEC)
                np.testing.assert_array_equal(unpacked(tensor), image_tensor(data, header, HOW, SPEC))
            assert decoder.helpers.started == 1

    asyncio.run(test())


def test_its_process_has_neither_environment_nor_files_nor_much_memory(images, monkeypatch):
    monkeypatch.setenv("A_SECRET", "xyz")

    async def test():
        async with decoding(max_pixels=1_000_000) as decoder:
            data = images.picture()
            await decoder.decode(data, read_header(data), HOW, SPEC)
            process = Path(f"/proc/{only_process(decoder)}")
            assert b"A_SECRET" not in (process / "environ").read_bytes()
            # stdin, stdout, stderr and the channel; besides, only what it reads of itself.
            files = [str(each.readlink()) for each in (process / "fd").iterdir()]
            assert len([file for file in files if not file.startswith("/proc/")]) <= 4, files
            limits = (process / "limits").read_text()
            space = next(line for line in limits.splitlines() if line.startswith("Max address space"))
            assert int(space.split()[3]) < 2**31

    asyncio.run(test())


def test_a_broken_image_is_the_clients_fault_and_the_process_stays(images):
    async def test():
        async with decoding() as decoder:
            data = images.picture()[:60]
            for _ in range(2):
                with pytest.raises(ServingError, match="the image can't be read") as caught:
                    await decoder.decode(data, read_header(data), HOW, SPEC)
                assert caught.value.code is Code.INVALID_ARGUMENT
            assert decoder.helpers.started == 1

    asyncio.run(test())


def test_an_image_that_needs_too_much_memory_is_refused_and_the_next_is_decoded(images):
    async def test():
        # Ten times the pixels that the memory is for: as if the header's check had a hole.
        async with decoding(max_pixels=1) as decoder:
            large, small = images.png(20_000, 20_000, bits=8, rows=1), images.picture()
            with pytest.raises(ServingError, match="takes more memory than there is") as caught:
                await decoder.decode(large, read_header(large), HOW, SPEC)
            assert caught.value.code is Code.PAYLOAD_TOO_LARGE
            assert (await decoder.decode(small, read_header(small), HOW, SPEC)).shape == (1, 8, 8, 3)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGSEGV, Code.INVALID_ARGUMENT), (signal.SIGKILL, Code.UNAVAILABLE)]
)
def test_a_decoder_that_dies_takes_one_request_along(images, number, code):
    async def test():
        async with decoding() as decoder:
            small, large = images.picture(), images.png(7000, 7000, bits=8, colour=2)
            await decoder.decode(small, read_header(small), HOW, SPEC)
            pid = only_process(decoder)
            os.kill(pid, signal.SIGSTOP)  # so that it dies at work, however fast it is
            at_work = asyncio.create_task(decoder.decode(large, read_header(large), HOW, SPEC))
            behind = asyncio.create_task(decoder.decode(small, read_header(small), HOW, SPEC))
            await until(lambda: not decoder.helpers._unused)
            os.kill(pid, number)
            if number != signal.SIGKILL:  # which ends it while it is stopped
                os.kill(pid, signal.SIGCONT)
            with pytest.raises(ServingError) as caught:
                await at_work
            assert caught.value.code is code
            assert (await behind).shape == (1, 8, 8, 3)
            assert decoder.helpers.started == 2

    asyncio.run(test())


def test_one_that_takes_too_long_is_ended_and_replaced(images):
    async def test():
        async with decoding(deadline=5.0) as decoder:
            small = images.picture()
            await decoder.decode(small, read_header(small), HOW, SPEC)
            pid = only_process(decoder)
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(ServingError, match="takes longer than 5 s") as caught:
                await decoder.decode(small, read_header(small), HOW, SPEC)
            assert caught.value.code is Code.INVALID_ARGUMENT
            await until(lambda: not Path(f"/proc/{pid}").exists())
            assert (await decoder.decode(small, read_header(small), HOW, SPEC)).shape == (1, 8, 8, 3)

    asyncio.run(test())


def test_a_client_that_leaves_frees_its_turn(images):
    async def test():
        async with decoding() as decoder:
            small = images.picture()
            await decoder.decode(small, read_header(small), HOW, SPEC)
            os.kill(only_process(decoder), signal.SIGSTOP)
            left = asyncio.create_task(decoder.decode(small, read_header(small), HOW, SPEC))
            await until(lambda: not decoder.helpers._unused)
            left.cancel()
            assert (await decoder.decode(small, read_header(small), HOW, SPEC)).shape == (1, 8, 8, 3)

    asyncio.run(test())


def test_a_model_that_decodes_by_itself_needs_no_decoder(images):
    async def test():
        async with decoding() as decoder:
            tensor = await decoder.decode(b"anything", ImageHeader("PNG", 1, 1, 1), HOW, BYTES)
            assert (tensor.tolist(), decoder.helpers.started) == ([b"anything"], 0)

    asyncio.run(test())
