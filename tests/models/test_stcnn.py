import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from stlib.models.baselines import Persistence
from stlib.models.stcnn import STCNN, FrameDecoder, FrameEncoder, STCNNtoSeries, halved

SIZE = (5, 7)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def awake(model, seed=0):
    """The same model with every parameter drawn anew: the last layers start at 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def small(cell="lstm", **options):
    settings = {"channels": 2, "size": SIZE, "horizon": 3, "hidden": 3, "code": 4, "cell": cell} | options
    return awake(STCNN(**settings).double())


def to_series(cell="lstm", **options):
    settings = {"channels": 2, "size": SIZE, "horizon": 3, "series": 2, "hidden": 3, "code": 4, "cell": cell} | options
    return awake(STCNNtoSeries(**settings).double())


def encode_one(encoder, frame):
    """A frame's code with plain functions of torch, one frame and one level at a time."""
    x = frame[None]
    for conv in encoder.convs:
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), conv.conv.weight, conv.conv.bias)[:, :, ::2, ::2]
        x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    return encoder.flat.weight @ x.reshape(-1) + encoder.flat.bias


def decode_one(decoder, code, sizes):
    x = decoder.flat.weight @ code + decoder.flat.bias
    x = (x * 0.5 * (1 + torch.erf(x / 2**0.5))).reshape(1, -1, *sizes[0])
    for conv, (height, width) in zip(decoder.convs, sizes[1:], strict=True):
        rows, columns = torch.arange(height) // 2, torch.arange(width) // 2
        x = F.conv2d(x[:, :, rows][..., columns], conv.conv.weight, conv.conv.bias, padding=1)
        x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    return F.conv2d(x, decoder.head.weight, decoder.head.bias)[0]


