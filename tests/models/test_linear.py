import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from stlib.models import linear
from stlib.models.linear import DLinear, LinearMap, NLinear

PAST, HORIZON = 5, 3


def walks(steps=120, channels=2, places=3, seed=0):
    return torch.randn(
        steps, channels, places, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).cumsum(0)


def rows(series):
    """Departures from the last past value, one row a window and place: an independent way to the regression."""
    windows = np.lib.stride_tricks.sliding_window_view(series.numpy(), PAST + HORIZON, axis=0).reshape(
        -1, PAST + HORIZON
    )
    last = windows[:, PAST - 1 : PAST]
    return windows[:, :PAST] - last, windows[:, PAST:] - last


def ridge(series, penalty):
    x, y = rows(series)
    scale = ((x - x.mean(0)) ** 2).sum(0).mean()
    return Ridge(alpha=penalty * scale).fit(x, y)


@pytest.mark.parametrize(
    ("channels", "places", "pooled"),
    [(1, 1, np.s_[:, :, :]), (2, 1, np.s_[:, 1:, :]), (1, 3, np.s_[:, :, 2:]), (2, 3, np.s_[:, 1:, 2:])],
)
def test_the_closed_form_is_scikit_learns_ridge(channels, places, pooled):
    series = walks()
    model = NLinear(past=PAST, horizon=HORIZON, channels=channels, places=places).double()
    model.fit(series[:90], series[80:], penalties=(0.1,))
    reference = ridge(series[:90][pooled], 0.1)
    np.testing.assert_allclose(model.map.weight[-1, -1].detach(), reference.coef_, atol=1e-10)
    np.testing.assert_allclose(model.map.bias[-1, -1].detach(), reference.intercept_, atol=1e-10)


def test_missing_steps_of_the_past_are_carried_and_windows_with_missing_targets_left_out():
    series = walks(channels=1, places=1)
    series[[40, 60, 61]] = float("nan")
    model = NLinear(past=PAST, horizon=HORIZON).double().fit(series[:90], series[80:], penalties=(0.1,))
    x, y = [], []
    for start in range(90 - PAST - HORIZON + 1):
        window = pd.Series(series[start : start + PAST + HORIZON].flatten().numpy())
        past, future = window[:PAST].ffill().bfill(), window[PAST:]
        if future.notna().all():
            x.append(past - past.iloc[-1])
            y.append(future - past.iloc[-1])
    x, y = np.array(x), np.array(y)
    reference = Ridge(alpha=0.1 * ((x - x.mean(0)) ** 2).sum(0).mean()).fit(x, y)
    np.testing.assert_allclose(model.map.weight[0, 0].detach(), reference.coef_, atol=1e-10)


def test_the_penalty_is_the_best_on_validation():
    series = walks(steps=60)
    penalties = (1e-3, 1e-1, 10.0, 1e3)
    model = NLinear(past=PAST, horizon=HORIZON).double().fit(series[:40], series[35:], penalties=penalties)
    x, y = rows(series[35:])
    errors = [((ridge(series[:40], p).predict(x) - y) ** 2).mean() for p in penalties]
    assert model.penalty == [penalties[int(np.argmin(errors))]]


def test_fitting_in_small_blocks_gives_the_same_map(monkeypatch):
    series = walks()
    whole = NLinear(past=PAST, horizon=HORIZON).double().fit(series[:90], series[80:]).map.weight
    monkeypatch.setattr(linear, "BLOCK", 7 * 6 * (PAST + HORIZON))
    torch.testing.assert_close(
        NLinear(past=PAST, horizon=HORIZON).double().fit(series[:90], series[80:]).map.weight, whole
    )


