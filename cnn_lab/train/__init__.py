"""State, step, loop, evaluation and checkpoints."""
