"""Intervals and tests against known values and against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score, recall_score

from wingspan.evaluate import statistics as s
from wingspan.evaluate.measures import share
from wingspan.evaluate.scores import score_table
from wingspan.evaluate.tasks import Task

shares = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_wilson_matches_a_published_value() -> None:
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    assert s.wilson(81, 263).low == pytest.approx(0.2553, abs=1e-4)
    assert s.wilson(81, 263).high == pytest.approx(0.3662, abs=1e-4)


@given(shares)
def test_wilson_holds_the_share_and_matches_scipy(counts: tuple[int, int]) -> None:
    successes, trials = counts
    interval = s.wilson(successes, trials)
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert 0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    gained = sum(b and not a for a, b in pairs)
    discordant = sum(a != b for a, b in pairs)
    expected = stats.binomtest(gained, discordant).pvalue if discordant else 1.0
    assert s.mcnemar(first, second) == pytest.approx(min(1.0, expected))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=50))
def test_scores_of_classes_match_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    sums = s.confusion_columns(gold, predicted, 3).sum(axis=0)
    macro = {"average": "macro", "zero_division": 0}
    assert float(s.macro_f1(sums)) == pytest.approx(f1_score(gold, predicted, **macro))
    assert float(s.f1_of(1, 2)(sums)) == pytest.approx(f1_score(gold, predicted, labels=[1, 2], **macro))
    assert float(s.macro_recall(sums)) == pytest.approx(
        recall_score(gold, predicted, labels=sorted(set(gold)), **macro)
    )


def test_an_answer_that_names_no_class_is_wrong() -> None:
    sums = s.confusion_columns([0, 1, 2], [-1, -1, 2], 3).sum(axis=0)
    assert float(s.macro_recall(sums)) == pytest.approx(1 / 3)


def test_the_standard_error_is_that_of_the_mean_and_grows_where_items_hang_together() -> None:
    values = np.random.default_rng(4).normal(size=400).repeat(5)  # five equal items of each author
    columns, authors = s.ratio_columns(list(values)), [str(number // 5) for number in range(2000)]
    how = {"resamples": 2000, "seed": 1}
    alone = s.estimate(s.ratio, columns, **how)
    together = s.estimate(s.ratio, columns, clusters=authors, **how)
    assert alone.standard_error == pytest.approx(values.std() / np.sqrt(2000), rel=0.08)
    assert together.standard_error == pytest.approx(values.std() / np.sqrt(400), rel=0.08)
    docs = [{"id": str(n), "cluster": str(n), "thread": thread} for n, thread in enumerate(authors)]
    again = [doc | {"cluster": str(number // 2)} for number, doc in enumerate(docs)]
    task = Task("t", {}, again, [share("t", "t", "t", lambda doc, answer: answer > 0)])
    (row,) = score_table(task, {"assistant": [*values]}, resamples=200, seed=1)
    assert row["clusters"] == 400  # threads, which leave the score less sure than pairs of one author


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-4, 4)), min_size=3, max_size=40).filter(
        lambda rows: np.std([x for x, _ in rows]) > 0.1 and np.std([y for _, y in rows]) > 0.1
    )
)
def test_pearson_matches_scipy(rows: list[tuple[float, float]]) -> None:
    x, y = [a for a, _ in rows], [b for _, b in rows]
    ours = float(s.pearson(s.moment_columns(x, y).sum(axis=0)))
    assert ours == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-8)


def test_a_constant_has_no_correlation() -> None:
    assert float(s.pearson(s.moment_columns([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).sum(axis=0))) == 0.0


def test_bootstrap_of_a_mean_matches_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    interval = s.estimate(s.ratio, s.ratio_columns(values), resamples=4000, seed=1)
    margin = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - margin, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + margin, abs=0.02)


def test_clusters_widen_the_interval() -> None:
    """Ten authors with forty identical posts each are ten observations, not four hundred."""
    values = np.repeat(np.random.default_rng(5).normal(0, 1, 10), 40)
    authors = [str(number // 40) for number in range(400)]
    columns = s.ratio_columns(values)
    alone = s.estimate(s.ratio, columns, resamples=2000, seed=1)
    clustered = s.estimate(s.ratio, columns, resamples=2000, seed=1, clusters=authors)
    assert clustered.value == pytest.approx(alone.value)
    assert clustered.high - clustered.low > 4 * (alone.high - alone.low)


@given(st.integers(0, 2**31), st.lists(st.floats(-5, 5), min_size=2, max_size=30))
@settings(max_examples=30)
def test_resampling_is_deterministic_and_holds_equal_models_equal(seed: int, values: list[float]) -> None:
    columns = s.ratio_columns(values)
    first = s.compare(s.ratio, columns, columns, resamples=100, seed=seed)
    assert first == s.compare(s.ratio, columns, columns, resamples=100, seed=seed)
    assert (first.value, first.low, first.high, first.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_found_and_noise_is_not() -> None:
    random = np.random.default_rng(7)
    base = random.normal(0, 1, 200)
    better = s.compare(
        s.ratio, s.ratio_columns(base), s.ratio_columns(base + 0.5 + random.normal(0, 0.2, 200)), resamples=999, seed=1
    )
    assert better.p_value == pytest.approx(0.001)
    assert better.low > 0.4
    noise = s.compare(s.ratio, s.ratio_columns(base), s.ratio_columns(random.permutation(base)), resamples=999, seed=1)
    assert noise.p_value > 0.9
    assert noise.low < 0 < noise.high


def test_the_permutation_test_matches_scipy_on_a_mean() -> None:
    random = np.random.default_rng(11)
    first, second = random.normal(0, 1, 30), random.normal(0.3, 1, 30)
    ours = s.compare(s.ratio, s.ratio_columns(first), s.ratio_columns(second), resamples=20_000, seed=1)
    expected = stats.permutation_test(
        (first, second),
        lambda a, b, axis: (b - a).mean(axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    )
    assert ours.p_value == pytest.approx(expected.pvalue, abs=0.02)
