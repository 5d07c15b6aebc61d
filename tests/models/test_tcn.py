import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stlib.models.recurrent import gradient_by_lag
from stlib.models.tcn import TCN, Block, CausalConv, receptive_field

CALENDAR = torch.stack([torch.arange(60) % m for m in (12, 7, 24, 366)], 1)


def small(**options):
    torch.manual_seed(0)
    return TCN(**{"channels": 2, "horizon": 3, "hidden": 5, "blocks": 2} | options).double()


def walk(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def convolved(x, conv, dilation):
    """A causal convolution of one sequence (T, C), tap by tap."""
    weight, bias = conv.weight, conv.bias
    taps = weight.shape[2]
    rows = []
    for t in range(len(x)):
        y = bias
        for j in range(taps):
            if t - j * dilation >= 0:
                y = y + weight[:, :, taps - 1 - j] @ x[t - j * dilation]
        rows.append(y)
    return torch.stack(rows)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 2), (4, 5)])
def test_the_convolution_equals_its_equation(kernel, dilation):
    layer = CausalConv(2, 3, kernel=kernel, dilation=dilation).double()
    x = walk(11, 2)
    torch.testing.assert_close(layer(x.T[None])[0].T, convolved(x, layer.conv, dilation), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cycles", [(), ("weekday", "hour")])
def test_the_network_equals_a_naive_loop_over_places_steps_and_taps(cycles):
    model = small(cycles=cycles)
    past = walk(2, 9, 2, 3)
    past[0, 8, 1, 2] = past[1, 2] = past[1, :, 0, 0] = torch.nan
    calendar = CALENDAR[:12].expand(2, -1, -1)
    forecast = model(past, calendar if cycles else None)
    for b in range(2):
        for n in range(3):
            seen = past[b, :, :, n]
            x = [seen.nan_to_num(), (~seen.isnan()).double()]
            if cycles:
                angle = 2 * math.pi * calendar[b, 1:10, 2].double() / 24
                x += [torch.eye(7)[calendar[b, 1:10, 1]], angle.sin()[:, None], angle.cos()[:, None]]
            x = torch.cat(x, 1)
            for i, block in enumerate(model.blocks):
                y = convolved(x, block.first.conv, 2**i).relu()
                y = convolved(y, block.second.conv, 2**i).relu()
                past_it = convolved(x, block.skip, 1) if i == 0 else x
                x = (past_it + y).relu()
            change = (model.head.weight @ x[-1] + model.head.bias).reshape(3, 2)
            for c in range(2):
                observed = seen[:, c][~seen[:, c].isnan()]
                last = observed[-1] if len(observed) else 0.0
                torch.testing.assert_close(forecast[b, :, c, n], last + change[:, c], rtol=0, atol=1e-12)


@given(kernel=st.integers(1, 4), blocks=st.integers(1, 3), places=st.sampled_from([1, 2]), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_gradient_reaches_as_far_back_as_the_receptive_field_and_never_ahead(kernel, blocks, places, seed):
    torch.manual_seed(seed)
    model = TCN(channels=1, horizon=1, hidden=16, kernel=kernel, blocks=blocks, places=places).double()
    for parameter in model.parameters():  # positive weights and inputs: no way through the network is closed
        parameter.data = parameter.data.abs() + 0.01
    reach = receptive_field(kernel, blocks)
    past = walk(1, reach + 12, 1, 2, seed=seed).abs().requires_grad_()
    for step in (reach + 3, reach + 11):
        (gradient,) = torch.autograd.grad(model.features(past)[:, step].sum(), past)
        felt = gradient[0, :, 0].abs().sum(-1) > 0
        assert not felt[step + 1 :].any()
        assert felt.nonzero().flatten().min() == step - reach + 1 and felt[step]
    lags = gradient_by_lag(model, past)
    assert len(lags.nonzero()) <= reach and lags[reach:].abs().max() == 0 and lags[reach - 1] > 0


@pytest.mark.parametrize("places", [1, 3])
def test_features_are_causal_by_gradient(places):
    model = small(places=places, blocks=3)
    past = walk(2, 20, 2, 3).requires_grad_()
    for step in range(0, 20, 5):
        (gradient,) = torch.autograd.grad(model.features(past)[:, step].sum(), past)
        assert (gradient[:, step + 1 :] == 0).all()
        assert (gradient[:, step] != 0).any()


def test_features_are_those_the_forecast_is_made_of():
    model = small()
    past = walk(2, 6, 2, 4)
    features = model.features(past)
    assert features.shape == (2, 6, 5, 4)
    change = torch.einsum("hd,bdn->bhn", model.head.weight, features[:, -1]) + model.head.bias[:, None]
    torch.testing.assert_close(model(past), past[:, -1:] + change.unflatten(1, (3, 2)), rtol=0, atol=1e-12)
    assert small(places=4).features(past).shape == (2, 6, 5)


def test_what_lies_beyond_the_receptive_field_changes_nothing():
    model = small(kernel=2)  # 7 steps
    past = walk(2, 12, 2, 3)
    far = past.clone()
    far[:, :5] += 100
    torch.testing.assert_close(model(far), model(past), rtol=0, atol=0)
    far[:, 5] += 100
    assert (model(far) != model(past)).any()


def test_all_places_together_are_the_inputs_of_one_network_and_shared_ones_do_not_mix():
    past = walk(2, 8, 2, 3).requires_grad_()
    for places, mixes in ((3, True), (1, False)):
        (gradient,) = torch.autograd.grad(small(places=places)(past)[..., 0].sum(), past)
        assert bool((gradient[..., 1:] != 0).any()) == mixes
    model, order = small(), torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(past[..., order]), model(past)[..., order], rtol=0, atol=1e-12)


def test_a_block_is_what_lies_past_it_if_its_convolutions_are_zero():
    block = Block(4, 4, kernel=3, dilation=2)
    for layer in (block.first, block.second):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 9)
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("options", [{}, {"places": 4, "blocks": 4}, {"cycles": ("weekday",)}])
def test_every_parameter_gets_a_gradient_and_gaps_do_not_spoil_it(options):
    model = small(hidden=8, **options)
    past = walk(3, 24, 2, 4)
    past[walk(3, 24, 2, 4, seed=1) > 0.3] = torch.nan
    past[0] = torch.nan
    past.requires_grad_()
    forecast = model(past, CALENDAR[:27].expand(3, -1, -1))
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
)
@settings(max_examples=30, deadline=None)
def test_any_shape_comes_back(windows, steps, space, channels, joint):
    model = TCN(channels=channels, horizon=2, hidden=4, places=math.prod(space) if joint else 1)
    assert model(torch.randn(windows, steps, channels, *space)).shape == (windows, 2, channels, *space)


