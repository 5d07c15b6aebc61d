import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stlib.models.baselines import Persistence
from stlib.models.convlstm import ConvGRUCell, ConvLSTM, ConvLSTMCell

CELLS = [{"cell": "lstm"}, {"cell": "lstm", "peepholes": True}, {"cell": "gru"}]


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def awake(model, seed=0):
    """The same model with every parameter drawn anew: the last kernel and the peepholes start at 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def naive(cell, gate, frames, row, column):
    """One gate's convolution at one place, added up by hand over channels and places; zeros beyond the edge."""
    channels, height, width = frames.shape
    reach = cell.conv.kernel_size[0] // 2
    total = cell.conv.bias[gate].clone()
    for c in range(channels):
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                if 0 <= row + i < height and 0 <= column + j < width:
                    total += cell.conv.weight[gate, c, i + reach, j + reach] * frames[c, row + i, column + j]
    return total


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_step_of_convlstm_equals_its_equations_place_by_place(kernel, peepholes):
    cell = awake(ConvLSTMCell(channels=2, hidden=3, kernel=kernel, peepholes=peepholes).double())
    x, z, c = noise(2, 2, 4, 5), noise(2, 3, 4, 5, seed=1), noise(2, 3, 4, 5, seed=2)
    hidden, memory = cell(x, (z, c))
    peep = cell.peepholes[:, :, 0, 0] if peepholes else torch.zeros(3, 3, dtype=torch.float64)
    for b in range(2):
        both = torch.cat([x[b], z[b]])
        for d in range(3):
            for row in range(4):
                for column in range(5):
                    i, f, g, o = (naive(cell.conv, gate * 3 + d, both, row, column) for gate in range(4))
                    before = c[b, d, row, column]
                    i, f = torch.sigmoid(i + peep[0, d] * before), torch.sigmoid(f + peep[1, d] * before)
                    after = f * before + i * torch.tanh(g)
                    o = torch.sigmoid(o + peep[2, d] * after)
                    torch.testing.assert_close(memory[b, d, row, column], after, rtol=0, atol=1e-12)
                    torch.testing.assert_close(hidden[b, d, row, column], o * torch.tanh(after), rtol=0, atol=1e-12)


def test_a_step_of_convgru_equals_its_equations_place_by_place():
    cell = awake(ConvGRUCell(channels=2, hidden=3).double())
    x, z = noise(1, 2, 4, 5), noise(1, 3, 4, 5, seed=1)
    reset = torch.zeros(3, 4, 5, dtype=torch.float64)
    places = [(d, row, column) for d in range(3) for row in range(4) for column in range(5)]
    for d, row, column in places:
        reset[d, row, column] = torch.sigmoid(naive(cell.conv, 3 + d, torch.cat([x[0], z[0]]), row, column))
    after = cell(x, z)
    for d, row, column in places:
        u = torch.sigmoid(naive(cell.conv, d, torch.cat([x[0], z[0]]), row, column))
        g = torch.tanh(naive(cell.candidate, d, torch.cat([x[0], reset * z[0]]), row, column))
        expected = (1 - u) * z[0, d, row, column] + u * g
        torch.testing.assert_close(after[0, d, row, column], expected, rtol=0, atol=1e-12)


def test_a_kernel_of_one_is_torchs_lstm_at_every_place():
    cell = awake(ConvLSTMCell(channels=2, hidden=4, kernel=1).double())
    reference = nn.LSTM(2, 4, batch_first=True).double()
    with torch.no_grad():
        weight = cell.conv.conv.weight[:, :, 0, 0]
        reference.weight_ih_l0.copy_(weight[:, :2])
        reference.weight_hh_l0.copy_(weight[:, 2:])
        reference.bias_ih_l0.copy_(cell.conv.conv.bias)
        reference.bias_hh_l0.zero_()
    x = noise(3, 6, 2, 4, 5)
    state, found = None, []
    for frame in x.unbind(1):
        state = cell(frame, state)
        found.append(state[0])
    places = x.permute(0, 3, 4, 1, 2).reshape(-1, 6, 2)
    expected = reference(places)[0].reshape(3, 4, 5, 6, 4).permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=0, atol=1e-12)


