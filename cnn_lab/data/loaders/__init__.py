"""Input loaders over a split."""
