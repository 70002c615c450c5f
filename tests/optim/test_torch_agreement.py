"""Optimizers and schedules against PyTorch's, where that is installed: in float64, step by step.

Differences of definition that are left:

- nadam: PyTorch warms b1 up from half of it by default; its `momentum_decay` is switched off here.
- adagrad: sqrt(s + eps^2) for sqrt(s) + eps, apart by 1e-10 of a step for gradients of
  about 1, and by 1e-4 of it for gradients of 1e-6.
- rmsprop: PyTorch's decay is 0.99 by default, ours the lecture's 0.9.
"""

import numpy as np
import pytest
import torch_optimizers
from torch_optimizers import PAIRS

from cnn_lab.optim.schedules import make_schedule

if not torch_optimizers.HERE:
    pytest.skip("`make test-parity` installs what this needs", allow_module_level=True)
torch = torch_optimizers.import_torch()
NUM_EPOCHS, STEPS_PER_EPOCH, PEAK = 20, 3, 0.5
STEPS = NUM_EPOCHS * STEPS_PER_EPOCH
# Ours with options, theirs with arguments, and the steps between two of theirs.
SCHEDULES = {
    "step": (
        *("step", {"factor": 0.2, "milestones_epochs": (5.0, 10.0, 15.0)}),
        *("StepLR", {"step_size": 5, "gamma": 0.2}, STEPS_PER_EPOCH),
    ),
    "milestones": (
        *("step", {"milestones_epochs": (2.0, 11.0)}),
        *("MultiStepLR", {"milestones": [2, 11], "gamma": 0.1}, STEPS_PER_EPOCH),
    ),
    "exponential": (
        *("exponential", {"final_fraction": 0.8**NUM_EPOCHS}),
        *("ExponentialLR", {"gamma": 0.8}, STEPS_PER_EPOCH),
    ),
    "cosine": (
        *("cosine", {"final_fraction": 0.1}),
        *("CosineAnnealingLR", {"T_max": STEPS, "eta_min": 0.1 * PEAK}, 1),
    ),
    "polynomial": (
        *("polynomial", {"power": 2.0}),
        *("PolynomialLR", {"total_iters": STEPS, "power": 2.0}, 1),
    ),
    "one_cycle": ("one_cycle", {}, "OneCycleLR", {"max_lr": PEAK, "total_steps": STEPS}, 1),
}


@pytest.mark.parametrize("name", PAIRS)
def test_ten_steps_lead_where_theirs_do(name):
    assert torch_optimizers.distance(PAIRS[name], smallest=1.0) <= (
        1e-9 if name == "adagrad" else 1e-14
    )


@pytest.mark.parametrize("name", [n for n in PAIRS if n != "adagrad"])
def test_gradients_near_their_eps_change_nothing(name):
    assert torch_optimizers.distance(PAIRS[name], smallest=1e-6) <= 1e-14


def test_their_nadam_as_it_comes_warms_its_momentum_up():
    assert torch_optimizers.distance(torch_optimizers.NADAM_AS_IT_COMES) > 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_theirs(name):
    ours, options, theirs, arguments, every = SCHEDULES[name]
    schedule = make_schedule(
        ours, peak=PEAK, num_steps=STEPS, steps_per_epoch=STEPS_PER_EPOCH, **options
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = getattr(torch.optim.lr_scheduler, theirs)(optimizer, **arguments)
    for step in range(0, STEPS, every):
        # Ours are float32, theirs float64.
        assert np.asarray(schedule(step)).item() == pytest.approx(
            scheduler.get_last_lr()[0], rel=1e-6, abs=1e-7 * PEAK
        ), step
        optimizer.step()
        scheduler.step()
