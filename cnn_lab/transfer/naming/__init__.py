"""What torchvision and timm call the layers of our models."""