def test_memory_that_is_not_contiguous_gives_the_same():
    model, past = small(), walk(2, 6, 2, 4)
    twisted = past.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    torch.testing.assert_close(model(twisted), model(past), rtol=0, atol=1e-12)


def test_bfloat16_is_close_forward_and_backward():
    torch.manual_seed(0)
    model = TCN(channels=2, horizon=3, hidden=16)
    past = torch.randn(8, 40, 2, 4)
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


def test_bad_arguments_are_named():
    for options in ({"kernel": 0}, {"blocks": 0}):
        with pytest.raises(ValueError, match="horizon, hidden, kernel and blocks must be at least 1, got"):
            small(**options)
    with pytest.raises(ValueError, match="cycles must be among month, weekday, hour, day_of_year, got 'year'"):
        small(cycles=("year",))
    with pytest.raises(ValueError, match=r"past must be \(B, T, 2, \*S\) with T at least 1, got shape \(2, 6, 1\)"):
        small()(torch.zeros(2, 6, 1).double())
    with pytest.raises(ValueError, match="cycles weekday need a calendar"):
        small(cycles=("weekday",))(torch.zeros(2, 6, 2, 3).double())


def test_dropout_drops_whole_channels_after_each_convolution():
    torch.manual_seed(0)
    block = Block(6, 6, kernel=1, dilation=1, dropout=0.5)
    for conv in (block.first.conv, block.second.conv):
        nn.init.zeros_(conv.weight)
        nn.init.ones_(conv.bias)
    with torch.no_grad():
        block.second.conv.weight.copy_(torch.eye(6)[:, :, None])  # passes the first one's channels on
        out = block(torch.zeros(400, 6, 5))
    assert (out == out[..., :1]).all()  # a channel is dropped at all steps or at none
    found = {value: (out[..., 0] == value).double().mean().item() for value in (0.0, 2.0, 6.0)}
    expected = {0.0: 0.5, 2.0: 0.25, 6.0: 0.25}  # the second dropped; the first alone; neither
    assert found == pytest.approx(expected, abs=0.05)


def test_only_what_the_last_step_needs_is_computed(monkeypatch):
    model = TCN(channels=1, horizon=2, hidden=4, blocks=2, cycles=("weekday",)).double()  # sees 13 steps
    seen, usual = [], Block.every_second
    monkeypatch.setattr(Block, "every_second", lambda block, x: seen.append(x.shape[-1]) or usual(block, x))
    past = walk(2, 40, 1, 3)
    calendar = torch.stack([torch.arange(42) % m for m in (12, 7, 24, 366)], 1).expand(2, -1, -1)
    whole = model.features(past, calendar)[:, -1]  # (B, hidden, N)
    change = torch.einsum("hd,bdn->bhn", model.head.weight, whole) + model.head.bias[:, None]
    torch.testing.assert_close(model(past, calendar), past[:, -1:] + change[:, :, None], rtol=0, atol=1e-12)
    assert seen == [13, 7]  # the receptive field, and every second step of it


@pytest.mark.parametrize("steps", [1, 2, 5, 16, 53])
@pytest.mark.parametrize("kernel, blocks", [(1, 2), (2, 3), (3, 1), (3, 5), (4, 3)])
def test_thinned_features_are_those_of_the_last_step(steps, kernel, blocks):
    torch.manual_seed(0)
    model = TCN(channels=1, horizon=1, hidden=4, kernel=kernel, blocks=blocks).double()
    past = walk(2, steps, 1, 3).requires_grad_()
    whole = model.features(past)[:, -1]
    dense = past[:, -1:] + torch.einsum("hd,bdn->bhn", model.head.weight, whole)[:, :, None]
    dense = dense + model.head.bias
    thinned = model(past)
    torch.testing.assert_close(thinned, dense, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(each.sum(), past)[0] for each in (thinned, dense)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
