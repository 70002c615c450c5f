"""Transfer: weights of another run to start from, and which of them are trained."""

import dataclasses
from typing import Any, Literal

from cnn_lab.config.node import Node, runtime
from cnn_lab.config.values import Count, Natural, NonNegative, ProperFraction, Share


@dataclasses.dataclass(kw_only=True)
class TransferConfig(Node):
    """The weights of another run to start from; which are trained, how fast and from which epoch.

    Attributes:
        source: folder of the run, trained or imported; its model is this one's. It may be moved
            between two sessions of a training, not exchanged.
        checkpoint: which of its weights: `best`, `latest` or a step.
        strategy: the trained part: `head` alone; `last_stages:N`, the head and that many stages
            before it; `stages:A,B`, the stages of these names; `all`; `gradual`, the head first and
            then stage after stage; `logistic`, the output layer alone, fitted to its optimum by
            scikit-learn with an L2 penalty whose strength is chosen on the validation split, in
            place of `optim` and `train`; or `auto`, by the number of training images.
        rates: in place of a strategy: regular expression of parameter paths to the factor of the
            learning rate, 0 for frozen; every parameter must match exactly one.
        stage_decay: factor of the learning rate from each stage to the one before it.
        epochs_per_stage: of `gradual`: epochs between a stage and the one before it.
        classes: rows of the output layer for classes whose name the source has too: `shared` keeps
            them, `fresh` initialises all of them.
        fresh: regular expression of parameter paths that are initialised too.
        dropout: share of the features that are dropped in training before they reach the head; None
            leaves it to the model.
        cache_features: where the head alone is trained, on images that are the same in every epoch,
            run the backbone over them once and keep its features beside the data.
        augmented_passes: where the head alone is trained: augmented passes over the images whose
            features are kept, for the epochs in turn; 0 augments images in every epoch.
        l2_sp: weight of 1/2 * squared distance of the kernels from the source's, added to the loss
            (of vectors too where `optim.l2_vectors` is set); `optim.l2` is left for those without a
            source.
    """

    source: str = runtime("")
    checkpoint: str = "best"
    strategy: str = "auto"
    rates: dict[str, Any] = dataclasses.field(default_factory=dict)
    stage_decay: Share = 1.0
    epochs_per_stage: Count = 1
    classes: Literal["shared", "fresh"] = "shared"
    fresh: str | None = None
    dropout: ProperFraction | None = None
    cache_features: bool = runtime(True)
    augmented_passes: Natural = 0
    l2_sp: NonNegative = 0.0
