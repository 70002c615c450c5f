"""Data sets, the order of their examples, loaders, normalisation and augmentation."""
