"""Transfer plans: the parameters that are trained, how fast and from when, each covered once.

They go by stages of the network, from its images to its classes: layers frozen or trained together.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_lab.config import TransferConfig
from cnn_lab.core import trees
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.text import counted

STRATEGIES = ("auto", "head", "last_stages:N", "stages:A,B", "all", "gradual", "logistic")
OUTPUT = "head/output/"  # the parameters that `logistic` fits
# Training images up to which only the head, and then the last stage too, are trained: from the mean
# validation accuracies of `experiments/studies/transfer.py`, in which the last stage leads the head
# by 4 points at 150 images and more above, and everything the last stage by 3 from 1,500 on.
FEW, SOME = 100, 1_000
FIELD = "config.transfer"
STRATEGY, RATES = f"{FIELD}.strategy", f"{FIELD}.rates"
HEAD = "head"
# `stage2_block3`, `stem_conv` and `last_bn` begin with the stage; so do `conv3_1` and `bn3_1` of
# VGG, which are of one stage, and `inception4b` and `mixed6c`, whose letter is the place in it.
STAGE_PATTERNS = (
    re.compile(r"(?:conv|bn)(?P<stage>\d+)_\d+"),
    re.compile(r"(?P<stage>[a-z]+\d*)_.*"),
    re.compile(r"(?P<stage>[a-z]+\d+)[a-z]?"),
)
KERNEL_AXES = 2  # of the smallest kernel


@dataclasses.dataclass(frozen=True)
class Stage:
    """Consecutive layers that share a name, such as `stage1`.

    Attributes:
        paths: of their parameters, in the order of the tree.
    """

    name: str
    paths: tuple[str, ...]


def stages_of(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Stage, ...]:
    """The stages of a model in the order in which they run, the head last.

    Auxiliary heads belong to the head, and a normalisation that stands alone to the stage before.
    Images are (h, w, c).
    """
    order: list[str] = []

    def note_layer(call, arguments, options, context):
        path = context.module.path
        if len(path) > 1 and (layer := "/".join(path[:2])) not in order:
            order.append(layer)
        return call(*arguments, **options)

    with nn.intercept_methods(note_layer):
        image = jnp.zeros((1, *image_shape))
        init = lambda key: model.init(key, image, train=False)["params"]  # noqa: E731
        leaves = trees.flatten(jax.eval_shape(init, jax.random.key(0)))
    stages: dict[str, set[str]] = {}
    layers: dict[str, list[str]] = {}
    for path in leaves:
        layers.setdefault("/".join(path.split("/")[:2]), []).append(path)
    previous = ""
    for layer in sorted(layers, key=order.index):
        name = stage_name(layer)
        has_no_kernel = all(leaves[path].ndim < KERNEL_AXES for path in layers[layer])
        if has_no_kernel and previous and name not in stages and name != HEAD:
            name = previous
        stages.setdefault(name, set()).update(layers[layer])
        previous = name
    stages[HEAD] = stages.pop(HEAD)  # auxiliary heads are called before the last stages have run
    return tuple(
        Stage(name, tuple(path for path in leaves if path in paths))
        for name, paths in stages.items()
    )


def stage_name(layer: str) -> str:
    """The stage of a layer: of the first two parts of a path, such as `backbone/stage1_block2`."""
    part, _, name = layer.partition("/")
    if part != "backbone":
        return HEAD
    for pattern in STAGE_PATTERNS:
        if match := pattern.fullmatch(name):
            stage = match["stage"]
            return f"stage{stage}" if stage.isdigit() else stage
    return name


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
        name: of their stage, or the rule that chose them.
        rate: factor of the learning rate; 0 freezes them.
        first_epoch: epochs done when their training begins.
    """

    name: str
    paths: tuple[str, ...]
    rate: float = 1.0
    first_epoch: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """The groups of parameters, how fast and from when each is trained.

    Attributes:
        strategy: as the config has it, or the choice of `auto`; `rates` where rules are given.
        reason: for the choice of `auto`, in one sentence; empty where the user chose.
        groups: in the order of the network.
    """

    strategy: str
    reason: str
    groups: tuple[Group, ...]

    @property
    def is_linear_probe(self) -> bool:
        """Whether the output layer is fitted to its optimum, in place of a training in steps."""
        return self.strategy == "logistic"

    @property
    def phase_starts(self) -> tuple[int, ...]:
        """Epochs done when another group begins to be trained, ascending, from 0."""
        return tuple(sorted({group.first_epoch for group in self.groups if group.rate}))

    def trained(self, epoch: int) -> tuple[Group, ...]:
        """The groups that are trained in an epoch."""
        return tuple(g for g in self.groups if g.rate and g.first_epoch <= epoch)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """Reads back `dataclasses.asdict`."""
        groups = [Group(**{**group, "paths": tuple(group["paths"])}) for group in values["groups"]]
        return cls(values["strategy"], values["reason"], tuple(groups))

    def table(self, sizes: Mapping[str, int], learning_rate: float) -> list[str]:
        """Lines of a table: of each group, its number of parameters and how they are trained.

        `sizes` are numbers of values by path; the learning rate is that of a factor of 1.
        """
        rows = [("group", "parameters", "trained", "learning rate")]
        for group in self.groups:
            trained, rate = "no", ""
            if group.rate and self.is_linear_probe:
                trained = "fitted"
            elif group.rate:
                begins = f"from epoch {group.first_epoch + 1}" if group.first_epoch else "yes"
                trained, rate = begins, f"{learning_rate * group.rate:.3g}"
            rows.append((group.name, f"{sum(sizes[p] for p in group.paths):,}", trained, rate))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        chosen = f"{self.strategy}: {self.reason}" if self.reason else self.strategy
        lines = [f"Strategy {chosen}."]
        for name, number, trained, rate in rows:
            cells = (name.ljust(widths[0]), number.rjust(widths[1]), trained.ljust(widths[2]), rate)
            lines.append(f"  {'  '.join(cells)}".rstrip())
        return lines


