"""Recurrent classifiers of images read as sequences: the simple net (Elman 1990, "Finding structure
in time", Cognitive Science 14(2)), LSTM (Hochreiter & Schmidhuber 1997, Neural Computation 9(8),
with the forget gate of Gers, Schmidhuber, Cummins 2000) and GRU (Cho et al. 2014, arXiv:1406.1078).

Differs from the papers: the state at the end is classified; the GRU's reset gate acts after the
recurrent product, as torch and cuDNN have it. Differs from torch: the two products of a gate share
one bias.
"""  # noqa: D205 - the title is a citation

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.config.values import Count, ProperFraction
from cnn_lab.core.arrays import Images
from cnn_lab.layers.factory import Dtype, LayerFactory, initializer
from cnn_lab.models.heads import Classifier, DenseHead
from cnn_lab.models.inputs import Order, Sequences, Steps, as_sequences
from cnn_lab.models.registry import register

Cell = Literal["rnn", "lstm", "gru"]
CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {
    "rnn": nn.SimpleCell,
    "lstm": nn.OptimizedLSTMCell,
    "gru": nn.GRUCell,
}


class RecurrentBackbone(nn.Module):
    """Layers of cells along a sequence. States are float32 whatever `layers.dtype` is, because
    rounding adds up over the steps.
    """  # noqa: D205

    cell: Cell
    hidden: int = 128
    num_layers: int = 1
    bidirectional: bool = False
    dropout_rate: float = 0.0
    order: Order = "rows"
    layers: LayerFactory = LayerFactory("tanh", "lecun_normal")

    @nn.compact
    def __call__(self, images: Images, *, train: bool) -> dict[str, jax.Array]:
        """Maps images [n h w c] to the states `layerI` [n t d] and the last ones, `last` [n d]."""
        maps, x = {}, as_sequences(images, self.order)
        for layer in range(1, self.num_layers + 1):
            if layer > 1:
                x = self.layers.dropout(self.dropout_rate)(x, train=train)
            directions = [self._read(x, f"layer{layer}_forward")]
            if self.bidirectional:
                directions.append(self._read(x, f"layer{layer}_backward", reverse=True))
            maps[f"layer{layer}"] = x = jnp.concatenate(directions, axis=-1)
            # Who reads backwards has seen all at the first step.
            ends = [states[:, 0 if i else -1] for i, states in enumerate(directions)]
            maps["last"] = jnp.concatenate(ends, axis=-1)
        return maps | {"last": maps.pop("last")}

    def _read(self, x: Sequences, name: str, *, reverse: bool = False) -> Steps:
        options = {"kernel_init": initializer(self.layers.kernel_init), "name": name}
        if self.cell == "rnn":
            options["activation_fn"] = lambda x: self.layers.act(x.astype(jnp.float32))
        cell: nn.RNNCellBase = CELLS[self.cell](self.hidden, dtype=self.layers.dtype, **options)
        layer: Any = nn.RNN(cell, reverse=reverse, keep_order=True)
        return layer(x)


@register(
    "rnn",
    "Recurrent net",
    "Elman 1990, Cognitive Science 14(2)",
    (28, 28, 1),
    num_parameters=21_386,
    macs=560_384,
    small=({"hidden": 8}, (8, 8, 1)),
    variant={"cell": "rnn"},
)
@register(
    "lstm",
    "Long short-term memory",
    "Hochreiter & Schmidhuber 1997, Neural Comp.",
    (28, 28, 1),
    num_parameters=81_674,
    macs=2_237_696,
    small=({"hidden": 8, "num_layers": 2, "bidirectional": True}, (8, 8, 1)),
    variant={"cell": "lstm", "activation": "tanh"},
)
@register(
    "gru",
    "Gated recurrent units",
    "Cho et al. 2014, arXiv:1406.1078",
    (28, 28, 1),
    num_parameters=61_706,
    macs=1_678_592,
    small=({"hidden": 8, "order": "pixels"}, (6, 6, 1)),
    variant={"cell": "gru", "activation": "tanh"},
)
def recurrent(
    num_classes: int,
    hidden: Count = 128,
    num_layers: Count = 1,
    bidirectional: bool = False,
    order: Order = "rows",
    kernel_init: str = "lecun_normal",
    dropout_rate: ProperFraction = 0.0,
    dtype: Dtype = "float32",
    *,
    cell: Cell,
    activation: str = "tanh",
) -> Classifier:
    """A recurrent net: the state is the activation of input and state before, or of gated cells.

    Args:
        hidden: width of the state.
        num_layers: each reads the states of the one before.
        bidirectional: whether a second cell per layer reads backwards, beside the first.
        kernel_init: name of the initialiser of what acts on inputs; on states it is orthogonal.
        dropout_rate: share of the states dropped in training, between layers and before the output.
        dtype: of the computation; states are float32.
    """
    backbone = RecurrentBackbone(
        cell,
        hidden=hidden,
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout_rate=dropout_rate,
        order=order,
        layers=LayerFactory(activation, kernel_init, dtype=dtype),
    )
    layers = LayerFactory(dense_init="normal", dtype=dtype)
    return Classifier(backbone, DenseHead(num_classes, (), layers, input_dropout_rate=dropout_rate))
