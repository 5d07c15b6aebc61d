"""The least of many functions at once, where it is known."""

import torch

from stlib.models._descent import hessian_of, minimise

TOP = torch.linspace(-2, 2, 9).double()  # where each function is least, in its first coordinate


def valleys(x, which):
    """Rosenbrock's curved valley with its least value, 0, at (a, a^2); the Hessian without its second-order part."""
    a = TOP[which % len(TOP)]
    first, second = 2 * (x[:, 0] - a), 10 * (x[:, 1] - x[:, 0] ** 2)
    by_first = torch.stack([torch.full_like(a, 2.0), torch.zeros_like(a)], 1)
    by_second = torch.stack([-20 * x[:, 0], torch.full_like(a, 10.0)], 1)
    rows = torch.stack([by_first, by_second], 1)
    residuals = torch.stack([first, second], 1)
    slope = 2 * (residuals[:, None] @ rows)[:, 0]
    return residuals.square().sum(1), slope, 2 * rows.mT @ rows


def hills(x, which):
    """cos x: least at odd multiples of pi; its Hessian is not positive everywhere, the one that is given is."""
    return x.cos().sum(1), -x.sin(), torch.ones_like(x)[..., None]


def test_curved_valleys_are_followed_to_their_ends():
    found = minimise(valleys, torch.tensor([[-1.2, 1.0]]).double().repeat(9, 1), tolerance=1e-10)
    assert found.done.all()
    torch.testing.assert_close(found.x, torch.stack([TOP, TOP**2], 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.value, torch.zeros(9).double(), rtol=0, atol=1e-9)


def test_the_true_hessian_is_that_of_the_function():
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    found = hessian_of(valleys, x, torch.arange(9))[2]
    for own, place, which in zip(found, x, range(9), strict=True):
        expected = torch.autograd.functional.hessian(
            lambda z, which=which: valleys(z[None], torch.tensor([which]))[0][0], place
        )
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-4)


def test_what_does_not_settle_goes_on_with_the_true_hessian(monkeypatch):
    monkeypatch.setattr("stlib.models._descent.ROUNDS", 1)
    start = torch.tensor([[0.3], [-0.4], [2.0]]).double()
    found = minimise(hills, start, tolerance=1e-9)
    assert found.done.all()
    torch.testing.assert_close(found.x.abs(), torch.full((3, 1), torch.pi).double(), rtol=0, atol=1e-4)


def test_a_limit_holds():
    def falling(x, which):
        return -x.sum(1), -torch.ones_like(x), torch.full_like(x, 0.01)[..., None]

    found = minimise(falling, torch.tensor([[7.0], [8.0]]).double(), tolerance=1e-6)
    assert found.done.all()
    assert (found.x == 8).all()


def test_of_rivals_only_the_best_goes_on():
    calls = []

    def counted(x, which):
        calls.append(len(which))
        return valleys(x, torch.full_like(which, 4))  # least at (0, 0)

    x = torch.tensor([[0.1, 0.1], [1.9, -2.0], [0.2, -0.1]]).double()
    found = minimise(counted, x, tolerance=1e-8, rivals=torch.tensor([0, 0, 1]))
    assert found.done[[0, 2]].all() and not found.done[1]
    assert calls[0] == 3 and calls[-1] <= 2
    assert found.value[1] > 100 * found.value[0]


def test_what_a_hessian_lacks_is_learnt():
    calls = []

    def steep(x, which):  # a paraboloid whose Hessian is said to be ten times as large
        calls.append(len(which))
        true = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=x.dtype)
        return ((x @ true) * x).sum(1) / 2, x @ true, (10 * true).expand(len(x), 2, 2)

    found = minimise(steep, torch.tensor([[1.0, -1.5]]).double(), tolerance=1e-10, rounds=23)
    assert found.done.all() and len(calls) < 16
    assert (found.x.abs() < 1e-4).all()
