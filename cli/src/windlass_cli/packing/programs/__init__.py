"""What needs TensorFlow or LiteRT, and runs the model's own code: each in a process of its own, that may die."""
