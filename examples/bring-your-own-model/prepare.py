"""What the service did to an image before it called the model, written with TensorFlow operations, so that it can be
packed into the model. The training uses the same function: what is served is what was trained on."""

import tensorflow as tf


def prepare(image: tf.TensorSpec([None, 8, 8, 1], tf.uint8)) -> tf.Tensor:
    """Scans, dark on light, 0 to 255: to light on dark, each image's contrast stretched to 0 to 1."""
    light = 255.0 - tf.cast(image, tf.float32)
    low = tf.reduce_min(light, axis=[1, 2, 3], keepdims=True)
    high = tf.reduce_max(light, axis=[1, 2, 3], keepdims=True)
    return tf.math.divide_no_nan(light - low, high - low)
