import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stlib.data.scaling import Scaled, Scaler
from stlib.data.windows import split
from stlib.data.worlds import AdvectionDiffusion
from stlib.evaluation.backtest import backtest
from stlib.models._sequence import to_rows
from stlib.models.recursive import Recursive
from stlib.training.fit import fit

CALENDAR = torch.stack([torch.arange(40) % m for m in (12, 7, 24, 366)], 1)


def small(**options):
    torch.manual_seed(0)
    return Recursive(**{"channels": 2, "horizon": 4, "hidden": 5} | options).double()


def walk(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one_step(model, record, calendar):
    """The forecast of one step of a complete record that the model sees in one piece."""
    short = Recursive(
        channels=2,
        horizon=1,
        hidden=5,
        cell=type(model.cell).__name__.lower(),
        places=model.places,
        cycles=model.cycles,
    ).double()
    short.load_state_dict(model.state_dict())
    return short(record, calendar[:, : record.shape[1] + 1])[:, 0]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("options", [{}, {"places": 3, "cycles": ("weekday", "hour")}])
def test_free_running_is_one_step_again_and_again_on_the_own_forecasts(cell, options):
    model = small(cell=cell, **options)
    past, calendar = walk(2, 6, 2, 3), torch.stack([CALENDAR[:10], CALENDAR[3:13]])
    record = past
    for _ in range(4):
        record = torch.cat([record, one_step(model, record, calendar)[:, None]], 1)
    torch.testing.assert_close(model(past, calendar), record[:, 6:], rtol=0, atol=1e-12)
    truth = walk(2, 4, 2, 3, seed=1)
    never = small(cell=cell, decay=0, **options)
    torch.testing.assert_close(never(past, calendar, truth), record[:, 6:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("options", [{}, {"places": 3, "cycles": ("weekday", "hour")}])
def test_teacher_forcing_is_one_step_on_the_true_values(cell, options):
    model = small(cell=cell, decay=math.inf, **options)
    past, truth, calendar = walk(2, 6, 2, 3), walk(2, 4, 2, 3, seed=1), torch.stack([CALENDAR[:10], CALENDAR[3:13]])
    record = torch.cat([past, truth], 1)
    expected = torch.stack([one_step(model, record[:, : 6 + h], calendar) for h in range(4)], 1)
    torch.testing.assert_close(model(past, calendar, truth), expected, rtol=0, atol=1e-12)


def test_a_missing_truth_is_replaced_by_the_own_word():
    model = small(decay=math.inf)
    past, truth = walk(2, 6, 2, 3), walk(2, 4, 2, 3, seed=1)
    truth[:, 1, 0, 2] = torch.nan
    own = model(past, truth=truth)
    assert own.isfinite().all()
    filled = truth.clone()
    filled[:, 1, 0, 2] = own[:, 1, 0, 2]
    torch.testing.assert_close(model(past, truth=filled), own, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(past, truth=torch.full_like(truth, torch.nan)), model(past), rtol=0, atol=0)


def test_the_last_true_value_is_never_fed():
    model = small(decay=math.inf)
    past, truth = walk(2, 6, 2, 3), walk(2, 4, 2, 3, seed=1).requires_grad_()
    for lead in range(4):
        (gradient,) = torch.autograd.grad(model(past, truth=truth)[:, lead].sum(), truth, allow_unused=True)
        assert (gradient[:, lead:] == 0).all()
        assert (gradient[:, :lead] != 0).all()


def test_the_share_of_true_values_falls_as_the_equation_says():
    model = small(decay=20.0)
    past, truth = walk(2, 2, 2, 3), walk(2, 4, 2, 3, seed=1)
    shares = []
    for _ in range(120):
        shares.append(model.sampling.share)
        model(past, truth=truth)
    expected = [20 / (20 + math.exp(k / 20)) for k in range(120)]
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert model.sampling.batches == 120
    model.eval()
    model(past, truth=truth)
    assert model.sampling.batches == 120
    model.train()
    model(past)
    assert model.sampling.batches == 120
    model.sampling.batches += 10**9
    assert model.sampling.share == pytest.approx(0, abs=1e-300)


def test_the_coins_fall_at_the_share_for_each_sequence_and_step():
    model = Recursive(channels=1, horizon=5, hidden=2, decay=4.0)
    model.sampling.batches += 7
    truth = torch.full((400, 5, 1, 6), 1000.0)
    torch.manual_seed(0)
    told = ~model.sampling(to_rows(truth, 1)).isnan()  # (2400, 5, 1)
    expected = 4 / (4 + math.exp(7 / 4))
    spread = (expected * (1 - expected) / 2400) ** 0.5
    assert (told.double().mean(0) - expected).abs().max() < 4 * spread
    places = told.reshape(400, 6, 5)
    assert (places[:, 0] != places[:, 1]).any() and (places[0] != places[1]).any()
    assert (places[..., 0] != places[..., 1]).any()
    joint = Recursive(channels=1, horizon=5, hidden=2, places=6, decay=4.0)
    joint.sampling.batches += 7
    told = ~joint.sampling(to_rows(truth, 6)).isnan()  # (400, 5, 6): all places share a coin
    assert (told.all(-1) == told.any(-1)).all() and told.any() and not told.all()


class Cheat(torch.nn.Module):
    """Says the truth wherever it is told it."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(()))
        self.told = []

    def forward(self, past, calendar=None, truth=None):
        self.told.append((self.training, truth is not None))
        own = past[:, -1:].expand(-1, 2, *past.shape[2:])
        return self.offset + (own if truth is None else truth)


def test_fit_tells_the_truth_in_training_only_and_backtest_and_scaled_never():
    field = AdvectionDiffusion(size=4).simulate(120, seed=0)
    parts = split(field, past=4, horizon=2)
    model = Cheat()
    history = fit(model, parts.train, parts.validation, epochs=2, batch_size=16)
    assert set(model.told) == {(True, True), (False, False)}
    batch = parts.validation[:]
    expected = (model(batch.past) - batch.future).square().mean().item()
    assert history["train"].max() < 1e-12
    assert history["validation"].min() == pytest.approx(expected, rel=1e-5) and expected > 0.01
    model.told.clear()
    for forecaster in (model, Scaled(model, Scaler().fit(parts.train))):
        result = backtest(forecaster, parts.test)
        assert float(abs(result.forecast - result.truth).mean()) > 0.01
    assert set(model.told) == {(False, False)}


def test_the_truth_that_fit_tells_is_the_future_of_the_window():
    field = AdvectionDiffusion(size=4).simulate(120, seed=0)
    parts = split(field, past=4, horizon=2)
    heard = []

    class Listening(Cheat):
        def forward(self, past, truth=None):
            if truth is not None:
                heard.append((past[:, -1], truth))
            return super().forward(past, truth=truth)

    fit(Listening(), parts.train, parts.validation, epochs=1, batch_size=16)
    past, truth = (torch.cat(values) for values in zip(*heard, strict=True))
    batch = parts.train[:]
    for window in range(len(past)):
        same = (batch.past[:, -1] == past[window]).flatten(1).all(1)
        assert same.sum() == 1 and torch.equal(batch.future[same][0], truth[window])


def test_the_count_of_batches_goes_with_the_weights_from_fit_to_fit():
    field = AdvectionDiffusion(size=4).simulate(120, seed=0)
    parts = split(field, past=4, horizon=2)
    torch.manual_seed(0)
    model = Recursive(channels=1, horizon=2, hidden=4, decay=10.0)
    batches = len(list(parts.train.batches(16)))
    history = fit(model, parts.train, parts.validation, epochs=3, batch_size=16)
    assert model.sampling.batches == batches * history["validation"].idxmin()
    before = model.sampling.batches.item()
    again = fit(model, parts.train, parts.validation, epochs=2, batch_size=16)
    assert model.sampling.batches == before + batches * again["validation"].idxmin()
    fresh = Recursive(channels=1, horizon=2, hidden=4, decay=10.0)
    fresh.load_state_dict(model.state_dict())
    assert fresh.sampling.share == model.sampling.share


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("options", [{}, {"places": 3, "layers": 2, "cycles": ("weekday",)}])
def test_every_parameter_gets_a_gradient_and_gaps_do_not_spoil_it(cell, options):
    model = small(cell=cell, **options)
    past = walk(2, 7, 2, 3)
    past[walk(2, 7, 2, 3, seed=1) > 0.3] = torch.nan
    past[0] = torch.nan
    past.requires_grad_()
    truth = walk(2, 4, 2, 3, seed=2)
    truth[:, ::2] = torch.nan
    forecast = model(past, CALENDAR[:11].expand(2, -1, -1), truth)
    assert forecast.isfinite().all()
    forecast.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name
    assert (past.grad[past.isnan()] == 0).all()


@given(
    windows=st.integers(1, 3),
    steps=st.integers(1, 4),
    space=st.lists(st.integers(1, 3), max_size=2),
    channels=st.integers(1, 3),
    joint=st.booleans(),
    told=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_any_shape_comes_back(windows, steps, space, channels, joint, told):
    model = Recursive(channels=channels, horizon=3, hidden=4, places=math.prod(space) if joint else 1)
    expected = (windows, 3, channels, *space)
    truth = torch.randn(expected) if told else None
    assert model(torch.randn(windows, steps, channels, *space), truth=truth).shape == expected


def test_bfloat16_is_close_forward_and_backward():
    torch.manual_seed(0)
    model = Recursive(channels=2, horizon=4, hidden=16, decay=math.inf)
    past, truth = torch.randn(8, 12, 2, 4), torch.randn(8, 4, 2, 4)
    for told in (None, truth):
        answers = []
        for enabled in (False, True):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                forecast = model(past, truth=told)
            forecast.float().square().mean().backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            answers.append((forecast.float().detach(), gradient))
        for exact, rounded in zip(*answers, strict=True):
            assert (exact - rounded).norm() < 0.02 * exact.norm()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="cell must be one of rnn, lstm, gru, got 'elman'"):
        small(cell="elman")
    for decay in (-1.0, math.nan):
        with pytest.raises(ValueError, match="decay must be a number of batches from 0"):
            small(decay=decay)
    with pytest.raises(ValueError, match=r"truth must have the forecast's shape \(2, 4, 2, 3\), got \(2, 5, 2, 3\)"):
        small()(torch.zeros(2, 6, 2, 3).double(), truth=torch.zeros(2, 5, 2, 3).double())
    with pytest.raises(ValueError, match=r"past must be \(B, T, 2, \*S\)"):
        small()(torch.zeros(2, 6, 3).double())
    with pytest.raises(ValueError, match="cycles hour need a calendar"):
        small(cycles=("hour",))(torch.zeros(2, 6, 2, 3).double())


def test_a_scaled_network_is_told_the_truth_in_its_own_units():
    parts = split(10 + 5 * AdvectionDiffusion(size=4).simulate(60, seed=0), past=4, horizon=2)
    scaler = Scaler().fit(parts.train)
    told = []

    class Spy(Recursive):
        def forward(self, past, truth=None):
            told.append(truth)
            return super().forward(past, truth=truth)

    spy = Spy(channels=1, horizon=2, hidden=2, decay=math.inf)
    fit(Scaled(spy, scaler), parts.train, parts.validation, epochs=1)
    assert any(truth is not None for truth in told) and any(truth is None for truth in told)
    scaled = torch.cat([truth for truth in told if truth is not None])
    assert abs(scaled.mean()) < 0.3 and 0.7 < scaled.std() < 1.3  # physical ones have a mean of 10 and a spread of 5


def test_gradients_flow_through_the_own_forecasts():
    model = small(decay=0)
    past = walk(1, 3, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(model, (past,))
    weights = tuple(model.parameters())
    assert torch.autograd.gradcheck(lambda *_: model(past.detach())[:, -1], weights)


def test_layers_lie_on_top_of_each_other():
    assert small(layers=2).cell.num_layers == 2


def test_a_calendar_must_fit_the_windows_and_the_horizon():
    model = small(cycles=("weekday",))
    for shape in [(3, 10, 4), (1, 10, 4), (2, 7, 4)]:
        with pytest.raises(ValueError, match=r"need a calendar \(2, T \+ horizon, 4\) with T = 6"):
            model(walk(2, 6, 2, 3), torch.zeros(shape, dtype=torch.long))
    days = torch.stack([CALENDAR[:10], CALENDAR[3:13]])
    torch.testing.assert_close(model(walk(2, 6, 2, 3), days.int()), model(walk(2, 6, 2, 3), days), rtol=0, atol=0)
    assert model(walk(2, 6, 2, 3)[:0], days[:0]).shape == (0, 4, 2, 3)
