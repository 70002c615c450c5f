"""Published data sets, folders of images, and data prepared by TFDS."""
