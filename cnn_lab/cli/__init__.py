"""The command line: the one place of absl flags."""
