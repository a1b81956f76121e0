"""Trains the demo's three classifiers of handwritten digits, and writes the acceptance samples.

Real data: scikit-learn's digits, 1,797 images of 8 x 8 pixels with 17 shades, which come with the package. The last
297 images are never trained on; 100 of them become the acceptance samples.

    python train.py FOLDER

writes `v1.keras` (a small dense network), `v2.keras` (a convolutional one, better), `v3.keras` (the network of v2
trained on shuffled labels: it loads, runs and agrees with itself, and is wrong) and `digits-samples.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

TRAINED = 1500
SAMPLES = 100


def main(folder: Path) -> None:
    """Trains and writes; prints a line for each step."""
    import keras
    import numpy as np
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(7)
    digits = load_digits()
    images = digits.images.astype("float32")[..., np.newaxis] / 16
    labels = digits.target
    held_images, held_labels = images[TRAINED:], labels[TRAINED:]

    def dense() -> list[keras.Layer]:
        return [keras.layers.Flatten(), keras.layers.Dense(24, activation="relu")]

    def convolutional() -> list[keras.Layer]:
        return [
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(24, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
        ]

    shuffled = np.random.default_rng(7).permutation(labels[:TRAINED])
    for name, layers, answers, epochs in (
        ("v1", dense(), labels[:TRAINED], 14),
        ("v2", convolutional(), labels[:TRAINED], 12),
        ("v3", convolutional(), shuffled, 4),
    ):
        scores = keras.layers.Dense(10, activation="softmax", name="scores")
        model = keras.Sequential([keras.Input((8, 8, 1), name="image"), *layers, scores], name=f"digits_{name}")
        model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy")
        model.fit(images[:TRAINED], answers, batch_size=32, epochs=epochs, verbose=0)
        right = float(np.mean(np.argmax(model.predict(held_images, verbose=0), axis=-1) == held_labels))
        model.save(folder / f"{name}.keras")
        how = "on shuffled labels, " if answers is shuffled else ""
        print(f"{name}: trained {how}{right:.1%} right on {len(held_labels)} images it never saw", flush=True)

    samples = {
        "signature": "serving_default",
        "samples": [
            {
                "name": f"image {TRAINED + index}",
                "inputs": {"image": np.round(held_images[index], 4).tolist()},
                "expect": {"classIndex": int(held_labels[index])},
            }
            for index in range(SAMPLES)
        ],
    }
    (folder / "digits-samples.json").write_text(json.dumps(samples))
    print(f"samples: {SAMPLES} of those images with their digits", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
