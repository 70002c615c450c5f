"""Tasks: targets, losses and metrics, one file per task."""
