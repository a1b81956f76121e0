"""Builds models with TensorFlow, in a process of its own: `python -m windlass_testing.building`.

It reads one JSON request per line, `{"kind", "parameters", "folder"}`, and answers `ok` or the error on one line, so
that a test session pays for importing TensorFlow once, and not in its own process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

Builder = Callable[..., None]
COLUMN = tf.TensorSpec([None, 1], tf.float32, name="x")
EXAMPLES = tf.TensorSpec([None], tf.string, name="inputs")


def affine(folder: Path, *, scale: float, offset: float, ballast_mb: int = 0, load_seconds: float = 0) -> None:
    """y = scale * x + offset, with TensorFlow Serving's classify and regress signatures beside it."""
    module = tf.Module()
    module.scale = tf.Variable(scale, name="scale")
    module.offset = tf.Variable(offset, name="offset")
    if ballast_mb:
        module.ballast = tf.Variable(tf.zeros([ballast_mb, 256, 1024]), name="ballast")
    if load_seconds:
        module.initializer = _AtLoad(lambda: _spin(tf.constant(load_seconds, tf.float64)))

    def compute(x: Any) -> Any:
        y = module.scale * x + module.offset
        if ballast_mb:
            y += module.ballast[0, 0, 0]
        if load_seconds:
            y += 0 * tf.cast(module.initializer.resource_handle.shape.rank or 0, tf.float32)
        return y

    def feature(serialized: Any) -> Any:
        spec = {"x": tf.io.FixedLenFeature([1], tf.float32)}
        return tf.io.parse_example(serialized, spec)["x"]

    signatures = {
        "serving_default": tf.function(lambda x: {"y": compute(x)}).get_concrete_function(COLUMN),
        "regress_x_to_y": tf.function(lambda inputs: {"outputs": compute(feature(inputs))}).get_concrete_function(
            EXAMPLES
        ),
        "classify_x_to_y": tf.function(lambda inputs: {"scores": compute(feature(inputs))}).get_concrete_function(
            EXAMPLES
        ),
    }
    methods = {"regress_x_to_y": "regress", "classify_x_to_y": "classify"}
    _save(module, folder, signatures, methods)


