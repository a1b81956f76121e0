# ruff: noqa: E501 - tables of requests and errors, one to a line
"""`POST /predict`: images and rows for people."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from windlass_contract.manifest import DataType, ImageInput, Signature, TensorSpec
from windlass_server.api.images import check_header, image_tensor, read_header
from windlass_server.api.limits import Limits
from windlass_server.errors import ServingError


def picture(row=3, size=(8, 8), brightness=255):
    """Black with one bright row."""
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[row] = brightness
    return Image.fromarray(pixels)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def digits(make_api, kit):
    return make_api(("digits", kit.digits()))


@pytest.mark.parametrize("path", ["/predict", "/predict/digits"])
def test_an_image_is_answered_with_classes_and_scores(digits, path):
    answer = digits.post(path, encoded(picture()), headers={"content-type": "image/png"})

    body = answer.json()
    assert (body["model"], body["version"]) == ("digits", 3)
    assert body["predictions"][0] == {"class": "three", "index": 3, "score": 1.0}
    assert len(body["predictions"]) == 5
    assert answer.headers["X-Model-Version"] == "3"
    (prediction,) = digits.log.predictions
    assert (prediction.protocol, prediction.top_class, prediction.top_score) == ("predict", "three", 1.0)


@pytest.mark.parametrize("field", ["image", "file"])
def test_an_image_may_come_in_a_form(digits, field):
    files = {field: ("cat.png", encoded(picture()), "image/png")}

    assert (
        digits.request("POST", "/predict", files=files, data={"note": "hello"}).json()["predictions"][0]["index"] == 3
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_three_formats_are_read_whatever_the_content_type_says(digits, kind):
    answer = digits.post("/predict?top=1", encoded(picture(), kind), headers={"content-type": "text/plain"})

    (best,) = answer.json()["predictions"]
    assert best["class"] == "three"
    assert best["score"] > 0.9


def test_rows_of_json_are_answered_row_by_row(digits):
    rows = np.zeros((2, 8, 8, 1))
    rows[0, 1], rows[1, 2] = 0.5, 0.25

    by_row = digits.post("/predict?top=2", {"instances": rows.tolist()}).json()
    by_column = digits.post("/predict?top=1", {"inputs": rows.tolist()}).json()

    assert by_row["predictions"] == [
        [{"class": "one", "index": 1, "score": 0.5}, {"class": "zero", "index": 0, "score": 0.0}],
        [{"class": "two", "index": 2, "score": 0.25}, {"class": "zero", "index": 0, "score": 0.0}],
    ]
    assert [best["class"] for (best,) in by_column["predictions"]] == ["one", "two"]


def test_a_model_without_scores_answers_with_its_values(half):
    assert half.post("/predict", {"instances": [1.0]}).json() == {"model": "half", "version": 2, "predictions": [3.5]}
    assert half.post("/predict/half", {"inputs": [[1.0]]}).json() == {"model": "half", "version": 2, "outputs": [[3.5]]}


def test_an_image_model_without_scores_answers_with_its_outputs(make_api, kit):
    version = kit.digits()
    version.compute = lambda _, inputs: {"scores": inputs["image"].sum(axis=(1, 2, 3)).astype(np.int32)}
    version.classes = []
    api = make_api(("m", version))

    assert api.post("/predict", encoded(picture())).json() == {"model": "m", "version": 3, "outputs": [8]}


def test_several_models_have_to_be_named(half, kit):
    half.hosting.add("digits", kit.digits())

    answer = half.post("/predict", {"instances": [1.0]})

    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "there are several models: ask /predict/<model> with one of digits, half"},
    )
    assert half.post("/predict/digits", encoded(picture())).status_code == 200


def test_no_model_is_503(make_api):
    assert make_api().post("/predict", {"instances": [1]}).status_code == 503


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/predict", b"", 400, "the body is neither an image (JPEG, PNG, WebP) nor JSON: The document is empty. at offset: 0"),
        ("/predict", b"GIF89a", 400, "the body is neither an image (JPEG, PNG, WebP) nor JSON: Invalid value. at offset: 0"),
        ("/predict", b"[]", 400, 'an object is expected: {"instances": […]} or {"inputs": …}'),
        ("/predict", b'{"signature_name": "x"}', 400, "model 'digits' has no such signature, but serving_default"),
        ("/predict", b'{"signature_name": ["x"]}', 400, "model 'digits' has no such signature, but serving_default"),
        ("/predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
        ("/predict?top=0", b"{}", 400, "'top' must be a number from 1 to 1000, got '0'"),
        ("/predict?top=many", b"{}", 400, "'top' must be a number from 1 to 1000, got 'many'"),
        ("/predict", b"\x89PNG\r\n\x1a\n", 400, "the image can't be read: its PNG header is broken"),
        ("/predict", b"\xff\xd8\xff", 400, "the image can't be read: its header is cut off"),
        ("/predict", b"RIFF\0\0\0\0WEBPVP8X", 400, "the image can't be read: its header is cut off"),
        ("/predict", b"RIFF\0\0\0\0WEBPXXXX", 400, "the image can't be read: its WebP header is broken"),
        ("/predict/nobody", b"{}", 404, "Servable not found for request: Latest(nobody)"),
    ],
)  # fmt: skip
def test_what_can_not_be_predicted_is_refused(digits, path, body, status, error):
    answer = digits.post(path, body)

    assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_a_cut_off_image_is_refused(digits):
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encoded(Image.effect_noise((64, 64), 90), kind)
        answer = digits.post("/predict", data[: len(data) // 2])
        assert answer.status_code == 400, kind
        assert answer.json()["error"].startswith("the image can't be read: "), kind


def test_a_model_without_image_input_says_so(half):
    answer = half.post("/predict", encoded(picture()))

    assert answer.status_code == 400
    assert "takes no images" in answer.json()["error"]


def test_an_image_type_without_an_image(digits):
    answer = digits.post("/predict", b"hello", headers={"content-type": "image/jpeg"})

    assert answer.json() == {"error": "the image can't be read: a JPEG, PNG or WebP image is expected"}


@pytest.mark.parametrize(
    ("content_type", "body", "error"),
    [
        ("multipart/form-data", b"", "the multipart form's Content-Type has no boundary"),
        ("multipart/form-data; boundary=b", b"nonsense", "the multipart form is broken: "),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\nx", "the multipart form ends too early"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--b--\r\n", "the form has 0 files"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\nx\r\n" * 2 + b"--b--\r\n", "the form has 2 files"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n" * 40 + b"--b--\r\n", "the multipart form has more than 32 parts"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"x" * 20_000 + b"\r\n\r\nx\r\n--b--\r\n", "the multipart form is broken: "),
    ],
)  # fmt: skip
def test_broken_forms_are_refused(digits, content_type, body, error):
    answer = digits.post("/predict", body, headers={"content-type": content_type})

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_other_methods_are_405(digits, method):
    answer = digits.request(method, "/predict")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def png_header(width, height, extra=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_an_image_bomb_is_refused_by_its_header(digits):
    for data in (
        png_header(100_000, 100_000),
        encoded(Image.new("L", (8, 8)), "JPEG").replace(b"\x08\x00\x08\x00\x08", b"\x08\xff\xff\xff\xff", 1),
        b"RIFF\x10\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
    ):
        answer = digits.post("/predict", data)
        assert answer.status_code == 413
        assert "50000000 are decoded: send a smaller one" in answer.json()["error"]


def test_an_animation_is_refused_by_its_header(digits):
    frames = [picture(row, (16, 16)).convert("RGB") for row in range(3)]
    for kind in ("WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        answer = digits.post("/predict", data)
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "the image is an animation; send a single picture"},
        )


def test_decoding_leaves_the_event_loop_alone(digits, monkeypatch):
    threads = []

    def note(*arguments):
        threads.append(threading.current_thread())
        return image_tensor(*arguments)

    monkeypatch.setattr("windlass_server.api.images.image_tensor", note)

    digits.post("/predict", encoded(picture()))

    assert threads != [threading.main_thread()]


def tensor_of(image, kit, kind="PNG", **changes):
    version = kit.digits(**changes)
    data = encoded(image, kind) if isinstance(image, Image.Image) else image
    header = read_header(data)
    check_header(header, Limits())
    return image_tensor(data, header, version.image, version.signatures["serving_default"].inputs["image"])


@pytest.mark.parametrize(
    ("shape", "channels", "result"),
    [
        ((-1, 8, 8, 1), 1, (1, 8, 8, 1)),
        ((-1, 8, 8), 1, (1, 8, 8)),
        ((8, 8), 1, (8, 8)),
        ((-1, 64), 1, (1, 64)),
        ((8, 8, 3), 3, (8, 8, 3)),
        ((-1, -1, -1, 3), 3, (1, 8, 8, 3)),
        ((-1, 8, 8, 4), 4, (1, 8, 8, 4)),
        ((None,), 3, (1, 8, 8, 3)),
    ],
)
def test_an_image_takes_the_shape_of_the_input(kit, shape, channels, result):
    assert tensor_of(picture(), kit, shape=shape, channels=channels).shape == result


def test_an_image_that_can_not_fit_the_input_is_our_fault(kit):
    with pytest.raises(ServingError, match=r"doesn't fit input 'image' of shape \[-1,5\]") as caught:
        tensor_of(picture(), kit, shape=(-1, 5))
    assert caught.value.http_status == 500


def test_pixels_are_scaled_shifted_inverted_and_typed_as_the_manifest_says(kit):
    plain = tensor_of(picture(brightness=200), kit, scale=1.0)
    scaled = tensor_of(picture(brightness=200), kit, scale=2 / 255, offset=-1.0)
    inverted = tensor_of(picture(brightness=200), kit, scale=1.0, invert=True)
    signed = tensor_of(picture(brightness=200), kit, scale=1.0, offset=-128.0, datatype="INT8")

    assert (plain.dtype, plain[0, 3, 0, 0], plain[0, 0, 0, 0]) == (np.float32, 200, 0)
    assert scaled[0, 3, 0, 0] == pytest.approx(200 / 255 * 2 - 1)
    assert (inverted[0, 3, 0, 0], inverted[0, 0, 0, 0]) == (55, 255)
    assert (signed.dtype, signed[0, 3, 0, 0], signed[0, 0, 0, 0]) == (np.int8, 72, -128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_the_channels_asked_for(kit, mode):
    image = Image.new("I;16", (20, 10), 0x8000) if mode == "I;16" else Image.new("L", (20, 10), 128).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"

    for channels in (1, 3):
        tensor = tensor_of(image, kit, kind, scale=1.0, channels=channels, shape=(-1, 8, 8, channels))
        if mode != "1":  # black or white, dithered
            assert tensor.mean() == pytest.approx(128, abs=3)


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_resampling_is_the_manifests(kit, resampling):
    image = Image.effect_noise((50, 30), 90)

    tensor = tensor_of(image, kit, scale=1.0, resampling=resampling)

    expected = np.asarray(image.resize((8, 8), getattr(Image.Resampling, resampling.upper())))
    assert np.array_equal(tensor[0, :, :, 0], expected)


def noisy(size):
    """As fine as a photo, and as coarse."""
    coarse = Image.effect_noise((size[0] // 20, size[1] // 20), 90).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(coarse, Image.effect_noise(size, 20), 0.2)


@pytest.mark.parametrize("size", [(40, 30), (500, 375), (33, 31)])
def test_scaled_decoding_of_a_jpeg_gives_other_pixels_and_nearly_the_same(kit, size):
    data = encoded(noisy(size), "JPEG", quality=95)

    full, scaled = (tensor_of(data, kit, scale=1.0, decoding=decoding) for decoding in ("full", "scaled"))

    assert scaled.shape == full.shape
    assert not np.array_equal(scaled, full)
    assert np.abs(scaled - full).mean() < 3


@pytest.mark.parametrize(("kind", "size"), [("PNG", (500, 375)), ("WEBP", (500, 375)), ("JPEG", (15, 500))])
def test_what_has_no_smaller_decoding_is_decoded_in_full(kit, kind, size):
    data = encoded(noisy((500, 375)).resize(size), kind)

    full, scaled = (tensor_of(data, kit, scale=1.0, decoding=decoding) for decoding in ("full", "scaled"))

    assert np.array_equal(scaled, full)


def test_scaled_decoding_never_makes_an_image_larger_again(kit, monkeypatch):
    resized = []
    plain = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a: resized.append(self.size) or plain(self, *a))

    for size in ((17, 16), (40, 24), (64, 999)):
        tensor_of(encoded(Image.new("L", size), "JPEG"), kit, decoding="scaled")

    assert resized == [(9, 8), (20, 12), (8, 125)]


def test_a_model_that_decodes_images_gets_the_file(kit):
    data = encoded(picture())

    tensor = tensor_of(data, kit, datatype="BYTES", shape=(-1,))

    assert tensor.tolist() == [data]


def test_scores_without_names_are_shown_by_index(make_api, kit):
    signature = Signature(inputs={"x": kit.spec("FP32", -1)}, outputs={"p": kit.spec("FP32", -1, 2)})
    probabilities = kit.Version(
        1, {"serving_default": signature}, lambda _, inputs: {"p": np.stack([inputs["x"], 1 - inputs["x"]], axis=1)}
    )
    api = make_api(("m", probabilities))

    scored = api.post("/predict", {"instances": [0.1]}).json()["predictions"]
    unscored = api.post("/predict", {"instances": [3.0]}).json()["predictions"]

    assert scored == [[{"class": "1", "index": 1, "score": 0.9}, {"class": "0", "index": 0, "score": 0.1}]]
    assert unscored == [[3.0, -2.0]]
    assert [prediction.top_class for prediction in api.log.predictions] == ["1", None]


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8L",
                           b"RIFF\0\0\0\0WEBPVP8 ", b""]),
    rest=st.binary(max_size=200),
)  # fmt: skip
def test_no_bytes_crash_the_decoder(start, rest):
    how = ImageInput(input="image", width=4, height=4)
    data = start + rest
    try:
        header = read_header(data)
        check_header(header, Limits())
        image_tensor(data, header, how, TensorSpec(datatype=DataType.FP32, shape=None))
        status = 200
    except ServingError as error:
        status = error.http_status
    assert status in {200, 400, 413}
