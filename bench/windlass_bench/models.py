"""The models, the requests' contents and the answers they have to get: `python -m windlass_bench.models FOLDER`.

Random, but from a seed: `tiny`, y = x @ w + b of `x` FP32 [-1, 32]; `cnn`, a MobileNetV2 of 160 x 160 pixels and 1000
classes, whose last layer is scaled so that its scores differ as a trained model's do. Each as a SavedModel, a TFLite
file with the same float32 weights, and as Keras saves it. Beside them, in `<backend>-scaled/`, the same files with a
manifest that asks for scaled decoding. Only this module imports TensorFlow.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from windlass_contract.manifest import MANIFEST_NAME, DataType, ImageInput, ModelFormat, Signature, TensorSpec
from windlass_testing.models import write_manifest

BACKENDS = ("tensorflow", "litert")
FEATURES, RESULTS = 32, 8
SIDE, CLASSES = 160, 1000
IMAGES = 32
"""In one request of W3."""
_SEED = 20260301
_PHOTO = (500, 375)
_SPREAD = 2.0
"""Standard deviation of the scores before the softmax."""
DONE = "done.json"


def spec(*shape: int) -> TensorSpec:
    """FP32, any batch."""
    return TensorSpec(datatype=DataType.FP32, shape=[-1, *shape])


SIGNATURES = {
    "tiny": Signature(inputs={"x": spec(FEATURES)}, outputs={"y": spec(RESULTS)}),
    "cnn": Signature(inputs={"x": spec(SIDE, SIDE, 3)}, outputs={"scores": spec(CLASSES)}),
}
IMAGE = ImageInput(input="x", width=SIDE, height=SIDE, scale=1 / 127.5, offset=-1.0)


def photo() -> bytes:
    """A JPEG of 500 x 375 pixels with as much in it as a photo has."""
    random = np.random.default_rng(_SEED)
    coarse = Image.fromarray(random.integers(0, 256, (19, 25, 3), dtype=np.uint8)).resize(
        _PHOTO, Image.Resampling.BICUBIC
    )
    fine = random.normal(0, 6, (_PHOTO[1], _PHOTO[0], 3))
    pixels = np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def tensor_of(jpeg: bytes, *, scaled: bool = False) -> NDArray[Any]:
    """As `POST /predict` and every peer's program makes it. `scaled`: decoded at a fraction of its size."""
    with Image.open(BytesIO(jpeg)) as image:
        if scaled:
            image.draft(None, (SIDE, SIDE))
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return (np.asarray(resized, dtype=np.float32) * np.float32(1 / 127.5) - np.float32(1))[None]


def inputs(jpeg: bytes) -> dict[str, NDArray[Any]]:
    """By workload."""
    random = np.random.default_rng(_SEED + 1)
    image = tensor_of(jpeg)
    tiny = random.normal(0, 1, (1, FEATURES)).round(6).astype(np.float32)
    # Each image another, so that a mix-up of rows is seen.
    batch = np.concatenate([np.roll(image, shift, axis=2) for shift in range(IMAGES)])
    return {"W1": tiny, "W1b": tiny, "W2": image, "W3": np.ascontiguousarray(batch)}


def main() -> None:
    """Makes everything in a folder; `done.json` comes last."""
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "keras").mkdir(parents=True)
    import tensorflow as tf

    tf.keras.utils.set_random_seed(_SEED)
    jpeg = photo()
    given = inputs(jpeg)
    random = np.random.default_rng(_SEED + 2)
    kernel = random.normal(0, 0.3, (FEATURES, RESULTS)).astype(np.float32)
    tiny = tf.keras.Sequential([tf.keras.Input((FEATURES,)), tf.keras.layers.Dense(RESULTS)])
    tiny.layers[-1].set_weights([kernel, np.arange(RESULTS, dtype=np.float32)])
    answers = {"tiny": _save(tf, folder, "tiny", tiny, given["W1"])}
    images = np.concatenate([given["W3"], tensor_of(jpeg, scaled=True)])
    answers["cnn"], answers["cnn_scaled"] = np.split(
        _save(tf, folder, "cnn", _network(tf, given["W2"]), images), [IMAGES]
    )
    for workload, array in given.items():
        np.save(folder / f"{workload}.npy", array)
    (folder / "photo.jpg").write_bytes(jpeg)
    np.savez(folder / "answers.npz", tiny=answers["tiny"], cnn=answers["cnn"], cnn_scaled=answers["cnn_scaled"])
    for backend in BACKENDS:
        _ask_for_scaled_decoding(folder / backend, folder / f"{backend}-scaled")
    (folder / DONE).write_text(json.dumps({"tensorflow": tf.__version__, "photo bytes": len(jpeg)}))


def _ask_for_scaled_decoding(models: Path, target: Path) -> None:
    shutil.copytree(models, target)
    path = target / "cnn" / "1" / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["image"]["decoding"] = "scaled"
    path.write_text(json.dumps(manifest, indent=1))


def _network(tf: Any, image: NDArray[Any]) -> Any:
    network = tf.keras.applications.MobileNetV2((SIDE, SIDE, 3), weights=None, classes=CLASSES)
    last = network.layers[-1]
    features = tf.keras.Model(network.input, last.input)(image, training=False).numpy()
    weights, bias = last.get_weights()
    last.set_weights([weights * (_SPREAD / (features @ weights).std()), bias])
    return network


def _save(tf: Any, folder: Path, name: str, model: Any, sample: NDArray[Any]) -> NDArray[Any]:
    """Gives the answer to `sample`."""
    signature = SIGNATURES[name]
    output = next(iter(signature.outputs))
    shape = next(iter(signature.inputs.values())).shape
    assert shape is not None

    @tf.function(input_signature=[tf.TensorSpec([None, *shape[1:]], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def serve(x: Any) -> Any:
        return {output: model(x, training=False)}

    saved = folder / "tensorflow" / name / "1"
    tf.saved_model.save(model, str(saved), signatures={"serving_default": serve.get_concrete_function()})
    lite = folder / "litert" / name / "1"
    lite.mkdir(parents=True)
    (lite / "model.tflite").write_bytes(_to_litert(tf, serve.get_concrete_function(), output))
    answer: NDArray[Any] = serve(tf.constant(sample))[output].numpy()
    given: dict[str, Any] = {"parity": {"serving_default": ({"x": sample[:2]}, {output: answer[:2]})}}
    given |= {"image": IMAGE, "warmup_batch_sizes": (1, IMAGES)} if name == "cnn" else {}
    write_manifest(saved, name, 1, {"serving_default": signature}, **given)
    write_manifest(lite, name, 1, {"serving_default": signature}, format=ModelFormat.TFLITE, **given)
    model.save(folder / "keras" / f"{name}.keras")
    return answer


def _to_litert(tf: Any, function: Any, output: str) -> bytes:
    """With the weights as constants: the converter would leave variables in it, which nothing fills."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function)
    (spec,) = (tf.TensorSpec(each.shape, each.dtype, name="x") for each in frozen.inputs)
    serve = tf.function(lambda x: {output: frozen(x)[0]}).get_concrete_function(spec)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures={"serving_default": serve})
        data: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return data


if __name__ == "__main__":
    main()
