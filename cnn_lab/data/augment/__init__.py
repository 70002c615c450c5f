"""Random changes of images, batch by batch, inside the compiled training step."""
