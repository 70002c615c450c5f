"""One file per architecture, one table of names."""
