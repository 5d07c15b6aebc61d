import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stlib.models.baselines import Climatology
from stlib.models.recurrent import GRUCell, LSTMCell, Recurrent, RNNCell, gradient_by_lag, unroll

TORCH = {RNNCell: (nn.RNNCell, nn.RNN), LSTMCell: (nn.LSTMCell, nn.LSTM), GRUCell: (nn.GRUCell, nn.GRU)}
CELLS = ("rnn", "lstm", "gru")
WEEKDAYS = torch.arange(40) % 7


def calendar_of(windows, steps):
    columns = torch.stack([WEEKDAYS % 12, WEEKDAYS, WEEKDAYS % 24, torch.arange(40)], 1)
    return torch.stack([columns[2 * i : 2 * i + steps] for i in range(windows)])


def small(**options):
    torch.manual_seed(0)
    return Recurrent(**{"channels": 2, "horizon": 3, "hidden": 5} | options).double()


def walk(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("ours", TORCH)
def test_cells_are_torchs_with_copied_weights_at_one_step_and_along_a_sequence(ours, dtype, atol):
    theirs, along = TORCH[ours]
    reference = theirs(3, 8).to(dtype)
    cell = ours(inputs=3, hidden=8).to(dtype)
    cell.load_state_dict(reference.state_dict())
    x = torch.randn(4, 3, dtype=dtype)
    state = torch.randn(4, 8, dtype=dtype), torch.randn(4, 8, dtype=dtype)
    state = state if ours is LSTMCell else state[0]
    torch.testing.assert_close(cell(x, state), reference(x, state), rtol=0, atol=atol)
    torch.testing.assert_close(cell(x), reference(x), rtol=0, atol=atol)

    layer = along(3, 8, batch_first=True).to(dtype)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in layer.state_dict().items()})
    sequence = torch.randn(4, 30, 3, dtype=dtype)
    start = tuple(s[None] for s in state) if ours is LSTMCell else state[None]
    states, last = unroll(cell, sequence, state)
    expected, expected_last = layer(sequence, start)
    torch.testing.assert_close(states, expected, rtol=0, atol=atol)
    expected_last = tuple(s[0] for s in expected_last) if ours is LSTMCell else expected_last[0]
    torch.testing.assert_close(last, expected_last, rtol=0, atol=atol)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def number(value):
    return torch.tensor([[value]], dtype=torch.float64)


def test_cells_of_one_number_are_their_equations():
    """Every weight is another number, so that no two of them can be mistaken for one another."""
    x, z, c = 0.7, -0.4, 1.3
    for ours, gates in ((LSTMCell, 4), (GRUCell, 3)):
        cell = ours(inputs=1, hidden=1).double()
        w, u, b, d = (np.linspace(low, low + 0.9, gates) for low in (-0.8, -0.5, 0.1, -0.3))
        for parameter, values in zip(cell.parameters(), (w, u, b, d), strict=True):
            parameter.data = torch.from_numpy(values).reshape(parameter.shape)
        now = number(x)
        if ours is LSTMCell:
            i, f, g, o = w * x + u * z + b + d
            kept = sigmoid(f) * c + sigmoid(i) * math.tanh(g)
            expected = sigmoid(o) * math.tanh(kept), kept
            found = cell(now, (number(z), number(c)))
            assert [value.item() for value in found] == pytest.approx(expected, abs=1e-12)
        else:
            reset, kept = (sigmoid(w[k] * x + b[k] + u[k] * z + d[k]) for k in (0, 1))
            candidate = math.tanh(w[2] * x + b[2] + reset * (u[2] * z + d[2]))
            found = cell(now, number(z)).item()
            assert found == pytest.approx((1 - kept) * candidate + kept * z, abs=1e-12)


@pytest.mark.parametrize("ours", TORCH)
def test_gradients_of_the_cells_are_those_of_finite_differences(ours):
    cell = ours(inputs=2, hidden=3).double()
    sequence = walk(2, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unroll(cell, x)[0], sequence)