def test_codes_and_frames_equal_a_loop_over_frames():
    encoder = awake(FrameEncoder(channels=2, size=SIZE, hidden=3, code=4).double())
    frames = noise(6, 2, *SIZE)
    expected = torch.stack([encode_one(encoder, frame) for frame in frames])
    torch.testing.assert_close(encoder(frames), expected, rtol=0, atol=1e-12)
    decoder = awake(FrameDecoder(channels=2, size=SIZE, hidden=3, code=4).double())
    expected = torch.stack([decode_one(decoder, code, [(2, 2), (3, 4), (5, 7)]) for code in expected])
    torch.testing.assert_close(decoder(encoder(frames)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_network_equals_a_loop_over_windows_frames_and_leads(cell):
    model, past = small(cell), noise(2, 4, 2, *SIZE)
    steps = (nn.LSTMCell if cell == "lstm" else nn.GRUCell)(4, 4).double()
    steps.load_state_dict({name.removesuffix("_l0"): value for name, value in model.memory.state_dict().items()})
    for b in range(2):
        state = None
        for t in range(4):
            code = encode_one(model.encoder, torch.cat([past[b, t], torch.ones_like(past[b, t])]))
            torch.testing.assert_close(model.codes(past)[b, t], code, rtol=0, atol=1e-12)
            state = steps(code[None], state)
        for lead in range(3):
            z = state[0] if cell == "lstm" else state
            change = decode_one(model.decoder, z[0], [(2, 2), (3, 4), (5, 7)])
            torch.testing.assert_close(model(past)[b, lead], past[b, -1] + change, rtol=0, atol=1e-12)
            state = steps(z, state)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_series_equals_a_loop_over_windows_and_frames(cell):
    model, past, series = to_series(cell), noise(2, 4, 2, *SIZE), noise(2, 4, 2, seed=1)
    series[0, 1, 0] = torch.nan
    steps = (nn.LSTMCell if cell == "lstm" else nn.GRUCell)(8, 4).double()
    steps.load_state_dict({name.removesuffix("_l0"): value for name, value in model.memory.state_dict().items()})
    for b in range(2):
        state = None
        for t in range(4):
            code = encode_one(model.encoder, torch.cat([past[b, t], torch.ones_like(past[b, t])]))
            seen = series[b, t]
            state = steps(torch.cat([code, seen.nan_to_num(), (~seen.isnan()).double()])[None], state)
        z = (state[0] if cell == "lstm" else state)[0]
        for lead in range(3):
            rows = slice(2 * lead, 2 * lead + 2)
            expected = series[b, -1] + model.head.weight[rows] @ z + model.head.bias[rows]
            torch.testing.assert_close(model(past, series)[b, lead], expected, rtol=0, atol=1e-12)


def test_a_recurrent_layer_refuses_a_stack_of_maps():
    maps = torch.zeros(8, 10, 16, 9, 9)  # (B, T, D, H, W), as the layer before it leaves them
    with pytest.raises(ValueError, match="LSTM: Expected input to be 2D or 3D, got 5D"):
        nn.LSTM(16, 32, batch_first=True)(maps)


def test_an_untrained_network_is_persistence():
    past, series = noise(2, 3, 2, *SIZE, dtype=torch.float32), noise(2, 3, 1, dtype=torch.float32)
    past[0, 2, 1, 2, 3] = series[1, 2, 0] = torch.nan
    model = STCNN(channels=2, size=SIZE, horizon=3)
    torch.testing.assert_close(model(past), Persistence(horizon=3)(past), rtol=0, atol=0)
    model = STCNNtoSeries(channels=2, size=SIZE, horizon=3)
    torch.testing.assert_close(model(past, series), Persistence(horizon=3)(series), rtol=0, atol=0)


def test_codes_depend_on_their_own_frame_and_the_forecast_on_all():
    model, past = small(), noise(1, 4, 2, *SIZE).requires_grad_()
    (gradient,) = torch.autograd.grad(model.codes(past)[0, 1].sum(), past)
    reached = gradient.abs().amax((0, 2, 3, 4)) > 0
    assert reached.tolist() == [False, True, False, False]
    (gradient,) = torch.autograd.grad(model(past)[0, :, :, 0, 0].sum(), past)
    assert gradient.abs().amin((0, 1, 2)).min() > 0  # a code is one sum over the whole map


def test_it_does_not_commute_with_a_shift():
    model, past = small(edge="periodic", size=(8, 8), levels=1), noise(1, 3, 2, 8, 8)
    assert (model(past.roll(2, -1)) - model(past).roll(2, -1)).abs().max() > 1e-3


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_are_right_and_no_parameter_is_dead(cell):
    past, series = noise(2, 3, 1, 3, 4).requires_grad_(), noise(2, 3, 1).requires_grad_()
    model = small(cell, channels=1, size=(3, 4), horizon=2, hidden=2, code=3)
    assert torch.autograd.gradcheck(model, (past,))
    many = to_series(cell, channels=1, size=(3, 4), horizon=2, hidden=2, code=3, series=1)
    assert torch.autograd.gradcheck(many, (past, series))
    past, series = noise(20, 3, 1, 3, 4), noise(20, 3, 1)  # many: the masks do not change, their weights have to
    for network, inputs in ((model, (past,)), (many, (past, series))):
        network(*inputs).square().sum().backward()
        for name, parameter in network.named_parameters():
            per_output = parameter.grad.flatten(1).abs().amax(1) if parameter.ndim > 1 else parameter.grad.abs()
            assert per_output.min() > 0, name


def test_missing_cells_are_masked_and_bear_no_gradient():
    model, past = small(), noise(1, 3, 2, *SIZE)
    past[0, 1, 0, 2, 2] = past[0, 2, 1, 0, 1] = torch.nan
    past[0, :, 0, 3, 3] = torch.nan
    past.requires_grad_()
    forecast = model(past)
    assert forecast.isfinite().all()
    (gradient,) = torch.autograd.grad(forecast.square().sum(), past)
    assert gradient.isfinite().all() and (gradient[past.isnan()] == 0).all()
    frame = past.detach()[0, 1]
    expected = encode_one(model.encoder, torch.cat([frame.nan_to_num(), (~frame.isnan()).double()]))
    torch.testing.assert_close(model.codes(past)[0, 1], expected)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    steps=st.integers(1, 4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    levels=st.integers(1, 4),
    edge=st.sampled_from(["zeros", "replicate", "periodic", "periodic columns"]),
    cell=st.sampled_from(["lstm", "gru"]),
)
def test_any_size_and_any_past(batch, steps, size, levels, edge, cell):
    model = STCNN(channels=2, size=size, horizon=2, hidden=2, code=3, levels=levels, edge=edge, cell=cell)
    nn.init.normal_(model.decoder.head.weight)
    past = noise(*reversed(size), 2, steps, batch, dtype=torch.float32).permute(4, 3, 2, 1, 0)  # not contiguous
    forecast = model(past)
    assert forecast.shape == (batch, 2, 2, *size)
    assert forecast.isfinite().all()
    torch.testing.assert_close(forecast[:1], model(past[:1].contiguous()), rtol=1e-4, atol=1e-5)
    assert halved(size, levels)[-1] == tuple(-(-side // 2**levels) for side in size)


def test_bfloat16_agrees_with_float32():
    torch.manual_seed(0)
    past, series = noise(4, 6, 2, 9, 7, dtype=torch.float32), noise(4, 6, 1, dtype=torch.float32)
    model = STCNN(channels=2, size=(9, 7), horizon=3)
    many = STCNNtoSeries(channels=2, size=(9, 7), horizon=3)
    nn.init.normal_(model.decoder.head.weight)
    nn.init.normal_(many.head.weight, std=0.2)
    for network, inputs in ((model, (past,)), (many, (past, series))):
        exact = network(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(*inputs)
            rough.float().square().mean().backward()
        assert (rough - exact).norm() < 0.02 * exact.norm()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="cell must be one of lstm, gru, got 'rnn'"):
        STCNN(channels=1, size=(4, 4), horizon=1, cell="rnn")
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        STCNN(channels=1, size=(4, 4), horizon=1, levels=0)
    model = STCNN(channels=2, size=(4, 5), horizon=1)
    for shape in [(1, 2, 3, 4, 5), (1, 2, 2, 5, 4), (1, 2, 2, 4), (1, 0, 2, 4, 5)]:
        with pytest.raises(ValueError, match=r"past must be \(B, T, 2, 4, 5\) with at least one step, got shape"):
            model(torch.zeros(shape))
    many = STCNNtoSeries(channels=2, size=(4, 5), horizon=1)
    with pytest.raises(ValueError, match=r"the series must be \(1, 3, 1\) for these maps, got shape \(1, 2, 1\)"):
        many(torch.zeros(1, 3, 2, 4, 5), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match=r"past must be \(B, T, 2, 4, 5\)"):
        many(torch.zeros(1, 3, 1, 4, 5), torch.zeros(1, 3, 1))
    with pytest.raises(ValueError, match=r"frames must be \(B, 2, 4, 5\), got shape \(1, 2, 5, 4\)"):
        FrameEncoder(channels=2, size=(4, 5))(torch.zeros(1, 2, 5, 4))
    with pytest.raises(ValueError, match=r"codes must be \(B, 64\), got shape \(1, 63\)"):
        FrameDecoder(channels=2, size=(4, 5))(torch.zeros(1, 63))


def test_the_edge_is_that_of_encoder_and_decoder():
    for edge in ("zeros", "replicate", "periodic", "periodic columns"):
        model = STCNN(channels=1, size=(5, 6), horizon=2, edge=edge)
        assert {conv.edge for part in (model.encoder, model.decoder) for conv in part.convs} == {edge}


def test_sizes_are_named():
    with pytest.raises(ValueError, match="channels, horizon, hidden and code must be at least 1, got 1, -1, 16 and 64"):
        STCNN(channels=1, size=(5, 6), horizon=-1)
