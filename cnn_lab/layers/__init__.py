"""Building blocks that Linen lacks."""
