"""Writes small Keras models for the tests: `python keras_models.py FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def main(folder: Path) -> None:
    import keras
    import numpy as np

    keras.utils.set_random_seed(1)

    def save(model: keras.Model, name: str) -> None:
        model.save(folder / name)
        rows = {tensor.name: np.ones([2, *tensor.shape[1:]], "float32") for tensor in model.inputs}
        answer = model(rows if len(rows) > 1 else next(iter(rows.values())), training=False)
        np.save(folder / f"{name}.npy", np.asarray(answer[0] if isinstance(answer, list) else answer))

    image = keras.Input((8, 8, 1), name="image")
    hidden = keras.layers.Flatten()(image)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.Dropout(0.5)(hidden)
    scores = keras.layers.Dense(10, activation="softmax", name="scores")(hidden)
    save(keras.Model(image, scores), "named.keras")

    # A second model of the session: Keras' automatic names have numbers in them now.
    for name in ("automatic.h5", "automatic.keras"):
        save(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)]), name
        )

    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    total = keras.layers.Add(name="total")([left, right])
    save(keras.Model([left, right], [total, keras.layers.Dense(1, name="price")(total)]), "several.keras")

    left, right = keras.Input((2,), name="left-hand side"), keras.Input((2,), name="2nd")
    save(keras.Model([left, right], keras.layers.Add(name="total")([left, right])), "odd_names.keras")

    code = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Lambda(lambda x: x * 2, name="twice")])
    for name in ("code.keras", "code.h5"):
        save(code, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
