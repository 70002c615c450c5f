"""What a model may return besides plain logits."""

import flax.struct

from cnn_lab.core.arrays import Tree


class WithAuxiliary(flax.struct.PyTreeNode):
    """Logits of the last head and, in training, of heads on earlier maps.

    The leaves are arrays, or their shapes where outputs are only planned.

    Attributes:
        logits: [n k].
        auxiliary: one [n k] per earlier head.
        weight: of each auxiliary loss beside the last head's.
    """

    logits: Tree
    auxiliary: tuple[Tree, ...]
    weight: float = flax.struct.field(pytree_node=False)
