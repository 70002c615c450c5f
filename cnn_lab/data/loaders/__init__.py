"""Input pipelines over a split."""