def by_hand(model, past, horizon):
    """The network from its cells, written out: no missing values, free running."""
    states = [None] * len(model.encoder)
    for t in range(past.shape[1]):
        x = torch.cat([past[:, t], torch.ones_like(past[:, t])], 1)
        for number, cell in enumerate(model.encoder):
            states[number] = cell(x, states[number])
            x = states[number][0] if isinstance(states[number], tuple) else states[number]
    forecasts = [past[:, -1]]
    for _ in range(horizon):
        x, hidden = forecasts[-1] if model.feedback else past[:, -1, :0], []
        for number, cell in enumerate(model.forecaster):
            states[number] = cell(x, states[number])
            x = states[number][0] if isinstance(states[number], tuple) else states[number]
            hidden.append(x)
        change = torch.einsum("cd,bdhw->bchw", model.head.weight[:, :, 0, 0], torch.cat(hidden, 1))
        start = forecasts[-1] if model.feedback else past[:, -1]
        forecasts.append(start + change + model.head.bias[:, None, None])
    return torch.stack(forecasts[1:], 1)


@pytest.mark.parametrize("options", CELLS)
@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_network_is_its_cells_put_together(options, feedback, layers):
    model = awake(
        ConvLSTM(channels=2, horizon=3, hidden=3, layers=layers, feedback=feedback, **options).double(), seed=layers
    )
    past = noise(2, 4, 2, 5, 3)
    torch.testing.assert_close(model(past), by_hand(model, past, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(past, horizon=6), by_hand(model, past, 6), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(past, horizon=6)[:, :3], model(past), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", CELLS)
def test_an_untrained_network_is_persistence(options):
    past = noise(2, 3, 2, 4, 4, dtype=torch.float32)
    past[0, 2, 1, 2, 3] = torch.nan
    expected = Persistence(horizon=3)(past)
    torch.testing.assert_close(ConvLSTM(channels=2, horizon=3, hidden=4, **options)(past), expected, rtol=0, atol=0)


@pytest.mark.parametrize("options", CELLS)
def test_it_commutes_with_a_shift_on_a_periodic_map_only(options):
    past = noise(1, 3, 1, 6, 5)
    model = awake(ConvLSTM(channels=1, horizon=3, hidden=3, edge="periodic", **options).double())
    torch.testing.assert_close(model(past.roll((2, -1), (-2, -1))), model(past).roll((2, -1), (-2, -1)))
    flat = awake(ConvLSTM(channels=1, horizon=3, hidden=3, **options).double())
    gap = flat(past.roll((2, -1), (-2, -1))) - flat(past).roll((2, -1), (-2, -1))
    assert gap.abs().max() > 1e-3


@pytest.mark.parametrize("options", CELLS)
def test_states_and_forecasts_depend_on_earlier_frames_only(options):
    model = awake(ConvLSTM(channels=1, horizon=3, hidden=3, layers=2, **options).double())
    past = noise(1, 5, 1, 4, 4)
    other = past.clone()
    other[:, 3:] += 1
    before, after = model.states(past), model.states(other)
    for name in before:
        torch.testing.assert_close(before[name][:, :3], after[name][:, :3], rtol=0, atol=0)
        assert (before[name][:, 3:] - after[name][:, 3:]).abs().amax((0, 2, 3, 4, 5)).min() > 1e-9
    past.requires_grad_()
    (gradient,) = torch.autograd.grad(model(past).sum(), past)
    assert gradient.abs().amax((0, 2, 3, 4)).min() > 0


def test_information_travels_as_far_as_the_kernels_reach():
    past = torch.zeros(1, 2, 1, 1, 21, dtype=torch.float64, requires_grad=True)
    for kernel, reach in ((1, 0), (3, 1), (5, 2)):
        model = awake(ConvLSTM(channels=1, horizon=2, hidden=2, kernel=kernel).double())
        (gradient,) = torch.autograd.grad(model(past)[0, 1, 0, 0, 10], past)
        far = [int((step.nonzero()[:, -1] - 10).abs().max()) for step in gradient[0]]
        assert far == [min(4 * reach, 10), min(3 * reach, 10)]  # one convolution for each step on the way


@pytest.mark.parametrize("options", CELLS)
def test_states_are_those_of_the_forecast(options):
    model = awake(ConvLSTM(channels=1, horizon=2, hidden=3, layers=2, **options).double())
    past = noise(2, 4, 1, 5, 3)
    states = model.states(past)
    names = {"update", "reset", "candidate", "hidden"}
    if options["cell"] == "lstm":
        names = {"input", "forget", "candidate", "output", "cell", "hidden"}
        cell = states["forget"][:, 1:] * states["cell"][:, :-1] + states["input"][:, 1:] * states["candidate"][:, 1:]
        torch.testing.assert_close(states["cell"][:, 1:], cell)
        torch.testing.assert_close(states["hidden"], states["output"] * states["cell"].tanh())
    assert set(states) == names
    assert all(value.shape == (2, 6, 2, 3, 5, 3) for value in states.values())
    hidden = states["hidden"][:, 4:].flatten(2, 3)
    change = torch.einsum("cd,bhdyx->bhcyx", model.head.weight[:, :, 0, 0], hidden) + model.head.bias[:, None, None]
    torch.testing.assert_close(past[:, -1:] + change.cumsum(1), model(past))


@pytest.mark.parametrize("options", CELLS)
@pytest.mark.parametrize("feedback", [True, False])
def test_gradients_are_right_and_no_parameter_is_dead(options, feedback):
    model = awake(ConvLSTM(channels=1, horizon=2, hidden=2, layers=2, feedback=feedback, **options).double())
    past = noise(1, 2, 1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(model, (past,))
    model(past).square().sum().backward()
    for name, parameter in model.named_parameters():
        per_output = parameter.grad.flatten(1).abs().amax(1) if parameter.ndim > 1 else parameter.grad.abs()
        assert per_output.min() > 0, name


def test_a_missing_cell_is_masked_and_bears_no_gradient():
    model = awake(ConvLSTM(channels=1, horizon=2, hidden=3).double())
    past = noise(1, 3, 1, 4, 4)
    past[0, 1, 0, 2, 2] = torch.nan
    past[0, 2, 0, 0, 1] = torch.nan
    past[0, :, 0, 3, 3] = torch.nan
    past.requires_grad_()
    forecast = model(past)
    assert forecast.isfinite().all()
    (gradient,) = torch.autograd.grad(forecast.square().sum(), past)
    assert gradient.isfinite().all() and (gradient[past.isnan()] == 0).all()
    zero = torch.where(past.isnan(), 0.0, past).detach()
    assert (model(zero) - forecast).abs().amax((0, 1, 2))[2, 2] > 1e-6  # 0 and missing are not the same
    seen = torch.where(past.isnan(), 123.0, past).detach()
    mask = (~past.isnan()).double()
    x, state = past.detach()[:, 1, :, 0, 1], None
    for t in range(3):
        frame = torch.cat([torch.where(mask[:, t] > 0, seen[:, t], 0.0), mask[:, t]], 1)
        state = model.encoder[0](frame, state)
    last = torch.where(mask[:, 2] > 0, zero[:, 2], zero[:, 1])
    assert last[0, 0, 0, 1] == x
    z = model.forecaster[0](last, state)[0]
    torch.testing.assert_close(forecast[:, 0], last + model.head(z))


def test_the_truth_is_shown_in_place_of_the_last_forecast():
    model = awake(ConvLSTM(channels=1, horizon=3, hidden=2, decay=math.inf).double())
    past, truth = noise(2, 3, 1, 4, 4), noise(2, 3, 1, 4, 4, seed=1)
    forced = model(past, truth)
    state = None
    for t in range(3):
        state = model.encoder[0](torch.cat([past[:, t], torch.ones_like(past[:, t])], 1), state)
    for lead, shown in enumerate([past[:, -1], truth[:, 0], truth[:, 1]]):
        state = model.forecaster[0](shown, state)
        torch.testing.assert_close(forced[:, lead], shown + model.head(state[0]), rtol=0, atol=1e-12)
    free = model(past)
    assert (free - forced).abs().amax((0, 2, 3, 4)).tolist()[0] == 0 and (free - forced).abs()[:, 1:].max() > 0.1
    torch.testing.assert_close(model(past, torch.full_like(truth, torch.nan)), free, rtol=0, atol=0)
    truth[:, 2] = 99.0  # the last lead is nobody's past
    torch.testing.assert_close(model(past, truth), forced, rtol=0, atol=0)
    model.sampling.decay = 0
    torch.testing.assert_close(model(past, truth), free, rtol=0, atol=0)


def test_the_share_of_truth_falls_with_the_batches_trained():
    model = awake(ConvLSTM(channels=1, horizon=2, hidden=1, kernel=1, decay=5.0).double())
    past, truth = noise(1, 1, 1, 1, 1).expand(4000, -1, -1, -1, -1), torch.full((4000, 2, 1, 1, 1), 9.0).double()
    free = model(past)[0, 1]
    for batches in (0, 8, 30):
        model.sampling.batches.fill_(batches)
        due = 5 / (5 + math.exp(batches / 5))
        assert model.sampling.share == pytest.approx(due)
        found = (model(past, truth)[:, 1] != free).double().mean()
        assert abs(found - due) < 4 * (due * (1 - due) / 4000) ** 0.5
        assert model.sampling.batches == batches + 1
    model.eval()(past, truth)
    assert model.sampling.batches == 31
    model.train()(past)
    assert model.sampling.batches == 31


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    steps=st.integers(1, 4),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    edge=st.sampled_from(["zeros", "replicate", "periodic", "periodic columns"]),
    options=st.sampled_from(CELLS),
)
def test_any_size_and_any_past(batch, steps, height, width, edge, options):
    model = awake(ConvLSTM(channels=2, horizon=2, hidden=2, layers=2, edge=edge, **options))
    past = noise(width, height, 2, steps, batch, dtype=torch.float32).permute(4, 3, 2, 1, 0)  # not contiguous
    forecast = model(past)
    assert forecast.shape == (batch, 2, 2, height, width)
    assert forecast.isfinite().all()
    torch.testing.assert_close(forecast[:1], model(past[:1].contiguous()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", CELLS)
def test_bfloat16_agrees_with_float32(options):
    torch.manual_seed(0)
    model = ConvLSTM(channels=2, horizon=4, hidden=8, layers=2, **options)
    nn.init.normal_(model.head.weight, std=0.2)
    past = noise(4, 6, 2, 9, 7, dtype=torch.float32)
    exact = model(past)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(past)
        rough.float().square().mean().backward()
    assert (rough - exact).norm() < 0.02 * exact.norm()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_weights_and_the_count_of_steps_are_saved():
    model = awake(ConvLSTM(channels=1, horizon=2, hidden=2, decay=5.0))
    past = noise(2, 2, 1, 4, 4, dtype=torch.float32)
    model(past, past)
    fresh = ConvLSTM(channels=1, horizon=2, hidden=2, decay=5.0)
    fresh.load_state_dict(model.state_dict())
    assert fresh.sampling.batches == 1
    torch.testing.assert_close(fresh.eval()(past), model.eval()(past))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="cell must be one of lstm, gru, got 'rnn'"):
        ConvLSTM(channels=1, horizon=1, cell="rnn")
    with pytest.raises(ValueError, match="peepholes look at the cell state"):
        ConvLSTM(channels=1, horizon=1, cell="gru", peepholes=True)
    with pytest.raises(ValueError, match="kernel must be odd"):
        ConvLSTM(channels=1, horizon=1, kernel=2)
    model = ConvLSTM(channels=2, horizon=1, hidden=2)
    for shape in [(1, 2, 3, 4, 4), (1, 2, 2, 4), (1, 0, 2, 4, 4)]:
        with pytest.raises(ValueError, match=r"past must be \(B, T, 2, H, W\) with at least one step, got shape"):
            model(torch.zeros(shape))
    with pytest.raises(
        ValueError, match=r"truth must have the forecast's shape \(1, 1, 2, 4, 4\), got \(1, 2, 2, 4, 4\)"
    ):
        model(torch.zeros(1, 2, 2, 4, 4), torch.zeros(1, 2, 2, 4, 4))
    with pytest.raises(ValueError, match="decay must be a number of batches from 0, got -1"):
        ConvLSTM(channels=1, horizon=1, decay=-1.0)
    with pytest.raises(ValueError, match="decay must be 0 for feedback=False, where no truth is shown, got 3"):
        ConvLSTM(channels=1, horizon=1, decay=3.0, feedback=False)
    cell = ConvLSTMCell(channels=1, hidden=2)
    with pytest.raises(ValueError, match=r"a frame must be \(B, 1, H, W\)"):
        cell(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"the state must be \(1, 2, 4, 4\) for this frame, got shape \(1, 2, 4, 5\)"):
        cell(torch.zeros(1, 1, 4, 4), (torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 5)))
    with pytest.raises(ValueError, match="the state must be"):
        ConvGRUCell(channels=1, hidden=2)(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))


def test_windows_do_not_take_truth_for_a_calendar():
    assert list(inspect.signature(ConvLSTM.forward).parameters) == ["self", "past", "truth", "horizon"]


def test_memory_is_kept_at_first():
    cell = ConvLSTMCell(channels=1, hidden=4, peepholes=True)
    assert cell.conv.conv.bias[4:8].tolist() == [1.0] * 4
    assert cell.conv.conv.bias[[*range(4), *range(8, 16)]].abs().max() < 0.5
    assert cell.peepholes.abs().max() == 0


def test_each_window_throws_a_coin_for_each_lead():
    model = ConvLSTM(channels=1, horizon=5, hidden=1, kernel=1, decay=4.0)
    model.sampling.batches += 7
    torch.manual_seed(0)
    shown = ~model.sampling(torch.ones(2000, 5, 1, 2, 3)).isnan()
    assert (shown.flatten(2).all(2) == shown.flatten(2).any(2)).all()  # a frame is shown whole or not at all
    due = 4 / (4 + math.exp(7 / 4))
    by_lead = shown[:, :, 0, 0, 0].double()
    assert (by_lead.mean(0) - due).abs().max() < 4 * (due * (1 - due) / 2000) ** 0.5
    assert by_lead.T.corrcoef().fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("edge, mode", [("replicate", "replicate"), ("periodic", "circular")])
def test_beyond_the_edge_it_sees_what_torch_pads(cell, edge, mode):
    kind = {"lstm": ConvLSTMCell, "gru": ConvGRUCell}[cell]
    model = awake(kind(channels=1, hidden=2, edge=edge).double())
    plain = kind(channels=1, hidden=2).double()
    plain.load_state_dict(model.state_dict())
    x, z = noise(1, 1, 4, 5), noise(1, 2, 4, 5, seed=1)
    inside = model.gates(x, (z, z) if cell == "lstm" else z)
    wide = [nn.functional.pad(part, (2, 2, 2, 2), mode) for part in (x, z)]
    outside = plain.gates(wide[0], (wide[1], wide[1]) if cell == "lstm" else wide[1])
    first = "forget" if cell == "lstm" else "update"  # the candidate of a GRU reads what the reset gate has changed
    torch.testing.assert_close(inside[first], outside[first][..., 2:-2, 2:-2])


def test_gradients_flow_through_frames_that_are_not_shown():
    model = awake(ConvLSTM(channels=1, horizon=3, hidden=2, decay=math.inf).double())
    past, truth = noise(1, 2, 1, 3, 3), noise(1, 3, 1, 3, 3, seed=1)
    truth[0, 0] = torch.nan
    weights = tuple(model.parameters())
    assert torch.autograd.gradcheck(lambda *_: model(past, truth)[:, 1:], weights)


def test_a_horizon_must_be_positive_and_gates_are_looked_at_without_a_graph():
    model = ConvLSTM(channels=1, horizon=2, hidden=2)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        model(torch.zeros(1, 2, 1, 3, 3), horizon=0)
    with pytest.raises(ValueError, match="channels, horizon, hidden and layers must be at least 1, got 1, 2, 2 and 0"):
        ConvLSTM(channels=1, horizon=2, hidden=2, layers=0)
    assert not model.states(torch.zeros(1, 2, 1, 3, 3))["hidden"].requires_grad
