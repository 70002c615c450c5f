"""Sources, splits and the two input pipelines."""
