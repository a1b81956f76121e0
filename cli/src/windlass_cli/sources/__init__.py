"""Where the state of rollouts is read from, and decisions are written to."""