def make_plan(
    transfer: TransferConfig, stages: Sequence[Stage], num_train: int, num_epochs: int
) -> Plan:
    """The plan that a config describes.

    The head is the last of the stages; `num_train` counts images.

    Raises:
        ConfigError: no such strategy, one that the network or the training is too short for, or
            rules that do not cover every parameter exactly once.
    """
    if transfer.rates:
        return Plan("rates", "", _by_rules(transfer.rates, stages))
    strategy, reason = transfer.strategy, ""
    if strategy == "auto":
        strategy, reason = choose_strategy(num_train)
    name, _, detail = strategy.partition(":")
    trained = names = [stage.name for stage in stages]
    if name == "last_stages":
        if not 1 <= int(detail) < len(stages):
            raise ConfigError(
                f"{STRATEGY} is {strategy}, but the backbone has "
                f"{counted(len(stages) - 1, 'stage')} ({', '.join(names[:-1]) or 'none'}); give 1 "
                f"to {len(stages) - 1}, or another strategy.",
                where=STRATEGY,
                found=strategy,
            )
        trained = names[-int(detail) - 1 :]
    elif name == "stages":
        trained = detail.split(",")
        for stage in trained:
            if stage not in names:
                raise ConfigError(
                    f"{STRATEGY} names the stage {stage!r}, which the network does not have",
                    where=STRATEGY,
                    found=stage,
                    allowed=names,
                )
    elif name == "head":
        trained = names[-1:]
    elif name == "logistic":
        *others, head = stages
        output = tuple(path for path in head.paths if path.startswith(OUTPUT))
        hidden = tuple(path for path in head.paths if path not in output)
        others += [Stage(head.name, hidden)] if hidden else []
        frozen = [Group(stage.name, stage.paths, 0.0) for stage in others]
        return Plan(strategy, reason, (*frozen, Group("output", output)))
    every = transfer.epochs_per_stage if strategy == "gradual" else 0
    last_begins = every * (len(stages) - 1)
    if last_begins >= num_epochs:
        problem = (
            f"{STRATEGY}=gradual begins to train the last of {len(stages)} stages after "
            f"{counted(last_begins, 'epoch')}, but the run has only {num_epochs}; lower "
            f"{FIELD}.epochs_per_stage or raise config.train.num_epochs above {last_begins}."
        )
        raise ConfigError(problem, where=f"{FIELD}.epochs_per_stage", found=every)
    groups = []
    for index, stage in enumerate(stages):
        num_after = len(stages) - 1 - index
        rate = transfer.stage_decay**num_after if stage.name in trained else 0.0
        groups.append(Group(stage.name, stage.paths, rate, every * num_after if rate else 0))
    return Plan(strategy, reason, tuple(groups))


