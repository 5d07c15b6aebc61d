import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from stlib.models import _recursion
from stlib.models._recursion import linear_recursion


def loop(u, c, start):
    y = list(start.flip(0))
    c = c.expand(-1, len(u), -1)
    for t in range(len(u)):
        y.append(u[t] + sum(c[k, t] * y[-1 - k] for k in range(len(c))))
    return torch.stack(y[len(start) :])


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64, 101])
@pytest.mark.parametrize("lags", [1, 2, 3])
@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("width", [1, 2**13])
def test_the_recursion_in_blocks_is_the_plain_loop(monkeypatch, steps, lags, changes, width):
    monkeypatch.setitem(_recursion.WIDTH, "cpu", width)
    u, start = draw(steps, 2, 3), draw(lags, 2, 3, seed=1)
    c = draw(lags, steps if changes else 1, 3, seed=2) / 2
    expected = loop(u, c, start)
    torch.testing.assert_close(linear_recursion(u.clone(), c, start), expected, rtol=1e-9, atol=1e-9)


def test_constant_factors_are_the_filter_of_scipy():
    u = draw(500, 1, 4)
    c = torch.tensor([0.6, 0.3], dtype=torch.float64)[:, None, None].expand(2, 1, 4)
    expected = lfilter([1.0], [1.0, -0.6, -0.3], u[:, 0].numpy(), axis=0)
    np.testing.assert_allclose(linear_recursion(u, c, torch.zeros(2, 1, 4).double())[:, 0], expected, rtol=1e-10)
