"""Plans of what is trained: strategies, rules, phases."""

import dataclasses
import json

import pytest

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
    ("fields", "message"),
    [
        (
            {"rates": {"^backbone/stage": 0, "^head": 1}},
            "config.transfer.rates leaves 2 parameters uncovered: backbone/stem/bias, "
            "backbone/stem/kernel; add a rule for them",
        ),
        (
            {"rates": {"^backbone": 0, "stage2": 1, "^head": 1}},
            "backbone/stage2/bias matches both '^backbone' and 'stage2'; let every",
        ),
        (
            {"rates": {"^backbone/stage3": 0, ".": 1}},
            "the rule '^backbone/stage3' matches no parameter; did you mean backbone/stage2, "
            "backbone/stage1",
        ),
        ({"rates": {"(": 0}}, "'(' is no regular expression: missing ), unterminated subpattern"),
        ({"rates": {".": -1}}, "rates['.'] must be a finite number of at least 0; found -1."),
        ({"rates": {".": "a"}}, "rates['.'] must be a finite number of at least 0; found 'a'."),
        (
            {"rates": {".": 0}},
            "config.transfer.rates freezes every parameter; give one of them a rate above 0.",
        ),
        ({"strategy": "heads"}, "config.transfer.strategy is 'heads'; did you mean head"),
        (
            {"strategy": "last_stages:4"},
            "config.transfer.strategy is last_stages:4, but the backbone has 3 stages (stem, "
            "stage1, stage2); give 1 to 3, or another strategy.",
        ),
        ({"strategy": "last_stages:0"}, "the backbone has 3 stages"),
        ({"strategy": "stages:"}, "config.transfer.strategy is 'stages:'; did you mean"),
        ({"strategy": "last_stages:x"}, "config.transfer.strategy is 'last_stages:x'; did you"),
        ({"fresh": "["}, "config.transfer.fresh: '[' is no regular expression: unterminated"),
        (
            {"strategy": "all", "rates": {".": 1}},
            "config.transfer.rates and config.transfer.strategy=all both choose what is trained; "
            "leave out one of them.",
        ),
        (
            {"strategy": "head", "stage_decay": 0.5},
            "config.transfer.stage_decay is 0.5, which changes nothing with "
            "config.transfer.strategy=head; leave out one of them.",
        ),
        (
            {"rates": {".": 1}, "stage_decay": 0.5},
            "stage_decay is 0.5, which changes nothing with config.transfer.rates; leave",
        ),
        ({"strategy": "all", "epochs_per_stage": 2}, "epochs_per_stage is 2, which changes"),
        ({"strategy": "logistic", "dropout": 0.5}, "dropout is 0.5, which changes nothing with"),
        ({"strategy": "logistic", "l2_sp": 0.1}, "l2_sp is 0.1, which changes nothing with"),
        (
            {"strategy": "stages:stage1,stage3"},
            "config.transfer.strategy names the stage 'stage3', which the network does not have; "
            "did you mean stage2, stage1",
        ),
        (
            {"strategy": "gradual", "epochs_per_stage": 4},
            "begins to train the last of 4 stages after 12 epochs, but the run has only 10; lower "
            "config.transfer.epochs_per_stage or raise config.train.num_epochs above 12.",
        ),
    ],
)
def test_impossible_plans_are_refused_in_one_sentence(fields, message):
    with pytest.raises(ConfigError) as caught:
        plan(**fields)
    assert message in str(caught.value)
    assert caught.value.where is not None
    assert caught.value.where.startswith("config.transfer.")


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
