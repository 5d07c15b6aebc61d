"""Convolutional networks over stacked frames: the same small weights at every place."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlib.models._grid import EDGES, Conv2d, beyond_the_edge, last_value, values_and_mask


class CNN(nn.Module):
    r"""A 2-D convolutional network that sees the frames of the past as further channels.

    .. math::

        z^0 &= \kappa^{\mathrm{in}} \star [x_{t-P+1}, m_{t-P+1}, \dots, x_t, m_t] \\
        z^{b} &= z^{b-1} + \kappa^b_2 \star \operatorname{gelu}(\kappa^b_1 \star \operatorname{gelu}(z^{b-1})) \\
        \hat x_{t+h \mid t} &= x_t + \kappa^{\mathrm{out}}_h \star \operatorname{gelu}(z^{\mathrm{blocks}})

    :math:`m` is 1 where a value was observed and 0 where not; there the values are 0 too. The last kernel is one cell
    wide. Block :math:`b = 1, 2, \dots` has kernels of dilation ``dilation``\ :sup:`b - 1`: 1 leaves them dense, 2
    doubles their reach from block to block. There is no normalisation over the map, so that a forecast depends on the
    cells in its `receptive_field` and on no others. Where the last value is missing, :math:`x_t` is the last observed
    one, or 0. With ``change=False`` the network forecasts the values themselves, without :math:`x_t`. ``dropout`` is
    the share of the hidden maps of a block that are left out in training.

    Shapes: ``(B, T, channels, H, W)`` with ``T >= past`` (the last ``past`` steps are used) to
    ``(B, horizon, channels, H, W)``.
    Raises ValueError for another shape, an even kernel, a size below 1 or an unknown edge.
    Source: residual blocks: He et al. (2016), doi:10.1007/978-3-319-46493-0_38; dilation: Yu & Koltun (2016),
    doi:10.48550/arXiv.1511.07122. Deviation: no batch normalisation, and GELU in place of ReLU.

    >>> model = CNN(channels=6, past=4, horizon=4)
    >>> model(torch.zeros(2, 4, 6, 33, 36)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 4, 6, 33, 36]), 70136)
    """

    def __init__(
        self,
        *,
        channels: int,
        past: int,
        horizon: int,
        hidden: int = 32,
        blocks: int = 3,
        kernel: int = 3,
        dilation: int = 1,
        edge: str = "zeros",
        dropout: float = 0.0,
        change: bool = True,
    ):
        super().__init__()
        _check_sizes(channels=channels, past=past, horizon=horizon, hidden=hidden)
        _check_sizes(least=0, blocks=blocks)
        self.channels, self.past, self.horizon, self.change = channels, past, horizon, change
        self.entry = Conv2d(2 * channels * past, hidden, kernel=kernel, edge=edge)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GELU(),
                Conv2d(hidden, hidden, kernel=kernel, dilation=dilation**b, edge=edge),
                nn.GELU(),
                nn.Dropout2d(dropout),
                Conv2d(hidden, hidden, kernel=kernel, dilation=dilation**b, edge=edge),
            )
            for b in range(blocks)
        )
        self.head = nn.Conv2d(hidden, channels * horizon, 1)
        _begin_small(self.head)
        reaches = [1, *(dilation**b for b in range(blocks) for _ in range(2))]
        self.layers = [(kernel, reach, 1) for reach in reaches]  # for `receptive_field`; the head's is one cell

    def forward(self, past: Tensor) -> Tensor:
        past = _last_frames(past, self.channels, self.past)
        z = self.entry(values_and_mask(past).flatten(1, 2))  # (B, hidden, H, W)
        for block in self.blocks:
            z = z + block(z)
        forecast = self.head(F.gelu(z)).unflatten(1, (self.horizon, self.channels))
        return last_value(past) + forecast if self.change else forecast


class UNet(nn.Module):
    r"""A network that looks at the map coarser and coarser, and then puts the details back.

    .. math::

        z^0 &= f^0([x, m]), \qquad z^\ell = f^\ell(\operatorname{mean}_{2 \times 2} z^{\ell-1}) \\
        y^{\ell-1} &= g^\ell([z^{\ell-1}, \operatorname{repeat}_{2 \times 2} y^\ell]), \qquad
        y^{\mathrm{levels}} = z^{\mathrm{levels}} \\
        \hat x_{t+h \mid t} &= x_t + \kappa^{\mathrm{out}}_h \star y^0

    :math:`f` and :math:`g` are two convolutions of 3 cells a side, each followed by a GELU. Level :math:`\ell` has
    ``hidden`` :math:`2^\ell` channels. The side of a map is halved upwards, so that every size is allowed; the last
    mean of an odd side takes the cells that there are. ``change`` is as in `CNN`.

    Shapes: as `CNN`.
    Raises ValueError for another shape, a size below 1 or an unknown edge.
    Source: Ronneberger, Fischer & Brox (2015), doi:10.1007/978-3-319-24574-4_28. Deviation: means in place of maxima,
    repetition in place of transposed convolutions, sizes kept by padding.

    >>> model = UNet(channels=6, past=4, horizon=4)
    >>> model(torch.zeros(2, 4, 6, 33, 36)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 4, 6, 33, 36]), 125144)
    """

    def __init__(
        self,
        *,
        channels: int,
        past: int,
        horizon: int,
        hidden: int = 16,
        levels: int = 2,
        edge: str = "zeros",
        change: bool = True,
    ):
        super().__init__()
        _check_sizes(channels=channels, past=past, horizon=horizon, hidden=hidden)
        _check_sizes(least=0, levels=levels)
        self.channels, self.past, self.horizon, self.change = channels, past, horizon, change
        wide = [hidden * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(
            _two_layers(before, after, edge) for before, after in zip([2 * channels * past, *wide], wide, strict=False)
        )
        self.up = nn.ModuleList(_two_layers(coarse + fine, fine, edge) for fine, coarse in pairwise(wide))
        self.head = nn.Conv2d(hidden, channels * horizon, 1)
        _begin_small(self.head)

    def forward(self, past: Tensor) -> Tensor:
        past = _last_frames(past, self.channels, self.past)
        z = values_and_mask(past).flatten(1, 2)
        details = []
        for level, layers in enumerate(self.down):
            z = layers(F.avg_pool2d(z, 2, ceil_mode=True) if level else z)
            details.append(z)
        for layers, detail in zip(reversed(self.up), reversed(details[:-1]), strict=True):
            z = z.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : detail.shape[-2], : detail.shape[-1]]
            z = layers(torch.cat([detail, z], 1))
        forecast = self.head(z).unflatten(1, (self.horizon, self.channels))
        return last_value(past) + forecast if self.change else forecast


class CNN3d(nn.Module):
    r"""A network whose kernels reach over time, rows and columns alike; time is folded into the leads at the end.

    .. math::

        z^0 &= \kappa^{\mathrm{in}} \star [x, m], \qquad
        z^{b} = z^{b-1} + \kappa^b_2 \star \operatorname{gelu}(\kappa^b_1 \star \operatorname{gelu}(z^{b-1})) \\
        \hat x_{t+h \mid t} &= x_t + \sum_{\tau=0}^{P-1} \kappa^{\mathrm{out}}_{h \tau} \operatorname{gelu}(z_{t-\tau})

    Kernels are 3 steps long and 3 cells a side: the same weights at every place and at every step. Before the first and
    after the last step of the past there are zeros. ``change`` is as in `CNN`.

    Shapes: as `CNN`.
    Raises ValueError for another shape, a size below 1 or an unknown edge.
    Source: Ji et al. (2013), doi:10.1109/TPAMI.2012.59. Deviation: sizes are kept by padding, blocks are residual.

    >>> model = CNN3d(channels=6, past=4, horizon=4)
    >>> model(torch.zeros(2, 4, 6, 33, 36)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 4, 6, 33, 36]), 34472)
    """

    def __init__(
        self,
        *,
        channels: int,
        past: int,
        horizon: int,
        hidden: int = 16,
        blocks: int = 2,
        edge: str = "zeros",
        change: bool = True,
    ):
        super().__init__()
        _check_sizes(channels=channels, past=past, horizon=horizon, hidden=hidden)
        _check_sizes(least=0, blocks=blocks)
        self.channels, self.past, self.horizon, self.change = channels, past, horizon, change
        self.entry = _Conv3d(2 * channels, hidden, edge)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GELU(), _Conv3d(hidden, hidden, edge), nn.GELU(), _Conv3d(hidden, hidden, edge))
            for _ in range(blocks)
        )
        self.head = nn.Conv2d(hidden * past, channels * horizon, 1)
        _begin_small(self.head)
        self.layers = [(3, 1, 1)] * (1 + 2 * blocks)  # for `receptive_field`

    def forward(self, past: Tensor) -> Tensor:
        past = _last_frames(past, self.channels, self.past)
        z = self.entry(values_and_mask(past).transpose(1, 2))  # (B, hidden, past, H, W)
        for block in self.blocks:
            z = z + block(z)
        forecast = self.head(F.gelu(z).flatten(1, 2)).unflatten(1, (self.horizon, self.channels))
        return last_value(past) + forecast if self.change else forecast


def receptive_field(layers: Iterable[tuple[int, int, int]]) -> int:
    r"""How many cells a side of the input one cell of the output can see.

    .. math:: 1 + \sum_i (k_i - 1)\, d_i \prod_{j < i} s_j

    A layer is its kernel :math:`k`, dilation :math:`d` and stride :math:`s`; the first layer comes first. `CNN` and
    `CNN3d` have theirs in ``model.layers``.

    >>> receptive_field([(3, 1, 1), (3, 1, 1)]), receptive_field(CNN(channels=1, past=1, horizon=1).layers)
    (5, 15)
    """
    cells, step = 1, 1
    for kernel, dilation, stride in layers:
        cells += (kernel - 1) * dilation * step
        step *= stride
    return cells


def influence(model: nn.Module, past: Tensor, *, place: tuple[int, ...], lead: int = 1, channel: int = 0) -> Tensor:
    r"""What a small change of each value of the past does to the forecast of one place.

    .. math:: \partial\, \hat x_{t+h \mid t}(\mathrm{place}) \,/\, \partial\, x_{t-\tau}(p)

    It is 0 for missing values, and for all that lies outside the receptive field.

    Shapes: ``past`` ``(B, T, C, *S)`` to the same; ``place`` is an index of ``*S``, ``lead`` counts from 1.
    Raises ValueError for a place, lead or channel that does not exist, and for a forecast without a gradient in the
    past.

    >>> from stlib.models.baselines import Persistence
    >>> influence(Persistence(horizon=2), torch.zeros(1, 2, 1, 3), place=(1,))[0, :, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    if len(place) != past.ndim - 3 or not all(-n <= i < n for i, n in zip(place, past.shape[3:], strict=True)):
        raise ValueError(f"place must be an index of a map of shape {tuple(past.shape[3:])}, got {place}")
    with torch.inference_mode(False), torch.enable_grad():
        past = past.detach().clone().requires_grad_()
        forecast = model(past)
        leads, channels = forecast.shape[1:3]
        if not (1 <= lead <= leads and 0 <= channel < channels):
            raise ValueError(
                f"lead must be from 1 to {leads} and channel from 0 to {channels - 1}, got {lead} and {channel}"
            )
        one = forecast[:, lead - 1, channel][:, *place].sum()
        (gradient,) = torch.autograd.grad(one, past, allow_unused=True) if one.requires_grad else (None,)
    if gradient is None:
        raise ValueError("the forecast has no gradient in the past: the model does not look at it, or detaches it")
    return gradient


class _Conv3d(nn.Module):
    """A convolution of 3 steps and 3 by 3 cells that keeps all sizes: zeros around the time, an edge around the map."""

    def __init__(self, channels: int, out_channels: int, edge: str):
        super().__init__()
        if edge not in EDGES:
            raise ValueError(f"edge must be one of {', '.join(EDGES)}, got {edge!r}")
        self.edge = edge
        self.conv = nn.Conv3d(channels, out_channels, 3, padding=1 if edge == "zeros" else (1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:  # (B, D, T, H, W)
        if self.edge != "zeros":
            x = beyond_the_edge(x.flatten(1, 2), 1, self.edge).unflatten(1, x.shape[1:3])
        return self.conv(x)


def _two_layers(channels: int, out_channels: int, edge: str) -> nn.Sequential:
    first, second = Conv2d(channels, out_channels, edge=edge), Conv2d(out_channels, out_channels, edge=edge)
    for layer in (first, second):  # without residual blocks, torch's own start lets ten layers forget their input
        nn.init.kaiming_normal_(layer.conv.weight, nonlinearity="relu")
    return nn.Sequential(first, nn.GELU(), second, nn.GELU())


def _begin_small(head: nn.Conv2d) -> None:
    """Begin training near "nothing changes"."""
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()


def _check_sizes(*, least: int = 1, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def _last_frames(past: Tensor, channels: int, steps: int) -> Tensor:
    if past.ndim != 5 or past.shape[1] < steps or past.shape[2] != channels or 0 in past.shape[3:]:
        raise ValueError(
            f"past must be (B, T, C, H, W) with T >= {steps} and C = {channels}, got shape {tuple(past.shape)}"
        )
    return past[:, -steps:]
