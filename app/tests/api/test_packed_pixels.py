"""Pixels on their way from an image's decoder to a model: a byte each, scaled where they arrive."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from windlass_contract.manifest import DataType
from windlass_server.hosting import frames
from windlass_server.tensors import PackedPixels, datatype_of, to_raw, unpacked, unpacked_size

PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20


def packed(datatype=DataType.FP32, scaling=(1 / 127.5, -1.0)):
    return PackedPixels.of(PIXELS, (1, 2, 2, 3), datatype, scaling)


def sent(tensor):
    pieces = frames.encode({"id": 1}, {"image": tensor})
    data = memoryview(b"".join(pieces))
    head, _ = frames.lengths(data, 1 << 20)
    return data[frames.PREFIX.size :], head


@pytest.mark.parametrize(
    ("datatype", "scaling", "expected"),
    [
        (DataType.FP32, (1 / 127.5, -1.0), PIXELS.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)),
        (DataType.FP32, (1.0, 0.0), PIXELS.astype(np.float32)),
        (DataType.FP64, (0.5, 0.25), PIXELS / 2 + 0.25),
        (DataType.INT32, (0.1, -3.0), np.rint(PIXELS * np.float32(0.1) - 3)),
        (DataType.INT16, (-300.0, 0.0), np.maximum(PIXELS * -300.0, -(2**15))),
        (DataType.UINT16, (-1.0, 0.0), np.zeros_like(PIXELS)),
    ],
)
def test_they_arrive_as_what_they_stand_for(datatype, scaling, expected):
    payload, head = sent(packed(datatype, scaling))
    assert len(payload) < head + 64 + PIXELS.nbytes
    image = unpacked(frames.decode(payload, head, pixels=True)[1]["image"])
    assert not isinstance(image, PackedPixels)
    assert (datatype_of(image), image.shape) == (datatype, (1, 2, 2, 3))
    np.testing.assert_array_equal(image[0], expected)


def test_where_they_are_only_passed_on_they_stay_packed():
    image = frames.decode(*sent(packed()), pixels=True)[1]["image"]
    assert isinstance(image, PackedPixels)
    assert (image.shape, image.dtype, image.nbytes) == ((1, 2, 2, 3), np.float32, 48)
    again = frames.decode(*sent(image), pixels=True)[1]["image"]
    np.testing.assert_array_equal(unpacked(again), unpacked(packed()))


def test_they_are_only_taken_from_whom_they_are_expected():
    with pytest.raises(frames.FrameError, match="pixels"):
        frames.decode(*sent(packed()))


def test_what_they_become_counts_before_they_do():
    plain = np.zeros(12, np.float32)
    assert unpacked_size([packed(), plain, packed(DataType.FP64)]) == (48 - 12) + (96 - 12)


def test_whoever_wants_all_bytes_gets_them():
    assert bytes(to_raw(packed())) == unpacked(packed()).tobytes()


@pytest.mark.parametrize(
    "entry",
    [
        ["image", "FP32", [1, 2, 2, 4], 12, [1.0, 0.0]],
        ["image", "FP32", [-1, -12], 12, [1.0, 0.0]],
        ["image", "FP32", [12], 12, [1.0]],
        ["image", "FP32", [12], 12, ["a", 0.0]],
        ["image", "FP32", [12], 12, 1.0],
        ["image", "FP32", [12], 12, [1.0, 0.0], 1],
        ["image", "FP32", [12], 4000, [1.0, 0.0]],
        ["image", "BYTES", [12], 12, [1.0, 0.0]],
        ["image", "FP32", [12], 12, ["nan", 0.0]],
        ["image", "FP32", [12], 12, [1e400, 0.0]],
        ["image", "FP32", [12], 12, [None, 0.0]],
        ["image", "FP32", [12], 12, None],
    ],
)
def test_what_can_t_be_pixels_breaks_the_frame(entry):
    head = (
        orjson.dumps({"id": 1, "tensors": [entry]})
        .replace(b"null", b"1e400" if entry[4] == [1e400, 0.0] else b"null")
        .ljust(128)
    )
    with pytest.raises(frames.FrameError):
        frames.decode(memoryview(head + bytes(64)), len(head), pixels=True)
