"""Processes and devices of one training: meshes, shardings, and what processes exchange."""
