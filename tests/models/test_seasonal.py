import numpy as np
import pytest
import torch
from torch import nn

from stlib.data.windows import split
from stlib.data.worlds import AdvectionDiffusion
from stlib.models.baselines import SeasonalPersistence
from stlib.models.linear import NLinear
from stlib.models.recurrent import Recurrent
from stlib.models.recursive import Recursive
from stlib.models.seasonal import Seasonal
from stlib.training.fit import fit


def walk(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Spy(nn.Module):
    """Remembers what it was given, and says nothing changes (0) or something fixed."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, past):
        self.seen = past
        return self.said


@pytest.mark.parametrize(("steps", "horizon"), [(11, 5), (9, 3), (3, 7), (12, 6)])
def test_departures_and_the_way_back_equal_a_naive_loop(steps, horizon):
    m, spread = 3, 0.4
    past, said = walk(2, steps, 2, 4), walk(2, horizon, 2, 4, seed=1)
    spy = Spy(said)
    forecast = Seasonal(spy, horizon=horizon, season=m, spread=spread)(past)
    for t in range(steps):
        same = next(k for k in range(steps - m, steps) if (k - t) % m == 0)
        torch.testing.assert_close(spy.seen[:, t], (past[:, t] - past[:, same]) / spread, rtol=0, atol=1e-12)
    for h in range(horizon):
        same = next(k for k in range(steps - m, steps) if (k - steps - h) % m == 0)
        torch.testing.assert_close(forecast[:, h], past[:, same] + spread * said[:, h], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("steps", "horizon"), [(11, 5), (9, 3), (3, 7)])
def test_folded_a_season_is_a_step_and_its_phases_are_channels(steps, horizon):
    m, spread = 3, 0.4
    seasons, ahead = steps // m, -(-horizon // m)
    past, said = walk(2, steps, 2, 4), walk(2, ahead, m * 2, 4, seed=1)
    spy = Spy(said)
    forecast = Seasonal(spy, horizon=horizon, season=m, fold=True, spread=spread)(past)
    assert spy.seen.shape == (2, seasons, m * 2, 4)
    for k in range(seasons):
        for phase in range(m):
            now, last = steps - (seasons - k) * m + phase, steps - m + phase
            expected = (past[:, now] - past[:, last]) / spread
            torch.testing.assert_close(spy.seen[:, k, 2 * phase : 2 * phase + 2], expected, rtol=0, atol=1e-12)
    for h in range(horizon):
        change = said[:, h // m, 2 * (h % m) : 2 * (h % m) + 2]
        torch.testing.assert_close(forecast[:, h], past[:, steps - m + h % m] + spread * change, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fold", [False, True])
def test_a_network_that_says_nothing_changes_is_seasonal_persistence(fold):
    past = walk(2, 23, 1, 4)
    past[0, 20, 0, 1] = past[1, 4] = torch.nan
    model = Seasonal(Recurrent(channels=7 if fold else 1, horizon=2 if fold else 14), horizon=14, season=7, fold=fold)
    for parameter in model.model.head.parameters():
        nn.init.zeros_(parameter)
    model = model.double()
    torch.testing.assert_close(model(past), SeasonalPersistence(horizon=14, season=7)(past), rtol=0, atol=1e-12)
    past[0, :, 0, 2] = torch.nan
    past[0, 2::7, 0, 3] = torch.nan  # a phase without any value takes the last one
    forecast = model(past)
    assert (forecast[0, :, 0, 2] == 0).all()
    torch.testing.assert_close(forecast[0, 0::7, 0, 3], past[0, 22, 0, 3].expand(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("fold", [False, True])
def test_the_cycle_and_the_level_are_gone_from_the_input_and_back_in_the_forecast(fold):
    torch.manual_seed(0)
    inner = Recurrent(channels=7 if fold else 1, horizon=2 if fold else 14, hidden=4)
    model = Seasonal(inner, horizon=14, season=7, fold=fold).double()
    past, cycle = walk(2, 28, 1, 4), 100 * walk(7, 1, 4, seed=1)
    there = model(past + cycle.repeat(4, 1, 1))
    torch.testing.assert_close(there, model(past) + cycle.repeat(2, 1, 1), rtol=0, atol=1e-10)


def test_a_season_of_one_step_is_what_nlinear_does():
    model = NLinear(past=6, horizon=3).double()
    past = walk(2, 6, 1, 4)
    torch.testing.assert_close(Seasonal(model, horizon=3, season=1)(past), model(past), rtol=0, atol=1e-12)


def test_calendar_and_truth_are_handed_on_in_the_networks_terms():
    inner = Recursive(channels=1, horizon=5, hidden=4, decay=float("inf"), cycles=("weekday",)).double()
    model = Seasonal(inner, horizon=5, season=3, spread=0.5)
    past, truth = walk(2, 9, 1, 4), walk(2, 5, 1, 4, seed=1)
    calendar = torch.zeros(2, 14, 4, dtype=torch.long)
    calendar[..., 1] = torch.arange(14) % 7
    usual = past[:, -3:].repeat(1, 4, 1, 1)
    departures, ahead = (past - usual[:, :9]) / 0.5, usual[:, :5]
    expected = ahead + 0.5 * inner(departures, calendar, (truth - ahead) / 0.5)
    torch.testing.assert_close(model(past, calendar, truth=truth), expected, rtol=0, atol=1e-12)
    assert (model(past, calendar) != expected).any()
    deaf = Seasonal(Recurrent(channels=3, horizon=2), horizon=5, season=3, fold=True).double()
    torch.testing.assert_close(deaf(past, calendar), deaf(past), rtol=0, atol=0)
    days = Recurrent(channels=3, horizon=2, cycles=("weekday",)).double()  # a season has no weekday
    with pytest.raises(ValueError, match="cycles weekday need a calendar .* got none"):
        Seasonal(days, horizon=5, season=3, fold=True)(past, calendar)


def test_it_is_trained_as_any_other():
    parts = split(AdvectionDiffusion(size=4).simulate(120, seed=0), past=6, horizon=3)
    torch.manual_seed(0)
    model = Seasonal(Recursive(channels=1, horizon=3, hidden=8, decay=5.0), horizon=3, season=2, spread=0.5)
    history = fit(model, parts.train, parts.validation, epochs=4, learning_rate=0.01)
    assert history["validation"].min() < history["validation"].iloc[0]
    assert model.model.sampling.batches > 0 and np.isfinite(history["train"]).all()


def test_bad_arguments_are_named():
    for options in ({"season": 0}, {"horizon": 0}, {"spread": 0.0}, {"spread": float("nan")}):
        with pytest.raises(ValueError, match="horizon, season and spread must be positive, got"):
            Seasonal(Spy(None), **{"horizon": 3, "season": 2} | options)
    with pytest.raises(ValueError, match="at least 7 time steps"):
        Seasonal(Spy(None), horizon=3, season=7)(torch.zeros(1, 6, 1))


def test_a_partial_season_at_the_front_counts():
    past = torch.arange(9.0).reshape(1, 9, 1)
    past[0, 7] = torch.nan  # the same phase as the first step
    assert SeasonalPersistence(horizon=7, season=7)(past).flatten().tolist() == [2, 3, 4, 5, 6, 0, 8]


def test_regressors_are_handed_on():
    class Known(nn.Module):
        def forward(self, past, regressors):
            return past[:, -1:] + regressors[:, -2:].sum(-1)[:, :, None]

    past, known = walk(2, 4, 1), walk(2, 6, 3)
    forecast = Seasonal(Known(), horizon=2, season=2, spread=0.5)(past, None, known)
    torch.testing.assert_close(forecast, past[:, -2:] + 0.5 * known[:, -2:].sum(-1)[:, :, None])


def test_what_a_network_inside_must_do():
    with pytest.raises(ValueError, match="the network inside must forecast 14 steps, got 1"):
        Seasonal(Recurrent(channels=1, horizon=1), horizon=14, season=7)(torch.zeros(1, 14, 1))
    with pytest.raises(ValueError, match="the network inside must forecast 2 steps, got 5"):
        Seasonal(Recurrent(channels=7, horizon=5), horizon=14, season=7, fold=True)(torch.zeros(1, 14, 1))
    with pytest.raises(ValueError, match="a folded network cannot be given truth, which it asks for"):
        Seasonal(Recursive(channels=7, horizon=2), horizon=14, season=7, fold=True)
    model = Seasonal(Recursive(channels=1, horizon=14), horizon=14, season=7)
    with pytest.raises(ValueError, match=r"truth must have the forecast's shape \(1, 14, 1\), got \(1, 1, 1\)"):
        model(torch.zeros(1, 14, 1), truth=torch.zeros(1, 1, 1))
