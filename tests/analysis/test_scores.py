"""Scores, calibration and intervals, by hand and against scikit-learn."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from cnn_lab.analysis import calibration, scores
from cnn_lab.analysis.evaluation import (
    EvaluationResults,
    HeldOut,
    NetworkResult,
    evaluate_classifier,
    most_confused,
    pool,
)
from cnn_lab.analysis.scores import over_runs
from cnn_lab.core.targets import TargetSpec

K, N = 7, 500
LETTERS = TargetSpec("class", tuple("abcdefg"))


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """Those of a classifier that is often right and a little too sure."""
    random = np.random.default_rng(0)
    found = 2 * random.normal(size=(N, K))
    found[np.arange(N), random.integers(0, K, N)] += 3
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def labels(logits: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(1)
    noisy = logits / 2 + random.gumbel(size=logits.shape)
    return noisy.argmax(1).astype(np.int32)


def log(probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.asarray(probabilities))


def test_top_k_counts_labels_among_the_largest():
    logits = np.asarray([[3, 2, 1, 0], [0, 1, 2, 3], [1, 5, 1, 1]], np.float32)
    labels = np.asarray([0, 2, 2])
    assert scores.among_top(logits, labels, 1).mean() == pytest.approx(1 / 3)
    assert scores.among_top(logits, labels, 2).mean() == pytest.approx(2 / 3)
    # Of equal logits the first comes first: 1, then 0, then 2.
    assert not scores.among_top(logits[2:], labels[2:], 2).any()
    assert scores.among_top(logits[2:], labels[2:], 3).all()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_that_of_scikit_learn(logits, labels, k):
    wanted = metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(K))
    assert scores.among_top(logits, labels, k).mean() == pytest.approx(wanted, abs=1e-12)


def test_what_is_no_number_is_never_right():
    logits = np.full((2, 8), np.nan, np.float32)
    logits[1, 3] = 1
    assert not scores.among_top(logits, np.asarray([0, 3]), 5).any()


def test_classes_are_scored_by_hand():
    labels, predictions = np.asarray([0, 0, 0, 1, 1, 3]), np.asarray([0, 0, 1, 1, 0, 2])
    confusion = scores.confusion_matrix(labels, predictions, 5)
    assert confusion.tolist() == [
        [2, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    found = scores.class_scores(confusion)
    assert found.precision.tolist() == [2 / 3, 1 / 2, 0, 0, 0]
    assert found.recall.tolist() == [2 / 3, 1 / 2, 0, 0, 0]
    assert found.f1.tolist() == [2 / 3, 1 / 2, 0, 0, 0]
    # Class 4 is nowhere and has no part; class 2 was predicted only, class 3 never.
    assert found.macro()["f1"] == pytest.approx((2 / 3 + 1 / 2) / 4)
    assert found.weighted()["f1"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 6)
    assert most_confused(confusion, diagonal=False)[0] == (0, 1, 1)
    assert most_confused(confusion)[0] == (0, 0, 2)


def test_classes_are_scored_as_by_scikit_learn(logits, labels):
    labels = np.where(labels == 4, 5, labels)  # a class without examples
    predictions = np.where(logits.argmax(1) == 2, 3, logits.argmax(1))  # and one not predicted
    confusion = scores.confusion_matrix(labels, predictions, K)
    np.testing.assert_array_equal(
        confusion, metrics.confusion_matrix(labels, predictions, labels=range(K))
    )
    found = scores.class_scores(confusion)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without examples or predictions
        of_classes = metrics.precision_recall_fscore_support(labels, predictions, labels=range(K))
        averages = {
            average: metrics.precision_recall_fscore_support(labels, predictions, average=average)
            for average in ("macro", "weighted")
        }
    ours = (found.precision, found.recall, found.f1, found.support)
    for mine, wanted in zip(ours, of_classes, strict=True):
        np.testing.assert_allclose(mine, np.asarray(wanted), rtol=1e-12)
    for name, wanted in averages.items():
        means = getattr(found, name)()
        assert [means["precision"], means["recall"], means["f1"]] == pytest.approx(wanted[:3])


def test_losses_by_hand_and_by_scikit_learn(logits, labels):
    found = log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    answers = np.asarray([0, 1])
    assert scores.log_losses(found, answers) == pytest.approx([math.log(2), math.log(10)])
    # (0.5^2 + 2 * 0.25^2 + 0.1^2 + 0.9^2 + 0.8^2) / 2
    assert scores.brier_scores(found, answers) == pytest.approx([0.375, 1.46])
    found = scores.log_probabilities(logits)
    wanted = metrics.log_loss(labels, np.exp(found), labels=range(K))
    assert scores.log_losses(found, labels).mean() == pytest.approx(wanted, rel=1e-9)
    binary = scores.log_probabilities(logits[:, :2])
    truth = labels % 2
    wanted = 2 * metrics.brier_score_loss(truth, np.exp(binary[:, 1]))
    assert scores.brier_scores(binary, truth).mean() == pytest.approx(wanted)


def test_probabilities_are_averaged_and_not_logits():
    ensemble = scores.MeanProbabilities()
    networks = [[[0.9, 0.1]], [[0.2, 0.8]], [[0.4, 0.6]]]
    for network in networks:
        ensemble.add(log(network) + 7.0)  # logits are free up to a constant
    np.testing.assert_allclose(np.exp(ensemble.logits()), [[0.5, 0.5]])
    far = scores.MeanProbabilities()
    for top in (0, 1):
        far.add(np.eye(2, dtype=np.float32)[[top]] * 1e4)  # exp would overflow
    np.testing.assert_allclose(np.exp(far.logits()), [[0.5, 0.5]])


def test_calibration_error_by_hand():
    # Confidences 0.6 and 0.6 (one right), 0.95 (right), and 0.4, which is the upper end of bin 6.
    found = log([[0.6, 0.4, 0.0001], [0.4, 0.6, 0.0001], [0.025, 0.025, 0.95], [0.4, 0.3, 0.3]])
    bins = calibration.reliability(found, np.asarray([0, 0, 2, 1]))
    assert bins.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    assert bins.right.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    # 1/4 * |0 - 0.4| + 2/4 * |0.5 - 0.6| + 1/4 * |1 - 0.95|
    assert bins.error == pytest.approx(0.1 + 0.05 + 0.0125)
    twice = bins + bins
    assert twice.error == pytest.approx(bins.error)
    assert twice.counts.sum() == 8


def test_the_ends_of_bins_belong_to_the_bin_below():
    found = log([[0.5, 0.5], [1.0, 1e-300], [0.75, 0.25]])
    bins = calibration.reliability(found, np.asarray([0, 0, 0]), num_bins=4)
    assert bins.counts.tolist() == [0, 1, 1, 1]


def test_the_temperature_is_where_the_loss_is_least(logits, labels):
    found = calibration.fit_temperature(logits, labels)
    near = [found * factor for factor in (0.99, 1.0, 1.01)]
    losses = [scores.log_losses(scores.log_probabilities(logits / t), labels).mean() for t in near]
    assert losses[1] < min(losses[0], losses[2])
    assert 1.7 < found < 2.3  # labels were drawn at temperature 2
    before = calibration.reliability(scores.log_probabilities(logits), labels).error
    after = calibration.reliability(scores.log_probabilities(logits / found), labels).error
    assert after < before / 2
    scaled = calibration.fit_temperature(10 * logits, labels)
    assert scaled == pytest.approx(10 * found, rel=1e-5)


def test_parts_of_a_large_table_give_the_same_temperature(logits, labels, monkeypatch):
    whole = calibration.fit_temperature(logits, labels)
    monkeypatch.setattr(scores, "CACHED_VALUES", 9 * K)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(whole, rel=1e-9)


def test_what_has_no_best_temperature_is_not_given_one(logits, labels):
    none = "^there is no mistake among the images to fit it on$"
    with pytest.raises(calibration.NoTemperatureError, match=none):
        calibration.fit_temperature(logits, logits.argmax(1))
    with pytest.raises(calibration.NoTemperatureError, match="lowest at 100 or above"):
        calibration.fit_temperature(logits, logits.argmin(1))
    near = np.where(np.arange(N) == 0, labels, logits.argmax(1))
    assert near[0] != logits[0].argmax()  # one mistake, and that in one half
    assert calibration.fit_temperature(logits, near) < 1
    with pytest.raises(calibration.NoTemperatureError, match="in one of the halves that"):
        calibration.cross_fitted(logits, near)
    tiny = 1e-4 * logits  # mistaken, but as if at temperature 10,000
    with pytest.raises(calibration.NoTemperatureError, match=r"lowest at 0\.01 or below"):
        calibration.fit_temperature(tiny, labels)


def test_an_evaluation_says_why_it_has_no_temperature(logits, labels):
    right = logits.argmax(1).astype(np.int32)
    cases: tuple[tuple[HeldOut, np.ndarray, str], ...] = (
        ("same", right, "no mistake among the images"),
        ((logits, right), labels, "no mistake among the images"),
        (None, labels, "no validation examples"),
    )
    for held_out, of, why in cases:
        found = evaluate_classifier(logits, of, means={}, held_out=held_out, num_resamples=0)
        assert found.scaled is None
        assert why in found.no_temperature
        assert not {"ece_scaled", "log_loss_scaled"} & found.metrics.keys()
        assert found.to_json(tuple("abcdefg"))["no_temperature"] == found.no_temperature


def test_no_half_is_judged_by_its_own_temperature(logits, labels):
    half = calibration.alternating(labels)
    assert half.sum() == N // 2
    for k in range(K):
        assert abs(int(half[labels == k].sum()) - int((~half)[labels == k].sum())) <= 1
    found = calibration.cross_fitted(logits, labels)
    for judged in (half, ~half):
        other = calibration.fit_temperature(logits[~judged], labels[~judged])
        wanted = scores.log_probabilities(logits[judged] / other)
        np.testing.assert_array_equal(found[judged], wanted)


def test_an_interval_over_resamples_is_that_of_the_binomial():
    labels = np.zeros(400, np.int32)
    predictions = (np.arange(400) < 80).astype(np.int32)  # 320 of 400 are right
    found = scores.bootstrap(
        labels, predictions, {"log_loss": predictions * 2.0}, 2, num_resamples=4000
    )
    low, high = (stats.binom.ppf(p, 400, 0.8) / 400 for p in (0.025, 0.975))
    assert found["accuracy"].low == pytest.approx(low, abs=0.004)
    assert found["accuracy"].high == pytest.approx(high, abs=0.004)
    assert found["error"].low == pytest.approx(1 - found["accuracy"].high)
    assert found["error"].high == pytest.approx(1 - found["accuracy"].low)
    assert found["log_loss"].low == pytest.approx(2 * found["error"].low)


def test_every_resample_is_scored_like_a_split(logits, labels, monkeypatch):
    predictions = logits.argmax(1).astype(np.int32)
    losses = scores.log_losses(scores.log_probabilities(logits), labels)
    count, classes = 120, 9  # two classes never occur
    near = scores.among_top(logits, labels, 3).astype(np.float64)
    found = scores.bootstrap(
        labels,
        predictions,
        {"log_loss": losses, "top3": near},
        classes,
        num_resamples=count,
        seed=3,
    )
    random = np.random.default_rng(3)
    values = {"accuracy": [], "macro_f1": [], "log_loss": [], "top3": []}
    for drawn in random.integers(0, N, (count, N), np.int32):
        pair = labels[drawn], predictions[drawn]
        values["accuracy"].append(metrics.accuracy_score(*pair))
        values["macro_f1"].append(metrics.f1_score(*pair, average="macro"))
        values["log_loss"].append(losses[drawn].mean())
        values["top3"].append(
            metrics.top_k_accuracy_score(pair[0], logits[drawn], k=3, labels=range(K))
        )
    for name, of_resamples in values.items():
        wanted = np.quantile(of_resamples, (0.025, 0.975))
        assert [found[name].low, found[name].high] == pytest.approx(wanted.tolist(), abs=1e-12)


def test_resamples_are_drawn_in_portions_that_fit(logits, labels, monkeypatch):
    monkeypatch.setattr(scores, "DRAWN_VALUES", 3 * N)
    drawn, sizes = np.random.default_rng, []

    class Watched:
        def __init__(self, seed):
            self._random = drawn(seed)

        def integers(self, low, high, size, dtype):
            sizes.append(size)
            return self._random.integers(low, high, size, dtype)

    monkeypatch.setattr(np.random, "default_rng", Watched)
    scores.bootstrap(labels, labels, {}, K, num_resamples=8)
    assert sizes == [(3, N), (3, N), (2, N)]


def test_the_spread_over_runs_by_hand():
    found = over_runs([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.min, found.max, found.num_runs) == (2, 1, 1, 3, 3)
    # t(0.975, 2) = 4.302653
    assert found.interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - found.interval.low == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    wanted = stats.t.interval(0.9, 2, loc=2, scale=1 / math.sqrt(3))
    narrow = over_runs([1.0, 2.0, 3.0], 0.9).interval
    assert (narrow.low, narrow.high) == pytest.approx(wanted)


def test_an_evaluation_says_all_of_it(logits, labels):
    means = {"loss": 9.0, "accuracy": float(np.mean(logits.argmax(1) == labels))}
    found = evaluate_classifier(logits, labels, means=means, held_out=None, num_resamples=200)
    assert list(found.metrics) == [
        *("loss", "accuracy", "top5", "macro_f1", "log_loss", "brier", "ece"),
    ]
    assert found.metrics["loss"] == 9.0
    assert found.num_errors == round(N * (1 - means["accuracy"]))
    assert found.intervals.keys() == {
        *("accuracy", "error", "top5", "macro_f1", "log_loss", "brier"),
    }
    for name in found.intervals.keys() - {"error"}:
        assert found.intervals[name].low < found.metrics[name] < found.intervals[name].high
    few = evaluate_classifier(logits[:, :5], labels % 5, means={}, held_out=None, num_resamples=0)
    assert "top5" not in few.metrics  # five guesses of five classes are always right
    assert few.intervals == {}
    tables = found.to_json(tuple("abcdefg"))
    assert sum(cell["count"] for cell in tables["confusions"]) == N
    assert sum(row["count"] for row in tables["reliability"]) == N


def test_the_temperature_says_what_it_was_fitted_on(logits, labels):
    found = evaluate_classifier(
        logits, labels, means={}, held_out=(3 * logits[:100], labels[:100]), num_resamples=0
    )
    other = found.scaled
    assert other is not None
    assert other.how == "validation"
    assert other.temperature == calibration.fit_temperature(3 * logits[:100], labels[:100])
    wanted = scores.log_probabilities(logits / other.temperature)
    assert found.metrics["log_loss_scaled"] == scores.log_losses(wanted, labels).mean()
    assert other.after.error == calibration.reliability(wanted, labels).error
    same = evaluate_classifier(logits, labels, means={}, held_out="same", num_resamples=0).scaled
    assert same is not None
    assert same.how == "cross-fitted"
    wanted = calibration.cross_fitted(logits, labels)
    assert same.after.error == calibration.reliability(wanted, labels).error
    one = evaluate_classifier(logits[:1], labels[:1], means={}, held_out="same", num_resamples=0)
    assert one.scaled is None


def test_runs_are_put_together(logits, labels):
    found = [
        evaluate_classifier(scale * logits, labels, means={}, held_out="same", num_resamples=0)
        for scale in (1, 3)
    ]
    both = pool(found)
    assert both.num_examples == 2 * N
    assert both.num_errors == found[0].num_errors + found[1].num_errors
    assert both.before.counts.sum() == 2 * N
    assert both.scaled is not None
    assert both.scaled.after.counts.sum() == 2 * N
    some = pool(
        [found[0], evaluate_classifier(logits, labels, means={}, held_out=None, num_resamples=0)]
    )
    assert some.scaled is None
    assert some.no_temperature.startswith("there are no validation examples to fit it on, of one")


def test_results_of_several(logits, labels):
    found = [
        evaluate_classifier(
            scale * logits, labels, means={"loss": scale}, held_out=None, num_resamples=0
        )
        for scale in (1.0, 2.0)
    ]
    networks = tuple(
        NetworkResult(f"run{i}", f"/runs/run{i}", 7, N, 0.5, {"loss": 1.0 + i}, e)
        for i, e in enumerate(found)
    )
    ensemble = scores.MeanProbabilities()
    for scale in (1.0, 2.0):
        ensemble.add(scale * logits)
    whole = evaluate_classifier(ensemble.logits(), labels, means={}, held_out=None, num_resamples=0)
    results = EvaluationResults(
        "test",
        "d",
        "f",
        LETTERS,
        "none",
        0,
        networks,
        True,
        "",
        whole,
    )
    assert results.spreads()["loss"].mean == 1.5
    assert "loss" not in results.gains()
    wanted = (
        whole.metrics["log_loss"]
        - (found[0].metrics["log_loss"] + found[1].metrics["log_loss"]) / 2
    )
    assert results.gains()["log_loss"] == pytest.approx(wanted)
    assert wanted < 0
    values = results.to_json()
    assert values["over_runs"]["loss"]["num_runs"] == 2
    assert values["ensemble"]["minus_mean_of_networks"]["log_loss"] == pytest.approx(wanted)
    why = "they are checkpoints"
    others = EvaluationResults(
        "test",
        "d",
        "f",
        LETTERS,
        "none",
        0,
        networks,
        True,
        why,
        None,
    )
    assert others.spreads() == {}
    assert others.gains() == {}
    assert others.to_json()["no_spread"] == why
    assert "over_runs" not in others.to_json()
    alone = NetworkResult("run", "/runs/run", 7, N, 0.5, {"loss": math.nan}, None)
    values = EvaluationResults(
        "test", "d", "f", TargetSpec("class", ("a",)), "none", 0, (alone,), True, "", None
    ).to_json()
    assert values["networks"][0]["metrics"] == {"loss": None}