def affine_v1(folder: Path, *, scale: float, offset: float) -> None:
    """The same in TensorFlow 1's format: a graph and a session, without objects."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        with v1.variable_scope("affine", use_resource=True):
            factor = v1.get_variable("scale", initializer=tf.constant(scale))
            addend = v1.get_variable("offset", initializer=tf.constant(offset))
        y = factor * x + addend
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def affine_tflite(folder: Path, *, scale: float, offset: float, signatures: bool = True) -> None:
    """The same as a TFLite file; without signatures it has only the names of its tensors."""
    module = tf.Module()
    function = tf.function(lambda x: {"y": scale * x + offset}).get_concrete_function(COLUMN)
    if signatures:
        saved = folder / "saved"
        tf.saved_model.save(module, str(saved), {"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    else:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    data = converter.convert()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "model.tflite").write_bytes(data)


def identity(folder: Path, *, types: dict[str, str]) -> None:
    """Gives back what it gets: `serving_default` for all types at once, `only_<name>` for each, `any_rank`."""
    specs = {name: tf.TensorSpec([None, None], tf.as_dtype(dtype), name=name) for name, dtype in types.items()}
    every = tf.function(lambda **inputs: {name: tf.identity(value) for name, value in inputs.items()})
    one = tf.function(lambda x: {"y": tf.identity(x)})
    signatures = {"serving_default": every.get_concrete_function(**specs)}
    for name, dtype in types.items():
        spec = tf.TensorSpec([None, None], tf.as_dtype(dtype), name="x")
        signatures[f"only_{name}"] = one.get_concrete_function(spec)
    signatures["any_rank"] = one.get_concrete_function(tf.TensorSpec(None, tf.float32, name="x"))
    _save(tf.Module(), folder, signatures)


def slow(folder: Path) -> None:
    """y = x after as many seconds as the largest x says."""

    def wait(x: Any) -> dict[str, Any]:
        elapsed = _spin(tf.cast(tf.reduce_max(x), tf.float64))
        return {"y": x + 0 * tf.cast(elapsed, tf.float32)}

    _save(tf.Module(), folder, {"serving_default": tf.function(wait).get_concrete_function(COLUMN)})


def crashing(folder: Path, *, at_load: bool) -> None:
    """Aborts its process: at load, or on an input above 1000 (else y = x), by a check inside TensorFlow that fails: a
    padded convolution of a tensor whose rank is known to be wrong only when it runs. (The plain one is refused in good
    order where the CPU has no oneDNN by default.)"""
    module = tf.Module()
    if at_load:
        module.initializer = _AtLoad(lambda: _abort(tf.constant([[0.0]])))

    def compute(x: Any) -> dict[str, Any]:
        return {"y": tf.cond(tf.reduce_any(x > 1000), lambda: _abort(x), lambda: x)}

    _save(module, folder, {"serving_default": tf.function(compute).get_concrete_function(COLUMN)})


def hungry(folder: Path, *, mib: int, at_load: bool, after: int = 0) -> None:
    """Takes `mib` MiB of memory: at load, or for each request (y = x) but the first `after` ones."""
    module = tf.Module()
    module.requests = tf.Variable(0, dtype=tf.int64, name="requests")

    def eat(value: Any) -> Any:
        """Gives 0. It depends on what only a request brings, or TensorFlow would work it out once and beforehand."""
        return tf.minimum(tf.abs(tf.reduce_sum(tf.fill([tf.constant(mib), 256, 1024], value))), 0.0)

    if at_load:
        module.initializer = _AtLoad(lambda: eat(tf.cast(tf.timestamp(), tf.float32)))

    def compute(x: Any) -> dict[str, Any]:
        if at_load:
            return {"y": tf.identity(x)}
        number = module.requests.assign_add(1, read_value=True)
        return {"y": x + tf.cond(number > after, lambda: eat(tf.reduce_max(x)), lambda: tf.constant(0.0))}

    _save(module, folder, {"serving_default": tf.function(compute).get_concrete_function(COLUMN)})


def rowwise(folder: Path, *, how: str) -> None:
    """`x` FP32 [-1, 4] to `y`: see `models.rowwise`."""
    module = tf.Module()
    module.weights = tf.Variable(tf.reshape(tf.range(16.0), [4, 4]) / 16 - 0.4)
    module.runs = tf.Variable(0, dtype=tf.int64, name="runs")
    ways = {
        "dense": lambda x: tf.nn.softmax(tf.matmul(x, module.weights)),
        "centred": lambda x: x - tf.reduce_mean(x, axis=0),
        "ranked": lambda x: x * tf.cast(tf.range(tf.shape(x)[0])[:, None], tf.float32),
        "branching": lambda x: tf.cond(tf.reduce_max(x) > 1000, lambda: 2 * x, lambda: x),
        "counting": lambda x: x + 0 * tf.cast(module.runs.assign_add(1, read_value=True), tf.float32),
        "dropping": lambda x: tf.nn.dropout(x, 0.5),
    }
    rows = tf.TensorSpec([None, 4], tf.float32, name="x")
    compute = tf.function(lambda x: {"y": ways[how](x)})
    _save(module, folder, {"serving_default": compute.get_concrete_function(rows)})


def deep(folder: Path, *, how: str) -> None:
    """`x` FP32 [-1, 4] to `y`: see `models.deep`."""
    module = tf.Module()
    module.layers = [tf.Variable(tf.fill([4], 1 + index / 100)) for index in range(20)]
    module.runs = tf.Variable(0, dtype=tf.int64, name="runs")
    keys = tf.lookup.KeyValueTensorInitializer(tf.range(4, dtype=tf.int64), tf.range(4.0))
    module.table = tf.lookup.StaticHashTable(keys, 0.0)
    ways = {
        "plain": lambda x: x,
        "branching": lambda x: tf.cond(tf.reduce_max(x) > 1000, lambda: 2 * x, lambda: x),
        "counting": lambda x: x + 0 * tf.cast(module.runs.assign_add(1, read_value=True), tf.float32),
        "looking up": lambda x: x + module.table.lookup(tf.cast(x, tf.int64)),
    }

    def compute(x: Any) -> dict[str, Any]:
        for layer in module.layers:
            x = tf.tanh(x * layer)
        return {"y": ways[how](x)}

    rows = tf.TensorSpec([None, 4], tf.float32, name="x")
    _save(module, folder, {"serving_default": tf.function(compute).get_concrete_function(rows)})


def named(folder: Path) -> None:
    """Several inputs and outputs of one type: see `models.named`."""
    compute = tf.function(lambda z, a, m: {"second": 10 * a, "first": tf.identity(z), "third": 100 * m})
    columns = {name: tf.TensorSpec([None, 1], tf.float32, name=name) for name in ("z", "a", "m")}
    _save(tf.Module(), folder, {"serving_default": compute.get_concrete_function(**columns)})


def counting(folder: Path) -> None:
    """y = x; while it loads, it counts 30 million different numbers in a table of a gigabyte. That is no tensor: who
    makes it doesn't ask TensorFlow's allocator, which would say no in good order."""
    module = tf.Module()
    module.initializer = _AtLoad(
        lambda: tf.reduce_max(tf.unique(tf.range(30_000_000 + tf.cast(0 * tf.timestamp(), tf.int64)))[1])
    )
    compute = tf.function(lambda x: {"y": tf.identity(x)})
    _save(module, folder, {"serving_default": compute.get_concrete_function(COLUMN)})


def refusing(folder: Path) -> None:
    """y = x, but an input with zeros is refused with InvalidArgument; so are zeros at warm-up."""

    def compute(x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(tf.not_equal(x, 0)), ["zero is refused"])]):
            return {"y": tf.identity(x)}

    _save(tf.Module(), folder, {"serving_default": tf.function(compute).get_concrete_function(COLUMN)})


def image_decoder(folder: Path) -> None:
    """Means of PNG files, by channel: `image_bytes` BYTES [-1] to `means` FP32 [-1, 3]."""

    def compute(image_bytes: Any) -> dict[str, Any]:
        def mean(data: Any) -> Any:
            return tf.reduce_mean(tf.cast(tf.io.decode_png(data, channels=3), tf.float32), axis=[0, 1])

        return {"means": tf.map_fn(mean, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))}

    spec = tf.TensorSpec([None], tf.string, name="image_bytes")
    _save(tf.Module(), folder, {"serving_default": tf.function(compute).get_concrete_function(spec)})


def scorer(folder: Path, *, weights: list[list[float]]) -> None:
    """Softmax of x @ weights: `x` FP32 [-1, features] to `scores` FP32 [-1, classes]."""
    module = tf.Module()
    module.weights = tf.Variable(weights, dtype=tf.float32, name="weights")

    def compute(x: Any) -> dict[str, Any]:
        return {"scores": tf.nn.softmax(x @ module.weights)}

    spec = tf.TensorSpec([None, len(weights)], tf.float32, name="x")
    _save(module, folder, {"serving_default": tf.function(compute).get_concrete_function(spec)})


def network(folder: Path, *, seed: int) -> None:
    """A convolutional network as people serve them, MobileNetV2 of 96 x 96 pixels with random weights: `x` UINT8
    [-1, 96, 96, 3] to `scores` FP32 [-1, 10]."""
    tf.keras.utils.set_random_seed(seed)
    model = tf.keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)

    def compute(x: Any) -> dict[str, Any]:
        return {"scores": model(tf.cast(x, tf.float32) / 127.5 - 1, training=False)}

    spec = tf.TensorSpec([None, 96, 96, 3], tf.uint8, name="x")
    _save(model, folder, {"serving_default": tf.function(compute).get_concrete_function(spec)})


def hostile(folder: Path, *, does: str, at_load: bool = False, argument: str = "") -> None:
    """y = x, after doing something that a model has no business with, when it is loaded or at each request; what there
    is to see of it is in the output `seen`."""

    def act(x: Any) -> Any:
        if does == "reads_file":
            return tf.io.read_file(argument)
        if does == "writes_file":
            with tf.control_dependencies([tf.raw_ops.WriteFile(filename=argument, contents="written by a model")]):
                return tf.constant("written")
        if does == "opens_connection":
            dataset = tf.raw_ops.DataServiceDatasetV4(
                dataset_id="1", processing_mode="", address=argument, protocol="grpc", job_name="", consumer_index=-1,
                num_consumers=-1, max_outstanding_requests=1, iteration_counter=tf.raw_ops.DummyIterationCounter(),
                output_types=[tf.float32], output_shapes=[[]], uncompress_fn=_unchanged(), data_transfer_protocol="",
                target_workers="AUTO",
            )  # fmt: skip
            element = tf.raw_ops.DatasetToSingleElement(dataset=dataset, output_types=[tf.float32], output_shapes=[[]])
            return tf.strings.as_string(element[0])
        if does == "runs_python":
            return tf.py_function(tf.strings.as_string, [tf.reduce_sum(x)], tf.string)
        raise ValueError(does)

    module = tf.Module()
    if at_load:
        module.initializer = _AtLoad(lambda: act(tf.zeros([1, 1])))

    def compute(x: Any) -> dict[str, Any]:
        seen = tf.constant("at load") if at_load else act(x)
        return {"y": tf.identity(x), "seen": tf.reshape(seen, [1])}

    _save(module, folder, {"serving_default": tf.function(compute).get_concrete_function(COLUMN)})


def misbehaving(folder: Path, *, how: str) -> None:
    """y = x of computing alone, but on an x above 1000 it spins for as many milliseconds, sleeps for ever, answers NaN,
    or a gigabyte; or it crashes on every 50th request."""
    module = tf.Module()
    module.requests = tf.Variable(0, dtype=tf.int64, name="requests")

    def compute(x: Any) -> dict[str, Any]:
        if how == "spins":
            return {"y": x + 0 * tf.cast(_spin(tf.cast(tf.reduce_max(x), tf.float64) / 1000), tf.float32)}
        if how == "sleeps":
            return {"y": tf.cond(tf.reduce_any(x > 1000), lambda: _wait_for_ever(x), lambda: x)}
        if how == "nan":
            return {"y": tf.where(x > 1000, float("nan"), x)}
        if how == "gigabyte":
            rows = tf.where(tf.reduce_any(x > 1000), 2**28, tf.shape(x)[0])
            return {"y": tf.broadcast_to(x[:1], [rows, 1])}
        number = module.requests.assign_add(1, read_value=True)
        return {"y": tf.cond(number % 50 == 0, lambda: _abort(x), lambda: x)}

    _save(module, folder, {"serving_default": tf.function(compute).get_concrete_function(COLUMN)})


def python_layer(folder: Path, *, marker: str) -> None:
    """`model.keras` and `model.h5` with a layer of Python code, which writes a file when it is called."""
    import keras

    code = compile(f"lambda x: (open({marker!r}, 'w').close(), x)[1]", "layer", "eval")
    layer = keras.layers.Lambda(eval(code), output_shape=(1,), name="code")
    model = keras.Sequential([keras.Input((1,), name="x"), layer])
    for name in ("model.keras", "model.h5"):
        model.save(folder / name)
    Path(marker).unlink(missing_ok=True)


def _wait_for_ever(x: Any) -> Any:
    queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shapes=[[]], shared_name="never filled")
    (value,) = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.float32])
    return x + tf.reshape(value, [])


def _unchanged() -> Any:
    return tf.function(lambda value: value).get_concrete_function(tf.TensorSpec([], tf.variant))


class _AtLoad(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
    """A resource whose initializer runs each time the SavedModel is loaded."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        super().__init__()

    def _create_resource(self) -> Any:
        # Any resource will do; a table is one that can be saved.
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    def _initialize(self) -> None:
        # Only the load is to feel it, not the building here.
        if not tf.executing_eagerly():
            # What only has to come before another may be left out by TensorFlow; what is shown may not.
            tf.print("initialized", self._action())