def by_hand(model, past, calendar=None):
    """The forecast of one window, place by place and step by step, in NumPy-like loops."""
    cells = {"RNN": RNNCell, "LSTM": LSTMCell, "GRU": GRUCell}
    name = type(model.cell).__name__
    hidden = model.cell.hidden_size
    forecast = torch.empty(len(past), model.horizon, *past.shape[2:], dtype=past.dtype)
    for b in range(len(past)):
        for n in range(past.shape[3]):
            rows = []
            for t in range(past.shape[1]):
                values, masks = [], []
                for c in range(past.shape[2]):
                    value = past[b, t, c, n].item()
                    values.append(0.0 if math.isnan(value) else value)
                    masks.append(0.0 if math.isnan(value) else 1.0)
                known = []
                if calendar is not None:
                    known = [0.0] * 7
                    known[int(calendar[b, t + 1, 1])] = 1.0
                    day = 2 * math.pi * int(calendar[b, t + 1, 3]) / 366
                    known += [math.sin(day), math.cos(day)]
                rows.append(values + masks + known)
            cell = cells[name](inputs=len(rows[0]), hidden=hidden).double()
            cell.load_state_dict({k.removesuffix("_l0"): v for k, v in model.cell.state_dict().items()})
            states = unroll(cell, torch.tensor([rows], dtype=past.dtype))[0][0]
            seen = states[-1]
            if model.likeness is not None:
                scores = torch.stack([z @ model.likeness.weight @ states[-1] for z in states]) / math.sqrt(hidden)
                shares = scores.exp() / scores.exp().sum()
                seen = torch.cat([seen, sum(a * z for a, z in zip(shares, states, strict=True))])
            change = model.head.weight @ seen + model.head.bias
            for c in range(past.shape[2]):
                seen_values = past[b, :, c, n]
                seen_values = seen_values[~seen_values.isnan()]
                last = seen_values[-1] if len(seen_values) else 0.0
                for h in range(model.horizon):
                    forecast[b, h, c, n] = last + change[h * past.shape[2] + c]
    return forecast


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("cycles", [(), ("weekday", "day_of_year")])
def test_the_network_equals_a_naive_loop_over_places_and_steps(cell, attention, cycles):
    model = small(cell=cell, attention=attention, cycles=cycles)
    past = walk(3, 6, 2, 4)
    past[0, 5, 1, 2] = past[1, 2] = past[2, :, 0, 3] = torch.nan
    calendar = calendar_of(3, 9) if cycles else None
    torch.testing.assert_close(model(past, calendar), by_hand(model, past, calendar), rtol=0, atol=1e-12)


