import numpy as np
import pytest
import torch

from stlib.models._grid import EDGES, Conv2d, beyond_the_edge, last_value, values_and_mask

NUMPY = {"zeros": ("constant", "constant"), "replicate": ("edge", "edge"), "periodic": ("wrap", "wrap")}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (2, 9)])
@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_beyond_the_edge_equals_numpy(edge, shape, reach):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    rows, columns = NUMPY.get(edge, ("edge", "wrap"))
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (0, 0), (reach, reach)], mode=columns)
    expected = np.pad(expected, [(0, 0), (0, 0), (reach, reach), (0, 0)], mode=rows)
    torch.testing.assert_close(beyond_the_edge(x, reach, edge), torch.from_numpy(expected), rtol=0, atol=0)


@pytest.mark.parametrize("edge", EDGES)
def test_convolution_equals_its_equation(edge):
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    layer = Conv2d(2, 3, kernel=3, dilation=2, edge=edge).double()
    wide = beyond_the_edge(x, 2, edge)
    kernel, bias = layer.conv.weight, layer.conv.bias
    expected = torch.zeros(1, 3, 5, 6, dtype=torch.float64)
    for d in range(3):
        for row in range(5):
            for column in range(6):
                seen = wide[0, :, row : row + 5 : 2, column : column + 5 : 2]
                expected[0, d, row, column] = bias[d] + (kernel[d] * seen).sum()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_a_periodic_convolution_commutes_with_a_shift_and_the_others_do_not_at_the_edge():
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    for edge in EDGES:
        layer = Conv2d(1, 1, edge=edge).double()
        gap = (layer(x.roll(2, -1)) - layer(x).roll(2, -1)).abs().max()
        assert gap < 1e-12 if "periodic" in edge else gap > 1e-3


def test_strides_round_up():
    assert Conv2d(1, 1, kernel=3, stride=2, edge="periodic")(torch.zeros(1, 1, 5, 8)).shape == (1, 1, 3, 4)


def test_gaps_become_zeros_with_a_mask_beside_and_carry_no_gradient():
    past = torch.randn(2, 3, 2, 4)
    past[0, 1, 0, 2] = torch.nan
    past.requires_grad_()
    seen = values_and_mask(past)
    assert seen.shape == (2, 3, 4, 4)
    assert seen[0, 1, 0, 2] == 0 and seen[0, 1, 2, 2] == 0
    assert seen[:, :, 2:].sum() == past.numel() - 1
    (gradient,) = torch.autograd.grad(seen.square().sum(), past)
    torch.testing.assert_close(gradient, 2 * past.detach().nan_to_num())


def test_last_value_goes_back_to_the_last_observation():
    nan = torch.nan
    past = torch.tensor([[[1.0, nan, 3.0], [2.0, nan, nan]]])
    assert last_value(past).tolist() == [[[2.0, 0.0, 3.0]]]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="kernel must be odd and positive, got 4"):
        Conv2d(1, 1, kernel=4)
    with pytest.raises(
        ValueError, match="edge must be one of zeros, replicate, periodic, periodic columns, got 'same'"
    ):
        Conv2d(1, 1, edge="same")
    for name in ("dilation", "stride"):
        with pytest.raises(ValueError, match="dilation and stride must be at least 1, got"):
            Conv2d(1, 1, **{name: 0})


def test_strided_and_wide_convolutions_equal_the_dense_one_at_their_cells():
    x = torch.randn(1, 2, 7, 8, dtype=torch.float64)
    for edge in EDGES:
        dense, strided = (Conv2d(2, 3, kernel=5, stride=stride, edge=edge).double() for stride in (1, 2))
        strided.load_state_dict(dense.state_dict())
        torch.testing.assert_close(strided(x), dense(x)[..., ::2, ::2], rtol=0, atol=1e-12)


def test_the_last_value_may_be_infinite_but_not_missing():
    past = torch.tensor([[[1.0, torch.nan, torch.inf], [torch.nan, torch.nan, torch.nan]]])
    assert last_value(past).flatten().tolist() == [1.0, 0.0, torch.inf]
