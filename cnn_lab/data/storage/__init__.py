"""Prepared data on disk, checked before they are read."""