def test_all_places_together_are_the_inputs_of_one_network():
    model = small(places=4)
    past = walk(3, 6, 2, 4)
    past[0, 5, 1, 2] = torch.nan
    filled = past.nan_to_num()
    mask = (~past.isnan()).double()
    rows = torch.cat([filled, mask], 2).flatten(2)
    change = model.head(model.cell(rows)[0][:, -1]).reshape(3, 3, 2, 4)
    last = past[:, -1].clone()
    last[0, 1, 2] = past[0, 4, 1, 2]
    torch.testing.assert_close(model(past), last[:, None] + change, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(model(filled.requires_grad_())[..., 0].sum(), filled)
    assert (gradient[..., 1:] != 0).any()


def test_places_that_share_a_network_do_not_see_each_other_and_may_change_their_order():
    model = small(attention=True)
    past = walk(2, 6, 2, 4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(past[..., order]), model(past)[..., order], rtol=0, atol=1e-12)
    other = past.clone()
    other[..., 1:] += 5
    torch.testing.assert_close(model(other)[..., 0], model(past)[..., 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("places", [1, 3])
def test_states_are_causal_by_gradient(cell, places):
    model = small(cell=cell, places=places, layers=2)
    past = walk(2, 9, 2, 3).requires_grad_()
    for step in (0, 4, 8):
        (gradient,) = torch.autograd.grad(model.states(past)[:, step].sum(), past, retain_graph=True)
        assert (gradient[:, step + 1 :] == 0).all()
        assert (gradient[:, : step + 1] != 0).all()


def test_states_are_those_the_forecast_is_made_of():
    model = small()
    past = walk(2, 6, 2, 4)
    states = model.states(past)
    assert states.shape == (2, 6, 5, 4)
    change = torch.einsum("hd,bdn->bhn", model.head.weight, states[:, -1]) + model.head.bias[:, None]
    expected = past[:, -1:] + change.unflatten(1, (3, 2))
    torch.testing.assert_close(model(past), expected, rtol=0, atol=1e-12)
    assert small(places=4).states(past).shape == (2, 6, 5)


def test_the_calendar_says_the_next_day_and_nothing_of_it_is_seen_without_cycles():
    past, calendar = walk(2, 6, 2, 4), calendar_of(2, 9)
    torch.testing.assert_close(small()(past, calendar), small()(past), rtol=0, atol=0)
    model = small(cycles=("weekday",))
    other = calendar.clone()
    other[:, 0] = 0
    other[:, 7:] = 0
    torch.testing.assert_close(model(past, other), model(past, calendar), rtol=0, atol=0)
    other[:, 6] = 0
    assert (model(past, other) != model(past, calendar)).all()


@pytest.mark.parametrize("options", [{}, {"places": 4}, {"cycles": ("month", "hour")}])
def test_attention_weights_sum_to_one_and_are_those_of_the_mean(options):
    model = small(attention=True, **options)
    past, calendar = walk(2, 6, 2, 4), calendar_of(2, 9)
    weights = model.attention_weights(past, calendar)
    assert weights.shape == ((2, 6) if "places" in options else (2, 6, 4))
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights.sum(1)))
    with pytest.raises(ValueError, match="make it with attention=True"):
        small().attention_weights(past)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"attention": True, "places": 4, "layers": 2}, {"cycles": ("weekday",)}])
def test_every_parameter_gets_a_gradient_and_gaps_do_not_spoil_it(cell, options):
    model = small(cell=cell, **options)
    past = walk(3, 7, 2, 4)
    past[walk(3, 7, 2, 4, seed=1) > 0.3] = torch.nan
    past[0] = torch.nan
    past.requires_grad_()
    forecast = model(past, calendar_of(3, 10))
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
    attention=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_shape_comes_back(windows, steps, space, channels, joint, attention):
    options = {"places": math.prod(space) if joint else 1, "attention": attention}
    model = Recurrent(channels=channels, horizon=2, hidden=4, **options)
    assert model(torch.randn(windows, steps, channels, *space)).shape == (windows, 2, channels, *space)


