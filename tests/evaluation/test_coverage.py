from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from stlib.evaluation.coverage import christoffersen, kupiec


def bernoulli(steps, series, level, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((steps, series)) < level)


def chain(steps, series, after_hit, after_none, seed=0):
    draws = np.random.default_rng(seed).random((steps, series))
    hits = np.zeros((steps, series), bool)
    for t in range(1, steps):
        hits[t] = draws[t] < np.where(hits[t - 1], after_hit, after_none)
    return torch.from_numpy(hits)


def test_kupiec_is_the_ratio_of_two_binomial_likelihoods():
    hits = bernoulli(400, 5, 0.03)
    test = kupiec(hits, 0.05)
    for series in range(5):
        n1 = int(hits[:, series].sum())
        ratio = 2 * (stats.binom.logpmf(n1, 400, n1 / 400) - stats.binom.logpmf(n1, 400, 0.05))
        assert test.rate[series] == n1 / 400
        assert test.statistic[series].item() == pytest.approx(ratio, rel=1e-9)
        assert test.p_value[series].item() == pytest.approx(stats.chi2.sf(ratio, 1), rel=1e-9)


def test_christoffersen_is_the_likelihood_of_a_markov_chain_step_by_step():
    hits = chain(300, 4, 0.3, 0.05)
    independence, both = christoffersen(hits, 0.05)
    for series in range(4):
        x = hits[:, series].numpy().astype(int)
        pairs = np.array([[((x[:-1] == i) & (x[1:] == j)).sum() for j in (0, 1)] for i in (0, 1)])
        chance = pairs / pairs.sum(1, keepdims=True)
        markov = sum(np.log(chance[i, j]) for i, j in pairwise(x))
        alone = stats.bernoulli.logpmf(x[1:], x[1:].mean()).sum()
        promised = stats.bernoulli.logpmf(x[1:], 0.05).sum()
        assert independence.rate[series].item() == pytest.approx(chance[1, 1])
        assert both.rate[series].item() == pytest.approx(x[1:].mean())
        for test, ratio, degrees in ((independence, 2 * (markov - alone), 1), (both, 2 * (markov - promised), 2)):
            assert test.statistic[series].item() == pytest.approx(ratio, rel=1e-9)
            assert test.p_value[series].item() == pytest.approx(stats.chi2.sf(ratio, degrees), rel=1e-9)


def test_joint_test_is_independence_plus_coverage_of_all_but_the_first():
    hits = chain(300, 6, 0.2, 0.05)
    independence, both = christoffersen(hits, 0.05)
    torch.testing.assert_close(both.statistic, independence.statistic + kupiec(hits[1:], 0.05).statistic)


def test_true_bounds_are_rejected_as_often_as_they_should():
    hits = bernoulli(2000, 5000, 0.05)
    for test in (kupiec(hits, 0.05), *christoffersen(hits, 0.05)):
        # 5000 series: the standard error of a rejection rate of 0.05 is 0.003
        assert (test.p_value < 0.05).double().mean().item() == pytest.approx(0.05, abs=0.012)
        assert (test.p_value < 0.5).double().mean().item() == pytest.approx(0.5, abs=0.04)


def test_each_test_sees_what_it_is_for_and_only_that():
    clustered = chain(2000, 500, 0.24, 0.04)  # 5 % in the long run
    often = bernoulli(2000, 500, 0.08)

    def power(test):
        return (test.p_value < 0.05).double().mean().item()

    independence, both = christoffersen(clustered, 0.05)
    assert power(independence) > 0.9
    assert power(both) > 0.9
    independence, both = christoffersen(often, 0.05)
    assert power(kupiec(often, 0.05)) > 0.9
    assert power(both) > 0.9
    assert power(independence) < 0.1


def test_missing_steps_are_left_out_and_break_pairs():
    nan = float("nan")
    gap = torch.tensor([1, 0, nan, 0, 1, 1, nan, nan, 0, 0])[:, None]
    assert kupiec(gap, 0.1).rate.item() == pytest.approx(3 / 7)
    torch.testing.assert_close(kupiec(gap, 0.1), kupiec(gap[~gap.isnan()][:, None], 0.1))
    independence, both = christoffersen(gap, 0.1)  # the pairs are 10, 01, 11, 00
    assert (independence.rate.item(), both.rate.item()) == (0.5, 0.5)
    assert independence.statistic.item() == 0
    assert both.statistic.item() == pytest.approx(2 * (4 * np.log(0.5) - 2 * np.log(0.1 * 0.9)))


def test_series_without_hits_without_steps_and_of_any_shape():
    hits = torch.zeros(50, 2, 3)
    hits[:, 0, 0] = torch.nan
    hits[:, 1, 2] = 1
    for test in (kupiec(hits, 0.1), *christoffersen(hits, 0.1)):
        assert test.statistic.shape == test.p_value.shape == (2, 3)
        assert test.p_value.isnan().nonzero().tolist() == [[0, 0]]
    none = kupiec(hits, 0.1)
    assert none.statistic[0, 1].item() == pytest.approx(-2 * 50 * np.log(0.9))
    assert none.statistic[1, 2].item() == pytest.approx(-2 * 50 * np.log(0.1))
    assert christoffersen(hits, 0.1)[0].p_value[0, 1] == 1


def test_unusable_input_is_refused():
    for test in (kupiec, christoffersen):
        with pytest.raises(ValueError, match="level must lie between 0 and 1, got 1"):
            test(torch.zeros(5), 1)
        with pytest.raises(ValueError, match="true and false only"):
            test(torch.full((5,), 0.5), 0.1)
