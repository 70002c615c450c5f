"""Transfer plans: which parameters are trained, how fast and from when, each covered once."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_lab.config import TransferConfig
from cnn_lab.core.errors import ConfigError, counted, suggest
from cnn_lab.transfer.stages import Stage

STRATEGIES = ("auto", "head", "last_stages:N", "stages:A,B", "all", "gradual", "logistic")
OUTPUT = "head/output/"  # the parameters that `logistic` fits
# Training images up to which only the head, and then the last stage too, are trained: from the mean
# validation accuracies of `experiments/studies/transfer.py`, in which the last stage leads the head
# by 4 points at 150 images and more above, and everything the last stage by 3 from 1,500 on.
FEW, SOME = 100, 1_000
FIELD = "config.transfer"


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
        name: of their stage, or the rule that chose them.
        paths: of the parameters.
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
        strategy: as the config has it; what `auto` chose; `rates` where rules say it.
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

        Args:
            sizes: number of values by the path of a parameter.
            learning_rate: that of a factor of 1, at its peak.
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
        lines = []
        for name, number, trained, rate in rows:
            cells = (name.ljust(widths[0]), number.rjust(widths[1]), trained.ljust(widths[2]), rate)
            lines.append("  ".join(cells).rstrip())
        chosen = f"{self.strategy}: {self.reason}" if self.reason else self.strategy
        return [f"Strategy {chosen}.", *(f"  {line}" for line in lines)]


def make_plan(
    transfer: TransferConfig, stages: Sequence[Stage], num_train: int, num_epochs: int
) -> Plan:
    """The plan that a config describes.

    Args:
        transfer: names the strategy, or the rules.
        stages: of the model, the head last.
        num_train: training images.
        num_epochs: of the whole training.

    Raises:
        ConfigError: no such strategy, one that the network or the training is too short for, or
            rules that do not cover every parameter exactly once.
    """
    if transfer.rates:
        return Plan("rates", "", _by_rules(transfer, stages))
    strategy, reason = transfer.strategy, ""
    if strategy == "auto":
        strategy, reason = choose_strategy(num_train)
    name, _, detail = strategy.partition(":")
    trained = names = [stage.name for stage in stages]
    if name == "last_stages":
        trained = names[-_last_stages(int(detail), stages) :]
    elif name == "stages":
        trained = _known_stages(detail.split(","), names)
    elif name == "head":
        trained = names[-1:]
    elif name == "logistic":
        return Plan(strategy, reason, _output_alone(stages))
    every = transfer.epochs_per_stage if strategy == "gradual" else 0
    last_begins = every * (len(stages) - 1)
    if last_begins >= num_epochs:
        raise ConfigError(
            f"{FIELD}.strategy=gradual begins to train the last of {len(stages)} stages after "
            f"{counted(last_begins, 'epoch')}, but the run has only {num_epochs}; lower "
            f"{FIELD}.epochs_per_stage or raise config.train.num_epochs above {last_begins}."
        )
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
    strategy, rules = transfer.strategy, dict.fromkeys(transfer.rates)
    if transfer.fresh is not None:
        _compiled(transfer.fresh, "fresh")
    for pattern in rules:
        _compiled(pattern, "rates")
        _rate(transfer.rates, pattern)
    name, _, detail = strategy.partition(":")
    with_detail = {"last_stages": detail.isdecimal(), "stages": bool(detail)}
    if not with_detail.get(name, strategy in STRATEGIES):
        raise ConfigError(
            f"{FIELD}.strategy is {strategy!r}; {suggest(name, STRATEGIES)} For other choices give "
            f"{FIELD}.rates."
        )
    if rules and strategy != "auto":
        raise ConfigError(
            f"{FIELD}.rates and {FIELD}.strategy={strategy} both say what is trained; leave out "
            "one of them."
        )
    alone = "logistic" if strategy == "logistic" else ""
    by_rules = "rates" if rules else ""
    head = "head" if strategy == "head" else ""
    others = strategy if strategy != "gradual" else ""
    for field, usual, reason in (
        ("dropout", None, alone),
        ("l2_sp", 0, alone),
        ("stage_decay", 1, alone or head or by_rules),
        ("epochs_per_stage", 1, by_rules or others),
    ):
        value = getattr(transfer, field)
        if value != usual and reason:
            what = f"{FIELD}.rates" if reason == "rates" else f"{FIELD}.strategy={reason}"
            raise ConfigError(
                f"{FIELD}.{field} is {value!r}, which changes nothing with {what}; leave out one "
                "of them."
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


def _output_alone(stages: Sequence[Stage]) -> tuple[Group, ...]:
    head = stages[-1]
    others = tuple(path for path in head.paths if not path.startswith(OUTPUT))
    output = tuple(path for path in head.paths if path.startswith(OUTPUT))
    frozen = [*stages[:-1], *([Stage(head.name, others)] if others else [])]
    return (*(Group(s.name, s.paths, 0.0) for s in frozen), Group("output", output))


def _last_stages(number: int, stages: Sequence[Stage]) -> int:
    max_stages = len(stages) - 1
    if not 1 <= number <= max_stages:
        names = ", ".join(stage.name for stage in stages[:-1]) or "none"
        raise ConfigError(
            f"{FIELD}.strategy is last_stages:{number}, but the backbone has "
            f"{counted(max_stages, 'stage')} ({names}); give 1 to {max_stages}, or another "
            "strategy."
        )
    return number + 1


def _known_stages(wanted: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"{FIELD}.strategy names the stage {name!r}, which the network does not have; its "
                f"stages are {', '.join(names)}."
            )
    return wanted


def _by_rules(transfer: TransferConfig, stages: Sequence[Stage]) -> tuple[Group, ...]:
    paths = [path for stage in stages for path in stage.paths]
    rules = {pattern: _compiled(pattern, "rates") for pattern in transfer.rates}
    found: dict[str, list[str]] = {pattern: [] for pattern in rules}
    uncovered = []
    for path in paths:
        matching = [pattern for pattern, rule in rules.items() if rule.search(path)]
        if len(matching) > 1:
            raise ConfigError(
                f"{FIELD}.rates: {path} matches both {matching[0]!r} and {matching[1]!r}; let "
                "every parameter match exactly one rule."
            )
        if matching:
            found[matching[0]].append(path)
        else:
            uncovered.append(path)
    for pattern, chosen in found.items():
        if not chosen:
            raise ConfigError(
                f"{FIELD}.rates: the rule {pattern!r} matches no parameter; "
                f"{suggest(pattern.strip('^$.*/'), _layers(paths))}"
            )
    if uncovered:
        shown = ", ".join(uncovered[:3]) + (" and more" if len(uncovered) > 3 else "")
        raise ConfigError(
            f"{FIELD}.rates leaves {counted(len(uncovered), 'parameter')} uncovered: {shown}; add "
            "a rule for them, with a rate of 0 to freeze them."
        )
    rates = {pattern: _rate(transfer.rates, pattern) for pattern in rules}
    if not any(rates.values()):
        raise ConfigError(
            f"{FIELD}.rates freezes every parameter; give one of them a rate above 0."
        )
    return tuple(Group(pattern, tuple(found[pattern]), rates[pattern]) for pattern in rules)


def _rate(rates: Mapping[str, object], pattern: str) -> float:
    value = rates[pattern]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):  # pyright: ignore[reportOperatorIssue]
        raise ConfigError(
            f"{FIELD}.rates[{pattern!r}] must be a finite number of at least 0; found {value!r}."
        )
    return float(value)  # pyright: ignore[reportArgumentType]


def _compiled(pattern: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{FIELD}.{field}: {pattern!r} is no regular expression: {error}; mend it."
        ) from error


def _layers(paths: Sequence[str]) -> list[str]:
    return sorted({"/".join(path.split("/")[:2]) for path in paths})
