"""The order of examples: those of every step are a pure function of (seed, step).

Nothing is remembered between steps, so a run resumes anywhere, on any number of devices, with the
same order.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float32, Int, Int64


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """The examples of every step, epoch after epoch, each example once an epoch.

    Attributes:
        indices: positions in the source that take part.
        batch_size: examples per step. The last step of an epoch is filled up with the first
            examples of the same epoch, at weight 0: batch normalisation, which sees them too,
            meets real examples, each as often as any other where the batch is not larger than
            the data.
        seed: shuffles anew every epoch; None keeps the order of `indices`.
        balanced_by: class of each of `indices`; an epoch of as many examples then holds every class
            equally often, up to one: small ones repeatedly, of large ones each time another part.
    """

    indices: Int64[np.ndarray, " n"]
    batch_size: int
    seed: int | None
    balanced_by: Int[np.ndarray, " n"] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """ceil(examples / batch size)."""
        return -(-len(self.indices) // self.batch_size)

    def batches(
        self, first_step: int, num_steps: int
    ) -> tuple[Int64[np.ndarray, "s n"], Float32[np.ndarray, "s n"]]:
        """Source positions and weights of consecutive steps; 0 weighs what fills up a batch."""
        steps = range(first_step, first_step + num_steps)
        rows = [divmod(step, self.steps_per_epoch) for step in steps]
        epochs = {epoch: _epoch(self, epoch) for epoch, _ in dict.fromkeys(rows)}
        positions = np.stack([epochs[epoch][0][row] for epoch, row in rows])
        return positions, np.stack([epochs[epoch][1][row] for epoch, row in rows])


@functools.lru_cache(maxsize=4)
def _epoch(sampler: Sampler, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and weights of a whole epoch, [steps n] each."""
    indices = sampler.indices
    if sampler.seed is not None:
        random = np.random.Generator(np.random.Philox(key=(sampler.seed, epoch)))
        chosen = np.arange(len(indices))
        if sampler.balanced_by is not None:
            chosen = _balanced(sampler.balanced_by, random)
        indices = indices[chosen[random.permutation(len(indices))]]
    shape = (sampler.steps_per_epoch, sampler.batch_size)
    weights = (np.arange(shape[0] * shape[1]) < len(indices)).astype(np.float32)
    # np.resize goes on with the first values; zeros or one image many times would bend the
    # statistics of batch normalisation.
    return np.resize(indices, shape), weights.reshape(shape)


def _balanced(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many positions as there are, each class equally often up to one."""
    names = random.permutation(np.unique(classes))
    quotas = np.full(len(names), len(classes) // len(names))
    quotas[: len(classes) % len(names)] += 1
    parts = []
    for name, quota in zip(names, quotas, strict=True):
        members = np.flatnonzero(classes == name)
        passes = -(-quota // len(members))
        # Every member once before any is repeated.
        shuffled = np.concatenate([random.permutation(members) for _ in range(passes)])
        parts.append(shuffled[:quota])
    return np.concatenate(parts)
