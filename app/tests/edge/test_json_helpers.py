"""Large JSON in processes that may die, with real processes from a real launcher."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_server.api.answer_texts import flat_data, for_people, predicted
from windlass_server.api.document import Document
from windlass_server.api.limits import Limits
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.hosting import Admission
from windlass_server.hosting.json_helpers import JsonHelpers, JsonSettings, Turns
from windlass_server.hosting.launcher import Launcher
from windlass_server.tensors import PackedStrings, unpacked
from windlass_testing.waiting import until


def signature(datatype: str, *shape: int) -> Signature:
    spec = TensorSpec(datatype=DataType(datatype), shape=list(shape))
    return Signature(inputs={"x": spec}, outputs={"y": spec})


FLOATS = signature("FP32", -1, 1)
STRINGS = signature("BYTES", -1)
ROWS = 20_000
TEXT = b'{"instances":[' + b"[1.5]," * ROWS + b"[1.5]]}"


@pytest.fixture(scope="module", autouse=True)
def launcher():
    """One for all, and one event loop to go with it."""
    with asyncio.Runner() as runner:
        run.in_loop = runner.run
        run.launcher = Launcher()
        yield
        runner.run(run.launcher.close())


def run(coroutine):
    run.in_loop(coroutine)


@asynccontextmanager
async def helpers(kind=JsonSettings, **settings):
    work = JsonHelpers(run.launcher, kind(**{"places": 1, "deadline": 60.0, "patience": 60.0, **settings}))
    try:
        yield work
    finally:
        await work.close()


async def read(work, text=TEXT, signature=FLOATS):
    async with work.reading(text, len(text)) as reading:
        name = await reading.tfs_signature()
        return await reading.inputs(name, signature)


async def parse_and_refuse(work, text):
    async with work.reading(text, len(text)) as reading:
        await reading.tfs_signature()
        raise ServingError(Code.NOT_FOUND, "nobody")


def only_process(work):
    return work.helpers._unused[0].process.pid


def test_a_large_body_is_read_in_another_process_into_the_same_tensors():
    async def test():
        async with helpers() as work:
            for text in (TEXT, TEXT.replace(b"instances", b"inputs")):
                document = Document(text, Limits())
                here = document.inputs(document.tfs_signature(), FLOATS)
                there = await read(work, text)
                np.testing.assert_array_equal(there.tensors["x"], here.tensors["x"])
                assert (there.in_rows, there.flat) == (here.in_rows, here.flat)
            assert work.helpers.started == 1
            assert (await read(work, b'{"instances": [[1]]}')).tensors["x"].tolist() == [[1]]
            assert work.helpers.started == 1

    run(test())


WRONG = [
    b"[" * 40, b"{", b'{"signature_name": 1}', b"[]", b"{}", b'{"instances": []}', b'{"instances": {}, "inputs": 1}',
    b'{"instances": [[1.5], ["a"]]}', b'{"instances": [[1.5], [1, 2]]}', b'{"instances": [[1e300]]}',
    b'{"instances": [[1.5]], "inputs": 1}', b'{"inputs": {"y": 1}}', b'{"instances": [{"x": 1}, {"y": 1}]}',
    b'{"instances": ["\xff"]}', b'{"instances": [NaN, tru]}', b'{"instances": ["\\ud800"]}',
    b'{"' + "\u00e4".encode() * 100_000 + b'": 1}',
]  # fmt: skip


def test_what_is_wrong_with_it_is_said_in_the_same_words():
    async def test():
        async with helpers() as work:
            for text in WRONG:
                large = text + b" " * 70_000
                document = Document(large, Limits())
                with pytest.raises(ServingError) as here:
                    document.inputs(document.tfs_signature(), FLOATS)
                with pytest.raises(ServingError) as there:
                    await read(work, large)
                assert (there.value.code, there.value.message) == (here.value.code, here.value.message), text[:50]
            assert work.helpers.started == 1
            assert (await read(work)).in_rows

    run(test())


def test_strings_come_back_as_they_travel():
    async def test():
        async with helpers() as work:
            values = [f"\u00e4{number}" for number in range(20_000)]
            text = json.dumps({"instances": values}).encode()
            tensor = (await read(work, text, STRINGS)).tensors["x"]
            assert isinstance(tensor, PackedStrings)
            assert tensor.shape == (20_000,)
            assert [value.decode() for value in unpacked(tensor)] == values
            back = await work.write(predicted, {"y": tensor}, in_rows=True, flat=False)
            assert json.loads(back) == {"predictions": values}

    run(test())


def test_the_open_inference_protocol_with_binary_strings_behind_json():
    from windlass_contract.manifest import FileEntry, Manifest, ModelFormat

    async def test():
        async with helpers() as work:
            blob = b"".join(len(value).to_bytes(4, "little") + value for value in [b"ab"] * 20_000)
            head = json.dumps(
                {
                    "id": "7",
                    "inputs": [
                        {
                            "name": "x",
                            "datatype": "BYTES",
                            "shape": [20_000],
                            "parameters": {"binary_data_size": len(blob)},
                        }
                    ],
                    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
                }
            ).encode()
            manifest = Manifest(
                model="m", version=1, format=ModelFormat.SAVED_MODEL, signatures={"serving_default": STRINGS},
                files=[FileEntry(path="saved_model.pb", size=1, sha256="0" * 64)],
            )  # fmt: skip
            admission = Admission("m", 1, "", 1, False, manifest, {"serving_default": STRINGS})
            for tail, fails in ((blob, False), (blob[:-1] + b"xx", True)):
                body = head + tail
                async with work.reading(body, len(body)) as reading:
                    if fails:
                        with pytest.raises(ServingError, match="unexpected additional input data"):
                            await reading.inference(str(len(head)).encode(), admission)
                        continue
                    inference = await reading.inference(str(len(head)).encode(), admission)
                assert (inference.id, inference.outputs, inference.output_names) == ("7", {"y": True}, ["y"])
                assert set(unpacked(inference.inputs["x"])) == {b"ab"}
            assert work.helpers.started == 1

    run(test())


def test_large_answers_are_written_in_the_same_words():
    async def test():
        async with helpers() as work:
            scores = np.full((20_000, 2), 0.5, dtype=np.float32)
            for writer, outputs, arguments in (
                (predicted, {"y": scores}, {"in_rows": True, "flat": False}),
                (predicted, {"y": scores, "z": scores}, {"in_rows": False, "flat": False}),
                (flat_data, {"y": scores}, {}),
                (for_people, {"y": scores}, {"classes": ["a", "b"], "top": 1, "single": False}),
            ):
                assert await work.write(writer, outputs, **arguments) == writer(outputs, **arguments)
            with pytest.raises(ServingError, match="has no shape information"):
                await work.write(predicted, {"y": scores, "z": np.array(1)}, in_rows=True, flat=False)
            assert work.helpers.started == 1

    run(test())


def test_its_process_has_no_environment_and_a_low_priority_and_keeps_nothing(monkeypatch):
    monkeypatch.setenv("A_SECRET", "xyz")

    def environment(pid):
        return Path(f"/proc/{pid}/environ").read_bytes()

    def resident(pid):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def test():
        async with helpers() as work:
            await read(work)
            pid = only_process(work)
            assert b"A_SECRET" not in environment(pid)
            assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
            before = resident(pid)
            large = b'{"instances":[' + b"[1.5]," * 10**6 + b"[1.5]]}"
            await read(work, large)
            # Parsed, and then not wanted: the model isn't there.
            with pytest.raises(ServingError, match="nobody"):
                await parse_and_refuse(work, large)
            assert only_process(work) == pid
            assert resident(pid) - before < 24 * 2**20

    run(test())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGSEGV, Code.INVALID_ARGUMENT), (signal.SIGKILL, Code.UNAVAILABLE)]
)
def test_one_that_dies_takes_one_request_along(number, code):
    async def test():
        async with helpers() as work:
            await read(work)
            pid = only_process(work)
            os.kill(pid, signal.SIGSTOP)  # so that it dies at work, however fast it is
            at_work, behind = asyncio.create_task(read(work)), asyncio.create_task(read(work))
            await until(lambda: not work.helpers._unused)
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(ServingError) as caught:
                await at_work
            assert caught.value.code is code
            assert (await behind).in_rows
            assert work.helpers.started == 2

    run(test())


def test_one_that_takes_too_long_is_ended_and_replaced():
    async def test():
        async with helpers(deadline=5.0) as work:
            await read(work)
            pid = only_process(work)
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(ServingError, match="longer than 5 s") as caught:
                await read(work)
            assert caught.value.code is Code.DEADLINE_EXCEEDED
            await until(lambda: not Path(f"/proc/{pid}").exists())
            assert (await read(work)).in_rows

    run(test())


def test_one_that_needs_too_much_memory_is_refused_and_the_next_is_read():
    class Tight(JsonSettings):
        @property
        def memory_bytes(self):
            return 96 * 2**20

    async def test():
        async with helpers(Tight) as work:
            # The parser itself doesn't look whether it was given memory, and crashes.
            with pytest.raises(ServingError, match="memory") as caught:
                await read(work, b'{"instances":[' + b"[1.5]," * 10**6 + b"[1.5]]}")
            assert caught.value.code in {Code.PAYLOAD_TOO_LARGE, Code.INVALID_ARGUMENT}
            assert (await read(work)).in_rows

    run(test())


def test_those_who_would_wait_too_long_are_told_to_come_back():
    async def test():
        async with helpers(queue=1, patience=0.5) as work:
            await read(work)
            pid = only_process(work)
            os.kill(pid, signal.SIGSTOP)
            at_work = asyncio.create_task(read(work))
            await until(lambda: not work.helpers._unused)
            waits = asyncio.create_task(read(work))
            await until(lambda: work._small.waiting)
            for refused in (read(work), waits):  # the first at once, the second after its patience
                with pytest.raises(ServingError, match="too many large requests") as caught:
                    await refused
                assert (caught.value.http_status, caught.value.retry_after) == (429, 1)
            assert work.refused == 2
            os.kill(pid, signal.SIGCONT)
            assert (await at_work).in_rows

    run(test())


def test_bodies_up_to_a_mebibyte_do_not_wait_behind_larger_ones():
    async def test():
        async with helpers() as work:
            large = TEXT + b" " * 2**20
            await read(work, large)
            pid = only_process(work)
            os.kill(pid, signal.SIGSTOP)
            stopped = asyncio.create_task(read(work, large))
            await until(lambda: not work.helpers._unused)
            assert (await read(work)).in_rows
            assert not stopped.done()
            os.kill(pid, signal.SIGCONT)
            assert (await stopped).in_rows

    run(test())


def test_turns_come_in_order_and_within_their_room():
    async def test():
        turns, order, go = Turns(places=2, room=10), [], asyncio.Event()

        async def work(name, size):
            async with turns.turn(size):
                order.append(name)
                await go.wait()

        tasks = []
        for name, size in (("a", 6), ("too much beside it", 6), ("behind", 1)):
            tasks.append(asyncio.create_task(work(name, size)))
            await asyncio.sleep(0)
        assert (order, turns.waiting) == (["a"], 2)
        go.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "too much beside it", "behind"]
        async with turns.turn(1000):  # alone
            with pytest.raises(TimeoutError):
                async with turns.turn(1, patience=0):
                    pass
        assert (turns._busy, turns._taken, turns.waiting) == (0, 0, 0)

    run(test())