def _abort(matrix: Any) -> Any:
    shape = tf.shape(matrix)
    # Of rank 2, which only the kernel gets to know: nothing before it can tell that all of the shape is kept.
    unknown = tf.reshape(matrix, tf.boolean_mask(shape, tf.fill([2], tf.timestamp() > 0)))
    ended = tf.raw_ops.FusedPadConv2D(
        input=unknown, paddings=tf.zeros([4, 2], tf.int32), filter=tf.ones([1, 1, 1, 1]), mode="REFLECT",
        strides=[1, 1, 1, 1], padding="VALID",
    )  # fmt: skip
    return tf.reshape(ended, shape)


def _spin(seconds: Any) -> Any:
    start = tf.timestamp()
    (elapsed,) = tf.while_loop(
        lambda elapsed: elapsed < seconds,
        lambda _elapsed: (tf.timestamp() - start,),
        [tf.constant(0, tf.float64)],
        parallel_iterations=1,
    )
    return elapsed


def _save(module: Any, folder: Path, signatures: dict[str, Any], methods: dict[str, str] | None = None) -> None:
    tf.saved_model.save(module, str(folder), signatures)
    if methods:
        # tf.saved_model.save knows only predict; TensorFlow Serving's classify and regress go by the method's name.
        path = folder / "saved_model.pb"
        saved_model = saved_model_pb2.SavedModel()
        saved_model.ParseFromString(path.read_bytes())
        for name, method in methods.items():
            saved_model.meta_graphs[0].signature_def[name].method_name = f"tensorflow/serving/{method}"
        path.write_bytes(saved_model.SerializeToString(deterministic=True))


BUILDERS: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        affine,
        affine_v1,
        affine_tflite,
        identity,
        slow,
        crashing,
        hungry,
        counting,
        rowwise,
        deep,
        named,
        refusing,
        image_decoder,
        scorer,
        network,
        hostile,
        misbehaving,
        python_layer,
    )
}


def main() -> None:
    """Answers requests until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what TensorFlow and converters print goes elsewhere
    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request["folder"])
        try:
            BUILDERS[request["kind"]](folder, **request["parameters"])
            answer = "ok"
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side raises it
            answer = f"{type(error).__name__}: {error}".replace("\n", " ")
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
