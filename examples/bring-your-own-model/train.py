"""Trains a small classifier of handwritten digits, and keeps some images with the answers that one expects.

    python train.py [--better] MODEL.h5

writes MODEL.h5 and, beside it, samples.json (50 images that the model never saw) and seven.png (one to try).
`--better`: a convolutional network in place of a small dense one. Real data: scikit-learn's digits, which come with it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TRAINED = 1500
SAMPLES = 50


def main(file: Path, *, better: bool) -> None:
    """Trains and writes."""
    import keras
    import numpy as np
    import tensorflow as tf
    from prepare import prepare
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(7)
    digits = load_digits()
    # As a scanner sees them: dark on light, and not quite black on not quite white.
    scans = (230 - digits.images * (200 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target

    layers: list[keras.Layer] = [keras.layers.Flatten(), keras.layers.Dense(24, activation="relu")]
    if better:
        layers = [keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(64, "relu")]
    scores = keras.layers.Dense(10, activation="softmax", name="scores")
    model = keras.Sequential([keras.Input((8, 8, 1), name="image"), *layers, scores])
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy")
    model.fit(prepare(scans[:TRAINED]), labels[:TRAINED], batch_size=32, epochs=20, verbose=0)
    right = np.argmax(model.predict(prepare(scans[TRAINED:]), verbose=0), axis=-1) == labels[TRAINED:]
    model.save(file)
    print(f"{file}: {np.mean(right):.1%} right on {len(right)} images it never saw")

    samples = [
        {
            "name": f"scan {index}",
            "inputs": {"image": scans[index].tolist()},
            "expect": {"className": str(labels[index])},
        }
        for index in range(TRAINED, TRAINED + SAMPLES)
    ]
    file.with_name("samples.json").write_text(json.dumps({"samples": samples}))
    seven = scans[TRAINED:][(labels[TRAINED:] == 7) & right][0]
    file.with_name("seven.png").write_bytes(tf.io.encode_png(np.kron(seven, np.ones((16, 16, 1), np.uint8))).numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--better", action="store_true")
    parser.add_argument("file", type=Path, metavar="MODEL.h5")
    given = parser.parse_args()
    main(given.file, better=given.better)
