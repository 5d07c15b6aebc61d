"""Coverage: are bounds broken as often as promised, and without one break calling the next?"""

from typing import NamedTuple

import torch
from torch import Tensor


class CoverageTest(NamedTuple):
    """A likelihood-ratio test for each series: how often the bound was broken, the statistic, and its p-value."""

    rate: Tensor
    statistic: Tensor
    p_value: Tensor


def kupiec(hits: Tensor, level: float) -> CoverageTest:
    r"""Are as many bounds broken as promised? Kupiec's test of unconditional coverage.

    .. math:: 2 \left[ n_1 \ln\frac{\hat\pi}{\alpha} + n_0 \ln\frac{1 - \hat\pi}{1 - \alpha} \right] \sim \chi^2_1,
              \qquad \hat\pi = \frac{n_1}{n_0 + n_1}

    with :math:`n_1` hits (a bound was broken) and :math:`n_0` others.

    Shapes: ``hits`` (T, ...), true or false, or 1, 0 and NaN where there is none, to the rest, ``(...)``; ``level`` is
    the promised rate of hits. A series without any is NaN.
    Raises ValueError for a level not between 0 and 1, and for other values.
    Source: Kupiec (1995), doi:10.3905/jod.1995.407942.

    >>> test = kupiec(torch.arange(250) % 50 == 0, 0.01)
    >>> test.rate.item(), round(test.statistic.item(), 3), round(test.p_value.item(), 3)
    (0.02, 1.957, 0.162)
    """
    hits, observed = _checked(hits, level)
    ones, zeros = _count(hits == 1), _count(observed & (hits == 0))
    rate = ones / (ones + zeros)
    statistic = 2 * (_log_likelihood(ones, zeros, rate) - _log_likelihood(ones, zeros, _level(level, rate)))
    statistic = statistic.clamp_min(0.0)
    return CoverageTest(rate, statistic, (statistic / 2).sqrt().erfc())


def christoffersen(hits: Tensor, level: float) -> tuple[CoverageTest, CoverageTest]:
    r"""Does a hit call the next? Christoffersen's tests of independence, and of coverage and independence together.

    With :math:`n_{ij}` the number of steps from state i to state j (1 is a hit),
    :math:`\pi_i = n_{i1} / (n_{i0} + n_{i1})`, :math:`\hat\pi = (n_{01} + n_{11}) / \sum n_{ij}`, and
    :math:`\ell(\pi; n_1, n_0) = n_1 \ln \pi + n_0 \ln (1 - \pi)`,

    .. math:: 2 \left[\ell(\pi_0; n_{01}, n_{00}) + \ell(\pi_1; n_{11}, n_{10})
              - \ell(\hat\pi; n_{01} + n_{11}, n_{00} + n_{10}) \right] &\sim \chi^2_1

              2 \left[\ell(\pi_0; n_{01}, n_{00}) + \ell(\pi_1; n_{11}, n_{10})
              - \ell(\alpha; n_{01} + n_{11}, n_{00} + n_{10}) \right] &\sim \chi^2_2

    Without gaps the second is the first plus `kupiec` of all hits but the first. With few hits the tests are rough: at
    a level of 1 % and 250 steps two hits in a row are expected once in forty series.

    Shapes: as `kupiec`. Only pairs of steps that both count are taken. ``rate`` is that of a hit after a hit in the
    first test, :math:`\pi_1`, and :math:`\hat\pi` in the second. A series without any pair is NaN.
    Raises ValueError as `kupiec` does.
    Source: Christoffersen (1998), doi:10.2307/2527341.

    >>> independence, both = christoffersen(torch.arange(250) % 125 < 5, 0.04)
    >>> independence.p_value.item() < 0.001, both.p_value.item() < 0.001, both.rate.item() < 0.04
    (True, True, True)
    """
    hits, observed = _checked(hits, level)
    pair = observed[1:] & observed[:-1]
    from_hit, to_hit = hits[:-1] == 1, hits[1:] == 1
    n00, n01, n10, n11 = (
        _count(pair & (from_hit == start) & (to_hit == end)) for start in (False, True) for end in (False, True)
    )
    rate, after_hit = (n01 + n11) / (n00 + n01 + n10 + n11), n11 / (n10 + n11)
    # A state that was never left has no rate, and adds nothing.
    free = _log_likelihood(n01, n00, n01 / (n00 + n01)).nan_to_num(0.0)
    free = free + _log_likelihood(n11, n10, after_hit).nan_to_num(0.0)
    tests = [
        (2 * (free - _log_likelihood(n01 + n11, n00 + n10, bound))).clamp_min(0.0)
        for bound in (rate, _level(level, rate))
    ]
    independence, both = tests
    return (
        CoverageTest(after_hit, independence, (independence / 2).sqrt().erfc()),
        CoverageTest(rate, both, (-both / 2).exp()),
    )


def _checked(hits: Tensor, level: float) -> tuple[Tensor, Tensor]:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    hits = hits.double()
    observed = ~hits.isnan()
    if hits.ndim < 1 or not ((hits == 0) | (hits == 1) | ~observed).all():
        raise ValueError("hits must be (T, ...) and hold true and false only, or 1, 0 and NaN")
    return hits, observed


def _count(which: Tensor) -> Tensor:
    return which.sum(0).double()


def _level(level: float, rate: Tensor) -> Tensor:
    return torch.full_like(rate, level).where(~rate.isnan(), torch.nan)


def _log_likelihood(ones: Tensor, zeros: Tensor, rate: Tensor) -> Tensor:
    return torch.xlogy(ones, rate) + torch.xlogy(zeros, 1 - rate)