def check_transfer(transfer: TransferConfig) -> None:
    """Checks a config as far as that needs neither data nor a network.

    Raises:
        ConfigError: a strategy that does not exist, a rule that is none, or settings that would
            change nothing.
    """
    strategy, rates = transfer.strategy, transfer.rates
    if transfer.fresh is not None:
        _check_pattern(transfer.fresh, f"{FIELD}.fresh")
    for pattern, rate in rates.items():
        _check_pattern(pattern, RATES)
        number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if not number or not 0 <= rate < float("inf"):
            where = f"{RATES}[{pattern!r}]"
            raise ConfigError(where=where, found=rate, allowed="a finite number of at least 0")
    name, _, detail = strategy.partition(":")
    with_detail = {"last_stages": detail.isdecimal(), "stages": bool(detail)}
    if not with_detail.get(name, strategy in STRATEGIES):
        raise ConfigError(
            f"{STRATEGY} is {strategy!r}",
            where=STRATEGY,
            found=name,
            allowed=STRATEGIES,
            advice=f"for other choices give {RATES}",
        )
    if rates and strategy != "auto":
        problem = (
            f"{RATES} and {STRATEGY}={strategy} both choose what is trained; leave out one of them."
        )
        raise ConfigError(problem, where=RATES, found=rates)
    chosen = RATES if rates else f"{STRATEGY}={strategy}"
    without_effect = {
        "dropout": strategy == "logistic",
        "l2_sp": strategy == "logistic",
        "stage_decay": bool(rates) or strategy in ("logistic", "head"),
        "epochs_per_stage": strategy != "gradual",
    }
    for field, has_none in without_effect.items():
        value = getattr(transfer, field)
        if has_none and value != getattr(TransferConfig(), field):
            raise ConfigError(
                f"{FIELD}.{field} is {value!r}, which changes nothing with {chosen}; leave out one "
                "of them.",
                where=f"{FIELD}.{field}",
                found=value,
            )


def choose_strategy(num_train: int) -> tuple[str, str]:
    """The strategy for a number of training images, and the reason for it.

    The fewer they are, the less can be learned anew without learning them by heart (Yosinski et al.
    2014, arXiv:1411.1792).
    """
    images = counted(num_train, "training image")
    if num_train <= FEW:
        return "head", f"{images} are very few (at most {FEW:,}): only the head is trained"
    if num_train <= SOME:
        return "last_stages:1", (
            f"{images} are few (at most {SOME:,}): the head and the last stage are trained"
        )
    return "all", f"{images} are many (above {SOME:,}): everything is trained"


def _by_rules(rates: Mapping[str, Any], stages: Sequence[Stage]) -> tuple[Group, ...]:
    paths = [path for stage in stages for path in stage.paths]
    found: dict[str, list[str]] = {pattern: [] for pattern in rates}
    uncovered = []
    for path in paths:
        matching = [pattern for pattern in rates if re.search(pattern, path)]
        if len(matching) > 1:
            problem = (
                f"{RATES}: {path} matches both {matching[0]!r} and {matching[1]!r}; let every "
                "parameter match exactly one rule."
            )
            raise ConfigError(problem, where=RATES, found=path)
        (found[matching[0]] if matching else uncovered).append(path)
    for pattern, chosen in found.items():
        if not chosen:
            raise ConfigError(
                f"{RATES}: the rule {pattern!r} matches no parameter",
                where=RATES,
                found=pattern.strip("^$.*/"),
                allowed={"/".join(path.split("/")[:2]) for path in paths},
            )
    if uncovered:
        shown = ", ".join(uncovered[:3]) + (" and more" if len(uncovered) > 3 else "")
        problem = (
            f"{RATES} leaves {counted(len(uncovered), 'parameter')} uncovered: {shown}; add a rule "
            "for them, with a rate of 0 to freeze them."
        )
        raise ConfigError(problem, where=RATES, found=uncovered)
    if not any(rates.values()):
        problem = f"{RATES} freezes every parameter; give one of them a rate above 0."
        raise ConfigError(problem, where=RATES, found=rates)
    return tuple(Group(p, tuple(found[p]), float(rate)) for p, rate in rates.items())


def _check_pattern(pattern: str, field: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{field}: {pattern!r} is no regular expression: {error}; mend it.",
            where=field,
            found=pattern,
        ) from error
