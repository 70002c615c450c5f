"""The training: state, step, loop, monitor and evaluation."""
