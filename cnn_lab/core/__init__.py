"""What every layer may know: errors, trees, array aliases."""
