"""Spatio-temporal CNN: each frame summed up in a short code, the codes remembered by a recurrent layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlib.models._checks import check_among, check_positive
from stlib.models._grid import Conv2d, last_value, values_and_mask

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU}


class FrameEncoder(nn.Module):
    r"""A frame to a code: convolutions that halve the map ``levels`` times, then one linear map of all that is left.

    Shapes: ``(B, channels, H, W)`` with ``size=(H, W)`` to ``(B, code)``. The linear map reads
    ``hidden * h * w`` numbers, where ``h`` and ``w`` are the sides after halving, rounded up; this number is computed
    here and needs to be given nowhere.
    Raises ValueError for a frame of another shape, fewer than one level, and an unknown edge.

    >>> FrameEncoder(channels=2, size=(33, 36), code=64)(torch.zeros(5, 2, 33, 36)).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        *,
        channels: int,
        size: tuple[int, int],
        hidden: int = 16,
        code: int = 64,
        levels: int = 2,
        edge: str = "zeros",
    ):
        super().__init__()
        self.shape = (channels, *size)
        sizes = halved(size, levels)
        inputs = [channels] + [hidden] * (levels - 1)
        self.convs = nn.ModuleList(Conv2d(c, hidden, stride=2, edge=edge) for c in inputs)
        self.flat = nn.Linear(hidden * sizes[-1][0] * sizes[-1][1], code)

    def forward(self, frames: Tensor) -> Tensor:
        if frames.ndim != 4 or frames.shape[1:] != self.shape:
            raise ValueError(f"frames must be (B, {', '.join(map(str, self.shape))}), got shape {tuple(frames.shape)}")
        for conv in self.convs:
            frames = F.gelu(conv(frames))
        return self.flat(frames.flatten(1))


class FrameDecoder(nn.Module):
    r"""A code to a frame: one linear map to a small map, then doubled ``levels`` times, each time with a convolution.

    Doubling repeats each cell and cuts what is too much, so odd sizes come out exactly. The last convolution starts
    at 0, and so does the frame.

    Shapes: ``(B, code)`` to ``(B, channels, H, W)`` with ``size=(H, W)``.
    Raises ValueError for a code of another length, fewer than one level, and an unknown edge.

    >>> FrameDecoder(channels=1, size=(33, 36), code=64)(torch.zeros(5, 64)).shape
    torch.Size([5, 1, 33, 36])
    """

    def __init__(
        self,
        *,
        channels: int,
        size: tuple[int, int],
        hidden: int = 16,
        code: int = 64,
        levels: int = 2,
        edge: str = "zeros",
    ):
        super().__init__()
        self.code, self.hidden = code, hidden
        self.sizes = halved(size, levels)[::-1]  # from the smallest map up to the frame
        self.flat = nn.Linear(code, hidden * self.sizes[0][0] * self.sizes[0][1])
        self.convs = nn.ModuleList(Conv2d(hidden, hidden, edge=edge) for _ in range(levels))
        self.head = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, codes: Tensor) -> Tensor:
        if codes.ndim != 2 or codes.shape[1] != self.code:
            raise ValueError(f"codes must be (B, {self.code}), got shape {tuple(codes.shape)}")
        x = F.gelu(self.flat(codes)).unflatten(1, (self.hidden, *self.sizes[0]))
        for conv, (height, width) in zip(self.convs, self.sizes[1:], strict=True):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :height, :width]
            x = F.gelu(conv(x))
        return self.head(x)


class STCNN(nn.Module):
    r"""Convolutions in space, recurrence in time: encode each frame, remember the codes, decode the forecast.

    .. math::
        e_\tau &= \mathrm{encoder}(x_\tau) \\
        z_\tau &= \mathrm{LSTM}(e_\tau, z_{\tau-1}), \qquad z_{t+h} = \mathrm{LSTM}(z_{t+h-1}, z_{t+h-1}) \\
        \hat x_{t+h \mid t} &= x_t + \mathrm{decoder}(z_{t+h-1})

    All frames pass through `FrameEncoder` as one batch, and all leads through `FrameDecoder`. After the past the
    recurrent layer reads its own last output in place of a code, so codes and hidden states have the same length. The
    decoder starts at 0, so an untrained network is `stlib.models.baselines.Persistence`. Missing cells enter as 0 with
    a mask beside; :math:`x_t` is the last observed value.

    ``cell`` is ``"lstm"`` or ``"gru"``. Each cell of the map has its own weights in the linear maps from and to a code:
    the network is tied to maps of ``size`` and does not carry what it learned at one place to another.

    Shapes: ``(B, T, C, H, W)`` with ``size=(H, W)`` and any ``T`` of at least 1 to ``(B, horizon, C, H, W)``.
    Raises ValueError for a past of another shape, sizes below 1, and an unknown cell or edge.
    Source: the scheme is that of a CNN-LSTM, Donahue et al. (2015), doi:10.1109/CVPR.2015.7298878, with a decoder for
    maps.
    Deviation: printed versions in which the recurrent layer reads the five axes of a stack of maps do not run; here
    each frame is a vector before it.

    >>> model = STCNN(channels=1, size=(33, 36), horizon=4)
    >>> sum(parameter.numel() for parameter in model.parameters())
    207809
    >>> model(torch.zeros(2, 6, 1, 33, 36)).shape
    torch.Size([2, 4, 1, 33, 36])
    """

    def __init__(
        self,
        *,
        channels: int,
        size: tuple[int, int],
        horizon: int,
        hidden: int = 16,
        code: int = 64,
        levels: int = 2,
        cell: str = "lstm",
        edge: str = "zeros",
    ):
        super().__init__()
        check_positive(channels=channels, horizon=horizon, hidden=hidden, code=code)
        self.horizon = horizon
        options = {"size": size, "hidden": hidden, "code": code, "levels": levels, "edge": edge}
        self.encoder = FrameEncoder(channels=2 * channels, **options)
        self.memory = _recurrent(cell, code, code)
        self.decoder = FrameDecoder(channels=channels, **options)

    def forward(self, past: Tensor) -> Tensor:
        hidden = _roll(self.memory, self.codes(past), self.horizon)  # (B, horizon, code)
        change = self.decoder(hidden.flatten(0, 1)).unflatten(0, (len(past), self.horizon))
        return last_value(past) + change

    def codes(self, past: Tensor) -> Tensor:
        """The code of each frame: ``(B, T, C, H, W)`` to ``(B, T, code)``."""
        return _codes(self.encoder, past)


