"""Small forms of models, for arithmetic."""

from cnn_lab.models.registry import MODELS, SmallForm

SMALL: dict[str, SmallForm] = {
    name: entry.small for name, entry in MODELS.items() if entry.small is not None
}