def test_gradient_descent_goes_to_the_closed_form():
    series = walks(channels=1, places=1, steps=200).float()
    closed = NLinear(past=PAST, horizon=HORIZON).fit(series[:150], series[140:], penalties=(1e-8,))
    learned = NLinear(past=PAST, horizon=HORIZON)
    windows = series[:150].unfold(0, PAST + HORIZON, 1).permute(0, 3, 1, 2)
    optimizer = torch.optim.LBFGS(
        learned.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def loss():
        optimizer.zero_grad()
        error = (learned(windows[:, :PAST]) - windows[:, PAST:]).square().mean()
        error.backward()
        return error

    optimizer.step(loss)
    torch.testing.assert_close(learned(windows[:, :PAST]), closed(windows[:, :PAST]), atol=5e-3, rtol=0)


def test_adding_a_constant_to_the_past_adds_it_to_the_forecast():
    x = walks(steps=PAST)[None]
    model = NLinear(past=PAST, horizon=HORIZON, channels=2, places=3).double()
    torch.testing.assert_close(model(x + 100), model(x) + 100)


def test_each_map_serves_its_own_channel_and_place():
    torch.manual_seed(0)
    many = LinearMap(past=PAST, horizon=HORIZON, channels=2, places=3)
    many.bias.data.normal_()
    x = torch.randn(4, PAST, 2, 3)
    for c in range(2):
        for p in range(3):
            expected = x[:, :, c, p] @ many.weight[c, p].T + many.bias[c, p]
            torch.testing.assert_close(many(x)[:, :, c, p], expected)
    one = LinearMap(past=PAST, horizon=HORIZON)
    one.bias.data.normal_()
    torch.testing.assert_close(
        one(x), torch.einsum("btcp,ht->bhcp", x, one.weight[0, 0]) + one.bias[0, 0][None, :, None, None]
    )


def test_dlinear_splits_the_past_as_the_paper_does():
    model = DLinear(past=9, horizon=9, kernel=3)
    x = torch.randn(2, 9, 1, 1)
    padded = torch.cat([x[:, :1], x, x[:, -1:]], 1)
    trend = torch.nn.functional.avg_pool1d(padded[..., 0].mT, 3, stride=1).mT[..., None]
    torch.testing.assert_close(model(x), model.trend(trend) + model.rest(x - trend))
    assert sum(p.numel() for p in model.parameters()) == 2 * (9 * 9 + 9)


@pytest.mark.parametrize("space", [(), (4,), (2, 3)])
def test_any_space_goes_in_and_comes_out(space):
    past = torch.randn(2, PAST + 4, 3, *space)
    for model in (NLinear(past=PAST, horizon=HORIZON), DLinear(past=PAST, horizon=HORIZON, kernel=3)):
        assert model(past).shape == (2, HORIZON, 3, *space)
        torch.testing.assert_close(model(past), model(past[:, 4:]))  # only the last PAST steps count


def test_places_never_observed_stay_missing_and_spoil_nothing():
    series = walks()
    holes = series.clone()
    holes[:, :, 1] = float("nan")
    apart = NLinear(past=PAST, horizon=HORIZON, channels=2, places=3).double()
    whole, part = apart.fit(series[:90], series[80:])(series[None]), apart.fit(holes[:90], holes[80:])(holes[None])
    assert part[..., 1].isnan().all()
    torch.testing.assert_close(part[..., ::2], whole[..., ::2], rtol=1e-6, atol=1e-8)


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match="at least 5 time steps"):
        NLinear(past=PAST, horizon=HORIZON)(torch.zeros(1, 4, 1))
    with pytest.raises(ValueError, match="holds no window of 5 \\+ 3 steps"):
        NLinear(past=PAST, horizon=HORIZON).fit(torch.zeros(7, 1), torch.zeros(20, 1))
    with pytest.raises(ValueError, match="needs a complete window"):
        NLinear(past=PAST, horizon=HORIZON).fit(torch.full((20, 1), torch.nan), torch.zeros(20, 1))
    with pytest.raises(ValueError, match="kernel must be odd"):
        DLinear(past=PAST, horizon=HORIZON, kernel=4)