def test_memory_that_is_not_contiguous_gives_the_same():
    model, past = small(), walk(2, 6, 2, 4)
    twisted = past.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    torch.testing.assert_close(model(twisted), model(past), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_is_close_forward_and_backward(cell):
    torch.manual_seed(0)
    model = Recurrent(channels=2, horizon=3, hidden=16, cell=cell, attention=True)
    past = torch.randn(8, 12, 2, 4)
    answers = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            forecast = model(past)
        forecast.float().square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        answers.append((forecast.float().detach(), gradient))
    for exact, rounded in zip(*answers, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()


def test_dropout_acts_in_training_only():
    model, past = small(dropout=0.5), walk(2, 6, 2, 4)
    assert not torch.equal(model(past), model(past))
    model.eval()
    assert torch.equal(model(past), model(past))
    two = small(dropout=0.5, layers=2).cell
    assert (two.dropout, small(dropout=0.5).cell.dropout) == (0.5, 0.0)


def test_gradient_by_lag_of_a_known_cell_is_a_power():
    """z_t = a z_{t-1} + x_t to first order, so the forecast hangs on lag tau by w a^tau, and on lag 0 by 1 more."""
    model = Recurrent(channels=1, horizon=2, hidden=1, cell="rnn").double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        model.cell.weight_hh_l0[:] = 0.8
        model.cell.weight_ih_l0[:, 0] = 1.0
        model.head.weight[:] = torch.tensor([[0.5], [0.25]])
    past = torch.zeros(3, 6, 1, 2, dtype=torch.float64)
    for lead, weight in ((1, 0.5), (2, 0.25)):
        expected = weight * 0.8 ** torch.arange(6, dtype=torch.float64)
        expected[0] += 1
        torch.testing.assert_close(gradient_by_lag(model, past, lead=lead), expected)


def test_gradient_by_lag_is_the_norm_of_the_jacobian():
    model = small(cycles=("weekday",), places=4)
    past, calendar = walk(2, 5, 2, 4), calendar_of(2, 8)
    squares = []
    for b in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, b=b: model(x[None], calendar[b : b + 1])[0, 2].flatten(), past[b]
        )  # (8, T, 2, 4)
        squares.append(jacobian.square().sum((2, 3)))
    expected = torch.cat(squares).mean(0).sqrt().flip(0)
    with torch.no_grad():
        torch.testing.assert_close(gradient_by_lag(model, past, calendar, lead=3), expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="lead must be from 1 to 3, got 4"):
        gradient_by_lag(model, past, calendar, lead=4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="cell must be one of rnn, lstm, gru, got 'LSTM'"):
        small(cell="LSTM")
    with pytest.raises(ValueError, match="cycles must be among month, weekday, hour, day_of_year, got 'week'"):
        small(cycles=("weekday", "week"))
    with pytest.raises(ValueError, match="channels and places must be at least 1, got 2 and 0"):
        small(places=0)
    for shape in ((2, 6, 1, 4), (2, 6), (2, 0, 2, 4)):
        with pytest.raises(ValueError, match=r"past must be \(B, T, 2, \*S\) with T at least 1, got shape"):
            small()(torch.zeros(shape).double())
    with pytest.raises(ValueError, match=r"past must be \(B, T, 2, \*S of 5 places\)"):
        small(places=5)(torch.zeros(2, 6, 2, 4).double())
    for calendar, given_one in ((None, "none"), (calendar_of(2, 6), "one of shape"), (torch.zeros(2, 9, 3), "one of")):
        with pytest.raises(
            ValueError, match=rf"cycles weekday need a calendar .* with T = 6 and a horizon .* got {given_one}"
        ):
            small(cycles=("weekday",))(torch.zeros(2, 6, 2, 4).double(), calendar)


def test_attention_weights_are_a_softmax_of_likenesses_to_the_last_state():
    model = small(attention=True)
    past = walk(2, 6, 2, 4)
    states, weights = model.states(past), model.attention_weights(past)
    likeness = torch.einsum("btds,bds->bts", states, torch.einsum("de,bes->bds", model.likeness.weight, states[:, -1]))
    torch.testing.assert_close(weights, (likeness / states.shape[2] ** 0.5).softmax(1), rtol=0, atol=1e-12)


def test_gradient_by_lag_leaves_the_past_as_it_was_and_is_zero_for_a_forecast_that_ignores_it():
    past = torch.ones(2, 5, 1)
    model = Climatology(horizon=2, cycle=None).fit(torch.randn(30, 1, generator=torch.Generator().manual_seed(0)))
    assert gradient_by_lag(model, past).tolist() == [0.0] * 5
    gradient_by_lag(small(), walk(1, 5, 2, 3))
    assert not past.requires_grad and past.grad is None


def test_sizes_cycles_and_empty_batches():
    for options, sizes in (
        ({"horizon": 0}, "0, 3 and 1"),
        ({"hidden": 0}, "4, 0 and 1"),
        ({"layers": 0}, "4, 3 and 0"),
    ):
        with pytest.raises(ValueError, match=f"horizon, hidden and layers must be at least 1, got {sizes}"):
            Recurrent(**{"channels": 1, "horizon": 4, "hidden": 3} | options)
    with pytest.raises(ValueError, match="cycles must be a tuple of names, got the one string 'weekday'"):
        small(cycles="weekday")
    with pytest.raises(ValueError, match="cycles must name each cycle once, got hour, hour"):
        small(cycles=("hour", "hour"))
    assert small()(walk(0, 6, 2, 4)).shape[0] == 0
