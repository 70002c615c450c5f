"""cnn_lab: a functional JAX/Flax research codebase for convolutional networks."""
