"""Plans of what is trained: strategies, rules, phases."""

import dataclasses
import json

import pytest
from refusals import refused

from cnn_lab.config import TransferConfig
from cnn_lab.core.errors import ConfigError
from cnn_lab.transfer.plan import FEW, SOME, Plan, Stage, check_transfer, make_plan

STAGES = tuple(
    Stage(name, (f"{part}/{name}/bias", f"{part}/{name}/kernel"))
    for part, name in (
        ("backbone", "stem"),
        ("backbone", "stage1"),
        ("backbone", "stage2"),
        ("head", "head"),
    )
)


def plan(num_train: int = 100, num_epochs: int = 10, **fields) -> Plan:
    transfer = TransferConfig(source="x", **fields)
    check_transfer(transfer)
    return make_plan(transfer, STAGES, num_train, num_epochs)


def rates(found: Plan) -> dict[str, float]:
    return {group.name: group.rate for group in found.groups}


@pytest.mark.parametrize(
    ("strategy", "trained"),
    [
        ("head", ["head"]),
        ("last_stages:1", ["stage2", "head"]),
        ("last_stages:3", ["stem", "stage1", "stage2", "head"]),
        ("all", ["stem", "stage1", "stage2", "head"]),
        ("stages:stage1,head", ["stage1", "head"]),
        ("stages:stem", ["stem"]),
    ],
)
def test_strategies_train_from_the_end(strategy, trained):
    found = plan(strategy=strategy)
    assert [name for name, rate in rates(found).items() if rate] == trained
    assert found.phase_starts == (0,)


def test_the_decay_lowers_the_rate_from_stage_to_stage():
    assert rates(plan(strategy="last_stages:2", stage_decay=0.5)) == {
        "stem": 0.0,
        "stage1": 0.25,
        "stage2": 0.5,
        "head": 1.0,
    }


def test_gradual_trains_the_head_first_and_then_stage_after_stage():
    found = plan(strategy="gradual", epochs_per_stage=2, stage_decay=0.5)
    assert {group.name: group.first_epoch for group in found.groups} == {
        "stem": 6,
        "stage1": 4,
        "stage2": 2,
        "head": 0,
    }
    assert found.phase_starts == (0, 2, 4, 6)
    assert [group.name for group in found.trained(3)] == ["stage2", "head"]
    assert rates(found)["stem"] == 0.125


@pytest.mark.parametrize(
    ("num_train", "strategy"),
    [
        (1, "head"),
        (FEW, "head"),
        (FEW + 1, "last_stages:1"),
        (SOME, "last_stages:1"),
        (SOME + 1, "all"),
    ],
)
def test_auto_goes_by_the_number_of_images_and_says_so(num_train, strategy):
    found = plan(num_train)
    assert found.strategy == strategy
    assert f"{num_train:,} training image" in found.reason
    assert rates(found) == rates(plan(num_train, strategy=strategy))


def test_rules_cover_every_parameter_once():
    found = plan(rates={"^backbone/st(em|age1)": 0, "stage2": 0.1, "^head": 2})
    assert rates(found) == {"^backbone/st(em|age1)": 0.0, "stage2": 0.1, "^head": 2.0}
    assert found.strategy == "rates"
    assert sorted(path for group in found.groups for path in group.paths) == sorted(
        path for stage in STAGES for path in stage.paths
    )


@pytest.mark.parametrize(
    ("fields", "where", "found"),
    [
        (
            {"rates": {"^backbone/stage": 0, "^head": 1}},
            "rates",
            ["backbone/stem/bias", "backbone/stem/kernel"],
        ),
        ({"rates": {"^backbone": 0, "stage2": 1, "^head": 1}}, "rates", "backbone/stage2/bias"),
        ({"rates": {"^backbone/stage3": 0, ".": 1}}, "rates", "backbone/stage3"),
        ({"rates": {"(": 0}}, "rates", "("),
        ({"rates": {".": -1}}, "rates['.']", -1),
        ({"rates": {".": "a"}}, "rates['.']", "a"),
        ({"rates": {".": 0}}, "rates", {".": 0}),
        ({"strategy": "heads"}, "strategy", "heads"),
        ({"strategy": "last_stages:4"}, "strategy", "last_stages:4"),
        ({"strategy": "last_stages:0"}, "strategy", "last_stages:0"),
        ({"strategy": "stages:"}, "strategy", "stages"),
        ({"strategy": "last_stages:x"}, "strategy", "last_stages"),
        ({"fresh": "["}, "fresh", "["),
        ({"strategy": "all", "rates": {".": 1}}, "rates", {".": 1}),
        ({"strategy": "head", "stage_decay": 0.5}, "stage_decay", 0.5),
        ({"rates": {".": 1}, "stage_decay": 0.5}, "stage_decay", 0.5),
        ({"strategy": "all", "epochs_per_stage": 2}, "epochs_per_stage", 2),
        ({"strategy": "logistic", "dropout": 0.5}, "dropout", 0.5),
        ({"strategy": "logistic", "l2_sp": 0.1}, "l2_sp", 0.1),
        ({"strategy": "stages:stage1,stage3"}, "strategy", "stage3"),
        ({"strategy": "gradual", "epochs_per_stage": 4}, "epochs_per_stage", 4),
    ],
)
def test_impossible_plans_are_refused(fields, where, found):
    with refused(ConfigError, where=f"config.transfer.{where}", found=found):
        plan(**fields)


def test_a_plan_that_is_too_long_is_refused_with_what_would_fit():
    with pytest.raises(ConfigError) as caught:
        plan(strategy="gradual", epochs_per_stage=4)
    assert str(caught.value) == (
        "config.transfer.strategy=gradual begins to train the last of 4 stages after 12 epochs, "
        "but the run has only 10; lower config.transfer.epochs_per_stage or raise "
        "config.train.num_epochs above 12."
    )


def test_logistic_fits_the_output_layer_alone():
    hidden = Stage("head", ("head/hidden1/kernel", "head/output/bias", "head/output/kernel"))
    transfer = TransferConfig(source="x", strategy="logistic")
    found = make_plan(transfer, (*STAGES[:-1], hidden), 100, 10)
    assert found.is_linear_probe
    assert rates(found) == {"stem": 0, "stage1": 0, "stage2": 0, "head": 0, "output": 1}
    assert found.trained(0)[0].paths == ("head/output/bias", "head/output/kernel")
    assert not plan(strategy="head").is_linear_probe


def test_a_plan_comes_back_from_a_record():
    found = plan(strategy="gradual", stage_decay=0.5)
    assert Plan.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_the_table_says_what_is_trained_how_fast_and_from_when():
    sizes = {path: 1500 for stage in STAGES for path in stage.paths}
    lines = plan(strategy="gradual", stage_decay=0.5).table(sizes, 0.1)
    assert lines == [
        "Strategy gradual.",
        "  group   parameters  trained       learning rate",
        "  stem         3,000  from epoch 4  0.0125",
        "  stage1       3,000  from epoch 3  0.025",
        "  stage2       3,000  from epoch 2  0.05",
        "  head         3,000  yes           0.1",
    ]
    assert plan(30).table(sizes, 0.1)[0] == (
        f"Strategy head: 30 training images are very few (at most {FEW}): only the head is trained."
    )
    assert plan(30).table(sizes, 0.1)[2] == "  stem         3,000  no"
