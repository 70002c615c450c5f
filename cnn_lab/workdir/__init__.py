"""A run's folder: its record, metric rows, progress bar and signals."""
