"""One of each kind of part that a module outside the package registers."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from cnn_lab.config.values import Count, Fraction, Positive
from cnn_lab.data.augment.extra import AUGMENTATIONS
from cnn_lab.data.datasets.description import DatasetDescription, register_dataset
from cnn_lab.models.heads import Classifier, DenseHead
from cnn_lab.models.registry import register
from cnn_lab.models.simple import Dense
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedules import SCHEDULES
from cnn_lab.tasks.classification import Classification
from cnn_lab.tasks.losses import LOSSES
from cnn_lab.tasks.task import TASKS, last_logits


@register("own_model", "One hidden layer", "Nobody 2026", (8, 8, 1), num_parameters=685, macs=666)
def own_model(num_classes: int, width: Count = 9) -> Classifier:
    """A hidden layer of few units."""
    return Classifier(Dense((width,)), DenseHead(num_classes))


@LOSSES.register()
def own_loss(logits, targets, power: Positive = 2.0):
    """Softmax cross-entropy to a power."""
    shares = targets if targets.ndim == 2 else jax.nn.one_hot(targets, logits.shape[-1])
    return optax.softmax_cross_entropy(logits, shares) ** power


@OPTIMIZERS.register()
def own_optimizer(learning_rate, keep: Fraction = 0.5):
    """Heavy-ball momentum."""
    return optax.sgd(learning_rate, momentum=keep)


@SCHEDULES.register()
def own_schedule(span, final: Fraction = 0.5):
    """A straight line."""
    return optax.linear_schedule(span.peak, final * span.peak, span.num_steps)


@AUGMENTATIONS.register()
def own_augmentation(key, images, share: Fraction = 0.25):
    """Blackens a share of the pixels.

    Args:
        share: probability of each pixel.
    """
    return images * jax.random.bernoulli(key, 1 - share, images.shape[:3])[..., None]


@TASKS.register(name="own_task")
class OwnTask(Classification):
    """One class an image, and how sure the model is of it."""

    better = {**Classification.better, "confidence": "max"}  # noqa: RUF012

    def metrics(self, outputs, batch):
        confidence = jnp.max(jax.nn.softmax(last_logits(outputs)), axis=-1)
        return {**super().metrics(outputs, batch), "confidence": confidence}


def read_own_data(description, folder):
    """The first digits of scikit-learn, without an order to speak of."""
    pixels, labels = load_digits(return_X_y=True)
    images = (15 * pixels).reshape(-1, 8, 8, 1).astype("uint8")
    labels = labels.astype("int32")
    return {"train": (images[:128], labels[:128]), "test": (images[128:192], labels[128:192])}


register_dataset(
    DatasetDescription(
        name="own_data",
        title="A few digits",
        image_shape=(8, 8, 1),
        class_names=tuple("0123456789"),
        split_sizes={"train": 128, "test": 64},
        licence="CC BY 4.0",
        citation="Nobody 2026",
        read=read_own_data,
    )
)