class STCNNtoSeries(nn.Module):
    r"""Maps in, a series out: the many-to-one use of the same idea.

    .. math:: \hat y_{t+h \mid t} = y_t + \beta_h z_t + b_h, \qquad z_\tau = \mathrm{LSTM}([e_\tau, y_\tau], z_{\tau-1})

    The recurrent layer reads the code :math:`e_\tau` of each map and the series :math:`y_\tau` itself, so that what the
    maps add to the series' own past can be measured. One linear map takes its last state to all leads; it starts at 0,
    so an untrained network is persistence of the series. Missing values of both enter as 0 with a mask beside. It reads
    two records, so `stlib.training.fit.fit` and `stlib.evaluation.backtest.backtest` cannot carry it: train it in a
    loop of your own.

    Shapes: maps ``(B, T, C, H, W)`` with ``size=(H, W)`` and a series ``(B, T, series)`` to ``(B, horizon, series)``.
    Raises ValueError for maps or a series of another shape, sizes below 1, and an unknown cell or edge.
    Source: as `STCNN`.

    >>> model = STCNNtoSeries(channels=2, size=(8, 20), horizon=6)
    >>> sum(parameter.numel() for parameter in model.parameters())
    16966
    >>> model(torch.zeros(3, 12, 2, 8, 20), torch.zeros(3, 12, 1)).shape
    torch.Size([3, 6, 1])
    """

    def __init__(
        self,
        *,
        channels: int,
        size: tuple[int, int],
        horizon: int,
        series: int = 1,
        hidden: int = 16,
        code: int = 32,
        levels: int = 2,
        cell: str = "lstm",
        edge: str = "zeros",
    ):
        super().__init__()
        check_positive(channels=channels, horizon=horizon, series=series, hidden=hidden, code=code)
        self.horizon, self.series = horizon, series
        options = {"size": size, "hidden": hidden, "code": code, "levels": levels, "edge": edge}
        self.encoder = FrameEncoder(channels=2 * channels, **options)
        self.memory = _recurrent(cell, code + 2 * series, code)
        self.head = nn.Linear(code, horizon * series)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, past: Tensor, series: Tensor) -> Tensor:
        if series.shape != (*past.shape[:2], self.series):
            due = (*past.shape[:2], self.series)
            raise ValueError(f"the series must be {due} for these maps, got shape {tuple(series.shape)}")
        seen = torch.cat([_codes(self.encoder, past), values_and_mask(series)], 2)
        change = self.head(self.memory(seen)[0][:, -1])
        return last_value(series) + change.unflatten(1, (self.horizon, self.series))


def halved(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """The sides of a map, and those after each halving, rounded up: ``levels + 1`` pairs.

    Raises ValueError for fewer than one level.

    >>> halved((33, 36), 2)
    [(33, 36), (17, 18), (9, 9)]
    """
    check_positive(levels=levels)
    sizes = [tuple(size)]
    for _ in range(levels):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes


def _recurrent(cell: str, inputs: int, outputs: int) -> nn.Module:
    check_among("cell", cell, LAYERS)
    return LAYERS[cell](inputs, outputs, batch_first=True)


def _codes(encoder: FrameEncoder, past: Tensor) -> Tensor:
    channels, *size = encoder.shape
    if past.ndim != 5 or past.shape[1] < 1 or past.shape[2:] != (channels // 2, *size):
        raise ValueError(
            f"past must be (B, T, {channels // 2}, {size[0]}, {size[1]}) with at least one step, "
            f"got shape {tuple(past.shape)}"
        )
    return encoder(values_and_mask(past).flatten(0, 1)).unflatten(0, past.shape[:2])


def _roll(memory: nn.Module, codes: Tensor, horizon: int) -> Tensor:
    """The hidden states after the past and after each step that reads the one before, ``(B, horizon, code)``."""
    hidden, state = memory(codes)
    hidden = [hidden[:, -1:]]
    for _ in range(horizon - 1):
        step, state = memory(hidden[-1], state)
        hidden.append(step)
    return torch.cat(hidden, 1)
