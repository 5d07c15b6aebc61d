import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stlib.models._grid import EDGES
from stlib.models.baselines import Climatology
from stlib.models.cnn import CNN, CNN3d, UNet, influence, receptive_field

SMALL = {"channels": 2, "past": 3, "horizon": 2}
NETWORKS = {
    "CNN": lambda **options: CNN(**SMALL, hidden=5, blocks=2, **options),
    "UNet": lambda **options: UNet(**SMALL, hidden=4, levels=2, **options),
    "CNN3d": lambda **options: CNN3d(**SMALL, hidden=4, blocks=1, **options),
}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def windows(batch=2, size=(7, 6), missing=True, dtype=torch.float64, steps=3):
    past = torch.randn(batch, steps, 2, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    if missing:
        past[0, 1, 0, 0] = torch.nan
        past[-1, -1, 1, :, 0] = torch.nan
        past[:, :, :, -1, -1] = torch.nan
    return past


def seen(past):
    """By hand: for each step the values of all channels, then their masks."""
    frames = []
    for t in range(past.shape[1]):
        frames += [past[:, t].nan_to_num(), (~past[:, t].isnan()).to(past.dtype)]
    return frames


def last(past):
    """By hand: step through the frames and keep what was observed last, 0 before there is anything."""
    kept = torch.zeros_like(past[:, 0])
    for t in range(past.shape[1]):
        kept = torch.where(past[:, t].isnan(), kept, past[:, t])
    return kept[:, None]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("edge", ["zeros", "periodic"])
def test_cnn_equals_a_stack_of_functions(edge, dilation):
    torch.manual_seed(0)
    model = CNN(**SMALL, hidden=5, blocks=2, kernel=5, dilation=dilation, edge=edge).double()
    weights = list(model.parameters())

    def layer(x, number, reach=1):
        weight, bias = weights[2 * number : 2 * number + 2]
        side = reach * (weight.shape[-1] // 2)
        padded = F.pad(x, (side,) * 4, mode="circular" if edge == "periodic" else "constant")
        return F.conv2d(padded, weight, bias, dilation=reach)

    past = windows()
    z = layer(torch.cat(seen(past), 1), 0)
    z = z + layer(F.gelu(layer(F.gelu(z), 1)), 2)
    z = z + layer(F.gelu(layer(F.gelu(z), 3, dilation)), 4, dilation)
    change = layer(F.gelu(z), 5).reshape(2, 2, 2, 7, 6)
    torch.testing.assert_close(model(past), last(past) + change, rtol=0, atol=1e-12)


def test_unet_equals_a_stack_of_functions():
    torch.manual_seed(0)
    model = UNet(**SMALL, hidden=4, levels=2).double()
    weights = list(model.parameters())

    def two(x, number):
        for n in (number, number + 1):
            x = F.gelu(F.conv2d(x, weights[2 * n], weights[2 * n + 1], padding=1))
        return x

    def halved(x):
        """The mean of the cells that there are, one block after the other."""
        rows, columns = -(-x.shape[-2] // 2), -(-x.shape[-1] // 2)
        cells = [
            x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((-2, -1)) for i in range(rows) for j in range(columns)
        ]
        return torch.stack(cells, -1).unflatten(-1, (rows, columns))

    def doubled(x, like):
        return F.interpolate(x, scale_factor=2, mode="nearest")[..., : like.shape[-2], : like.shape[-1]]

    past = windows()
    fine = two(torch.cat(seen(past), 1), 0)
    middle = two(halved(fine), 2)
    coarse = two(halved(middle), 4)
    # The parameters of `up` follow those of `down`, the finest level first.
    middle = two(torch.cat([middle, doubled(coarse, middle)], 1), 8)
    fine = two(torch.cat([fine, doubled(middle, fine)], 1), 6)
    change = F.conv2d(fine, weights[-2], weights[-1]).reshape(2, 2, 2, 7, 6)
    torch.testing.assert_close(model(past), last(past) + change, rtol=0, atol=1e-12)


@pytest.mark.parametrize("edge", ["zeros", "periodic columns"])
def test_cnn3d_equals_a_stack_of_functions(edge):
    torch.manual_seed(0)
    model = CNN3d(**SMALL, hidden=4, blocks=1, edge=edge).double()

    def layer(x, number):
        x = F.pad(x, (1, 1, 0, 0, 0, 0), mode="constant" if edge == "zeros" else "circular")
        x = F.pad(x, (0, 0, 1, 1, 0, 0), mode="constant" if edge == "zeros" else "replicate")
        return F.conv3d(F.pad(x, (0, 0, 0, 0, 1, 1)), weights[2 * number], weights[2 * number + 1])

    weights = list(model.parameters())
    past = windows()
    z = torch.stack([torch.cat(seen(past)[2 * t : 2 * t + 2], 1) for t in range(3)], 2)  # (B, 2C, T, H, W)
    z = layer(z, 0)
    inner = F.gelu(layer(F.gelu(z), 1))
    z = F.gelu(z + layer(inner, 2))
    kernel = weights[6].reshape(2, 2, 4, 3)  # lead, channel, hidden, step
    change = torch.einsum("lcdt,bdthw->blchw", kernel, z) + weights[7].reshape(2, 2, 1, 1)
    torch.testing.assert_close(model(past), last(past) + change, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    blocks=st.integers(0, 2),
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_the_receptive_field_is_what_the_gradient_reaches(blocks, kernel, dilation, seed):
    torch.manual_seed(seed)
    model = CNN(channels=1, past=2, horizon=1, hidden=6, blocks=blocks, kernel=kernel, dilation=dilation).double()
    field = receptive_field(model.layers)
    size = field + 4
    middle = size // 2
    gradient = influence(model, torch.randn(1, 2, 1, size, size).double(), place=(middle, middle))
    reached = gradient.abs().amax((0, 1, 2)) > 1e-14
    rows, columns = (reached.any(axis).nonzero().flatten() for axis in (1, 0))
    assert rows.max() - rows.min() + 1 == field == columns.max() - columns.min() + 1
    assert (rows.max() + rows.min()) / 2 == middle


@pytest.mark.parametrize("layers", [[(3, 1, 2), (3, 1, 2), (5, 2, 1)], [(1, 1, 1)], [(5, 1, 3), (3, 4, 1)]])
def test_the_receptive_field_of_strides_is_what_the_gradient_reaches(layers):
    x = torch.randn(1, 1, 121, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, dilation, stride in layers:
        y = F.conv1d(y, torch.rand(1, 1, kernel).double() + 0.1, dilation=dilation, stride=stride)
    (gradient,) = torch.autograd.grad(y[0, 0, 1], x)
    assert int((gradient != 0).flatten().nonzero().max() - (gradient != 0).flatten().nonzero().min()) + 1 == (
        receptive_field(layers)
    )


def test_the_receptive_field_of_cnn3d():
    model = CNN3d(channels=1, past=2, horizon=1, hidden=4, blocks=2).double()
    gradient = influence(model, torch.randn(1, 2, 1, 17, 17).double(), place=(8, 8))
    assert receptive_field(model.layers) == 11 == int((gradient.abs().amax((0, 1, 2, 3)) > 0).sum())


def test_influence_is_the_difference_quotient():
    torch.manual_seed(0)
    model, past = CNN(**SMALL, hidden=5, blocks=1).double(), windows()
    gradient = influence(model, past, place=(3, 2), lead=2, channel=1)
    assert gradient.shape == past.shape and not gradient.isnan().any()
    assert (gradient[past.isnan()] == 0).all()
    changed = past.clone()
    changed[0, 2, 1, 4, 2] += 1e-6
    quotient = (model(changed) - model(past))[0, 1, 1, 3, 2] / 1e-6
    torch.testing.assert_close(gradient[0, 2, 1, 4, 2], quotient.detach(), rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match=r"place must be an index of a map of shape \(7, 6\), got \(1,\)"):
        influence(model, past, place=(1,))


@every_network
def test_periodic_networks_commute_with_shifts(make):
    torch.manual_seed(0)
    model, past = make(edge="periodic").double(), windows(size=(8, 12))
    steps = [(4, -8), (-4, 4)] if isinstance(model, UNet) else [(1, 0), (3, -5)]
    for shift in steps:
        moved = model(past.roll(shift, (-2, -1)))
        torch.testing.assert_close(moved, model(past).roll(shift, (-2, -1)), rtol=0, atol=1e-10)


@every_network
def test_zeros_at_the_edge_break_it_and_so_do_odd_shifts_of_the_unet(make):
    torch.manual_seed(0)
    past = windows(size=(8, 12), missing=False)
    zeros, ring = make(edge="zeros").double(), make(edge="periodic").double()
    assert (zeros(past.roll(4, -1)) - zeros(past).roll(4, -1)).abs().max() > 1e-3
    gap = (ring(past.roll(1, -1)) - ring(past).roll(1, -1)).abs().max()
    assert (gap > 1e-4) == isinstance(ring, UNet)


@every_network
def test_a_missing_value_is_not_a_zero_and_has_no_gradient(make):
    torch.manual_seed(0)
    model, past = make().double(), windows()
    forecast = model(past.requires_grad_())
    assert not forecast.isnan().any()
    (gradient,) = torch.autograd.grad(forecast.square().sum(), past, retain_graph=True)
    assert not gradient.isnan().any() and (gradient[past.isnan()] == 0).all()
    weights = torch.autograd.grad(forecast.square().sum(), list(model.parameters()))
    assert all(weight.isfinite().all() for weight in weights)
    assert (model(past.detach().nan_to_num()) - forecast)[..., :3, :3].abs().max() > 1e-4


@every_network
def test_every_parameter_gets_a_gradient(make):
    torch.manual_seed(0)
    model, past = make().double(), windows()
    model(past).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad.abs().flatten(1) if parameter.ndim > 1 else parameter.grad[:, None].abs()).sum(
            1
        ).min() > 0, name


@every_network
def test_gradients_are_those_of_finite_differences(make):
    torch.manual_seed(0)
    model = make().double()
    past = windows(batch=1, size=(3, 2), missing=False).requires_grad_()
    assert torch.autograd.gradcheck(model, (past,), atol=1e-6)


@every_network
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (9, 11)])
def test_every_size_goes_in_and_comes_out(make, edge, size):
    assert make(edge=edge).double()(windows(batch=1, size=size, missing=False)).shape == (1, 2, 2, *size)


@every_network
def test_windows_of_a_batch_do_not_see_each_other_nor_older_steps(make):
    torch.manual_seed(0)
    model, past = make().double(), windows(batch=3, steps=5)
    together = model(past)
    torch.testing.assert_close(together[1:2], model(past[1:2]))
    torch.testing.assert_close(together, model(past[:, 2:]))
    apart = past.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(together, model(apart))


@every_network
def test_it_starts_near_persistence_and_forecasts_changes(make):
    torch.manual_seed(0)
    model, past = make(), windows(missing=False, dtype=torch.float32)
    assert (model(past) - past[:, -1:]).abs().mean() < 0.15
    # A tenth of torch's own start, which goes up to one over the root of the weights' number.
    assert model.head.weight.abs().max() < 0.1 / model.head.in_channels**0.5 and (model.head.bias == 0).all()
    plain = make(change=False)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(past[:, -1:] + plain(past), model(past))


@every_network
def test_bfloat16_agrees_with_float32(make):
    torch.manual_seed(0)
    model, past = make(change=False), windows(dtype=torch.float32)
    expected = model(past)
    with torch.autocast("cpu", torch.bfloat16):
        forecast = model(past)
    assert (forecast - expected).abs().max() < 0.02 * expected.abs().max()
    forecast.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_frame_is_enough():
    for network in (CNN, UNet, CNN3d):
        model = network(channels=1, past=1, horizon=3)
        assert model(torch.zeros(1, 1, 1, 5, 5)).shape == (1, 3, 1, 5, 5)


def test_dropout_acts_in_training_only():
    model = CNN(**SMALL, dropout=0.5)
    past = windows(dtype=torch.float32)
    torch.manual_seed(0)
    assert not torch.equal(model(past), model(past))
    kept = model.blocks[0][3](torch.ones(4, 50, 3, 3)).flatten(2)
    assert (kept == kept[..., :1]).all() and 0 < (kept == 0).float().mean() < 1  # whole maps
    model.eval()
    assert torch.equal(model(past), model(past))


@every_network
def test_a_state_goes_into_a_fresh_network(make):
    model, fresh, past = make().double(), make().double(), windows()
    assert not torch.equal(model(past), fresh(past))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(past), fresh(past))


@every_network
@pytest.mark.parametrize("shape", [(1, 2, 2, 4, 4), (1, 3, 1, 4, 4), (3, 2, 4, 4), (1, 3, 2, 0, 4)])
def test_wrong_shapes_are_named(make, shape):
    with pytest.raises(ValueError, match=r"past must be \(B, T, C, H, W\) with T >= 3 and C = 2, got shape"):
        make()(torch.zeros(shape))


@every_network
def test_an_unknown_edge_is_named(make):
    with pytest.raises(ValueError, match="edge must be one of zeros, replicate, periodic"):
        make(edge="wrap")


def test_an_even_kernel_is_named():
    with pytest.raises(ValueError, match="kernel must be odd and positive, got 2"):
        CNN(**SMALL, kernel=2)


@every_network
@pytest.mark.parametrize("size", ["channels", "past", "horizon", "hidden"])
def test_sizes_below_one_are_named(make, size):
    with pytest.raises(ValueError, match=f"{size} must be at least 1, got 0"):
        type(make())(**SMALL | {size: 0})


def test_no_block_and_no_level_are_the_least():
    past = windows(dtype=torch.float32)
    for network, name in ((CNN, "blocks"), (UNet, "levels"), (CNN3d, "blocks")):
        assert network(**SMALL, **{name: 0})(past).shape == (2, 2, 2, 7, 6)
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            network(**SMALL, **{name: -1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"place": (3, 2), "lead": 0}, "lead must be from 1 to 2 and channel from 0 to 1, got 0 and 0"),
        ({"place": (3, 2), "lead": 3}, "lead must be from 1 to 2 and channel from 0 to 1, got 3 and 0"),
        ({"place": (3, 2), "channel": 2}, "lead must be from 1 to 2 and channel from 0 to 1, got 1 and 2"),
        ({"place": (3, 2), "channel": -1}, "lead must be from 1 to 2 and channel from 0 to 1, got 1 and -1"),
        ({"place": (7, 2)}, r"place must be an index of a map of shape \(7, 6\), got \(7, 2\)"),
    ],
)
def test_influence_on_what_is_not_forecast_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        influence(CNN(**SMALL).double(), windows(), **options)


def test_influence_leaves_the_past_and_the_weights_as_they_are():
    model, past = CNN(**SMALL, hidden=5, blocks=1).double(), windows()
    expected = influence(model, past, place=(3, 2))
    with torch.inference_mode():
        assert torch.equal(influence(model, past, place=(3, 2)), expected)
    assert not past.requires_grad and all(p.grad is None for p in model.parameters())
    usual = Climatology(horizon=2, cycle=None).fit(past[0])
    with pytest.raises(ValueError, match="no gradient in the past: the model does not look at it"):
        influence(usual, past, place=(3, 2))
