"""Sources, splits and the two loaders."""
