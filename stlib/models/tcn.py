"""Temporal convolutional networks: no state, the whole past at once, and never the future."""

from torch import Tensor, nn
from torch.nn import functional as F

from stlib.models._checks import check_positive
from stlib.models._grid import last_value
from stlib.models._sequence import from_rows, sequences, width


def receptive_field(kernel: int, blocks: int) -> int:
    r"""How many steps of the past the last step's features can see: :math:`1 + 2 (k - 1) (2^b - 1)`.

    Each of the ``blocks`` has two convolutions with ``kernel`` taps, :math:`2^i` steps apart in block :math:`i`.

    >>> [receptive_field(3, blocks) for blocks in (1, 2, 4)]
    [5, 13, 61]
    """
    return 1 + 2 * (kernel - 1) * (2**blocks - 1)


class CausalConv(nn.Module):
    r"""A convolution over time that never looks ahead: before the first step it sees zeros.

    .. math:: y_t = b + \sum_{j=0}^{k-1} \kappa_j\, x_{t - j d}

    Shapes: ``(B, C, T)`` to ``(B, D, T)``; the last tap of the weight ``(D, C, k)`` meets the present.

    >>> import torch
    >>> CausalConv(2, 8, kernel=3, dilation=4)(torch.zeros(1, 2, 10)).shape
    torch.Size([1, 8, 10])
    """

    def __init__(self, channels: int, out_channels: int, *, kernel: int, dilation: int = 1):
        super().__init__()
        self.before = (kernel - 1) * dilation
        self.conv = nn.Conv1d(channels, out_channels, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.before, 0)))


class Block(nn.Module):
    r"""Two causal convolutions with the same dilation, and a shortcut around them.

    .. math:: y = \operatorname{ReLU}(x + F(x)), \qquad
              F = \operatorname{ReLU} \circ \kappa_2 \circ \operatorname{ReLU} \circ \kappa_1

    Where the number of channels changes, a convolution with one tap stands in the shortcut.

    Shapes: ``(B, C, T)`` to ``(B, D, T)``.

    >>> import torch
    >>> Block(2, 8, kernel=3, dilation=2)(torch.zeros(1, 2, 10)).shape
    torch.Size([1, 8, 10])
    """

    def __init__(self, channels: int, out_channels: int, *, kernel: int, dilation: int, dropout: float = 0.0):
        super().__init__()
        self.first = CausalConv(channels, out_channels, kernel=kernel, dilation=dilation)
        self.second = CausalConv(out_channels, out_channels, kernel=kernel, dilation=dilation)
        self.skip = nn.Conv1d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        self.drop = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.first(x).relu())
        y = self.drop(self.second(y).relu())
        return (self.skip(x) + y).relu()

    def every_second(self, x: Tensor) -> Tensor:
        """What `forward` gives at every second step, the last among them, of a record thinned by the dilation.

        Where only the last step is read, each block needs half the steps of the block before.
        """
        first, second, before = self.first.conv, self.second.conv, self.first.conv.kernel_size[0] - 1
        start = (x.shape[-1] - 1) % 2
        y = self.drop(F.conv1d(F.pad(x, (before, 0)), first.weight, first.bias).relu())
        y = F.conv1d(F.pad(y, (before, 0))[..., start:], second.weight, second.bias, stride=2)
        return (self.skip(x[..., start::2]) + self.drop(y.relu())).relu()


class TCN(nn.Module):
    r"""Causal convolutions over the past with growing dilation, and a linear map of the last step's features.

    .. math:: \hat x_{t+h \mid t} = x_t + W_h z_t + b_h, \qquad z = \mathrm{block}_{b-1} \circ \dots \circ
              \mathrm{block}_0(x)

    Block :math:`i` has the dilation :math:`2^i`, so the `receptive_field` about doubles with each block. A past that is
    shorter will do: before its first step each convolution sees zeros, and a mask of 0. ``places``, masks, ``cycles``
    and the last observed value: as in `stlib.models.recurrent.Recurrent`. ``dropout`` drops whole channels inside the
    blocks.

    Shapes: ``(B, T, C, *S)`` for any ``T`` of at least 1 to ``(B, horizon, C, *S)``; ``calendar (B, T + horizon, 4)``,
    needed with ``cycles`` and else ignored.
    Raises ValueError for sizes below 1, an unknown cycle, a past or calendar of another shape, and ``cycles`` without a
    calendar.
    Source: Bai, Kolter & Koltun (2018), doi:10.48550/arXiv.1803.01271. Deviation: no weight normalisation.

    >>> import torch
    >>> model = TCN(channels=1, horizon=14)
    >>> model(torch.zeros(2, 28, 1, 20)).shape, sum(weight.numel() for weight in model.parameters())
    (torch.Size([2, 14, 1, 20]), 22510)
    """

    def __init__(
        self,
        *,
        channels: int,
        horizon: int,
        hidden: int = 32,
        kernel: int = 3,
        blocks: int = 4,
        places: int = 1,
        dropout: float = 0.0,
        cycles: tuple[str, ...] = (),
    ):
        super().__init__()
        check_positive(horizon=horizon, hidden=hidden, kernel=kernel, blocks=blocks)
        self.channels, self.horizon, self.places, self.cycles = channels, horizon, places, cycles
        self.reach = receptive_field(kernel, blocks)
        inputs = [width(channels, places, cycles)] + [hidden] * (blocks - 1)
        self.blocks = nn.Sequential(
            *(Block(n, hidden, kernel=kernel, dilation=2**i, dropout=dropout) for i, n in enumerate(inputs))
        )
        self.head = nn.Linear(hidden, horizon * channels * places)

    def forward(self, past: Tensor, calendar: Tensor | None = None) -> Tensor:
        unseen = max(past.shape[1] - self.reach, 0)  # steps that the last one's features do not reach
        recent = None if calendar is None else calendar[:, unseen:]
        x = self._inputs(past[:, unseen:], recent)
        for block in self.blocks:
            x = block.every_second(x)
        change = self.head(x[..., -1]).unflatten(-1, (self.horizon, -1))
        return last_value(past) + from_rows(change, self.channels, past, self.places)

    def features(self, past: Tensor, calendar: Tensor | None = None) -> Tensor:
        """What the network knows after each step: ``(B, T, hidden, *S)``, or ``(B, T, hidden)`` for ``places=N``."""
        features = self._features(past, calendar)
        return from_rows(features, features.shape[-1], past, 1) if self.places == 1 else features

    def _features(self, past: Tensor, calendar: Tensor | None) -> Tensor:
        return self.blocks(self._inputs(past, calendar)).mT

    def _inputs(self, past: Tensor, calendar: Tensor | None) -> Tensor:
        options = {"channels": self.channels, "places": self.places, "cycles": self.cycles}
        return sequences(past, calendar, **options).mT
