"""Preprocessing of the tests: what a service did before it called its model."""

import numpy as np
import tensorflow as tf

LETTERS = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer(tf.constant(["a", "b"]), tf.constant([1.0, 2.0])), default_value=0.0
)


def prepare(photo: tf.TensorSpec([None, None, None], tf.uint8)):  # type: ignore[valid-type]
    """Dark on light, any size, 0 to 255: to light on dark, 8 x 8, 0 to 1."""
    pixels = (255.0 - tf.cast(photo, tf.float32)) / 255.0
    return tf.image.resize(pixels[..., tf.newaxis], [8, 8])


def by_letter(letter: tf.TensorSpec([None], tf.string)):  # type: ignore[valid-type]
    """A table, which has to be saved with the model."""
    number = LETTERS.lookup(letter)
    return {"input_0": tf.stack([number, number, number], axis=1)}


def unannotated(x):
    return x


def wrong_shape(x: tf.TensorSpec([None, 5], tf.float32)):  # type: ignore[valid-type]
    return x


def with_numpy(x: tf.TensorSpec([None, 3], tf.float32)):  # type: ignore[valid-type]
    return np.asarray(x) / 255
