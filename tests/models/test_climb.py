import numpy as np
import torch
from scipy.optimize import minimize

from stlib.models._climb import bounded_step, climb


def problems(count, size, bounds, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(count, size, size))
    hessian = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(size)
    return (
        hessian,
        rng.normal(size=(count, size)),
        rng.normal(size=(bounds, size)),
        -rng.exponential(size=(count, bounds)),
    )


def test_the_bounded_step_is_that_of_scipy():
    hessian, gradient, a, b = problems(20, 3, 4)
    b[:5, 0] = 0.0  # on a bound at the start
    steps = bounded_step(*(torch.from_numpy(part) for part in (hessian, gradient, a, b))).numpy()
    free = np.linalg.solve(hessian, gradient[..., None])[..., 0]
    assert 3 < (free @ a.T >= b).all(1).sum() < 15  # bounds hold some of the steps, and leave some alone
    for step, h, g, bound in zip(steps, hessian, gradient, b, strict=True):
        found = minimize(
            lambda d, h=h, g=g: d @ h @ d / 2 - g @ d,
            np.zeros(3),
            jac=lambda d, h=h, g=g: h @ d - g,
            constraints={"type": "ineq", "fun": lambda d, bound=bound: a @ d - bound, "jac": lambda d: a},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 200},
        )
        np.testing.assert_allclose(step, found.x, atol=2e-5)
        assert (a @ step >= bound - 1e-9).all()


def test_the_climb_finds_the_known_top_of_each_series_from_a_rough_information():
    top = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3)
    rough = torch.tensor([[1.0, 0.2], [0.2, 0.5]], dtype=torch.float64)

    def evaluate(vector, places):  # -cosh of the distance: its Hessian is far from the information it is given
        away = vector - top[:, places]
        return -away.cosh().sum(0), -away.sinh().T, rough.expand(len(places), 2, 2)

    start = torch.zeros(2, 3, dtype=torch.float64) - 3
    bounds = torch.tensor([[-1.0, 0.0]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)  # v0 <= -0.5
    vector, value, converged = climb(evaluate, start, *bounds)
    expected = torch.stack([top[0].clamp_max(-0.5), top[1]])
    assert converged.all()
    torch.testing.assert_close(vector, expected, atol=3e-3, rtol=0)  # half its square is about the gain left
    torch.testing.assert_close(value, -(expected - top).cosh().sum(0), atol=2e-6, rtol=0)


def test_a_series_that_cannot_be_evaluated_is_left_alone():
    def evaluate(vector, places):
        value = -(vector[0] ** 2)
        value[places == 1] = torch.nan
        return value, -2 * vector.T, torch.full((len(places), 1, 1), 2.0, dtype=torch.float64)

    unbounded = torch.zeros(0, 1, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    vector, value, converged = climb(evaluate, torch.ones(1, 3, dtype=torch.float64), *unbounded)
    assert converged.tolist() == [True, False, True]
    assert value.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(vector[0, ::2], torch.zeros(2).double(), atol=1e-3, rtol=0)
