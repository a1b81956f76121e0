"""What is shown: pure functions from a snapshot to text."""
