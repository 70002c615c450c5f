"""Checkpoints of a run: written, read and checked."""
