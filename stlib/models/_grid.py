"""What the networks on grids share: how they see gaps, and what they see beyond the edge."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlib.models.baselines import carry_forward

EDGES = ("zeros", "replicate", "periodic", "periodic columns")


def values_and_mask(past: Tensor) -> Tensor:
    """The values, with 0 where one is missing, and after them the masks: 1 where a value was observed.

    Shapes: ``(B, T, C, *S)`` to ``(B, T, 2C, *S)``.

    >>> values_and_mask(torch.tensor([[[3.0], [torch.nan]]])).tolist()
    [[[3.0, 1.0], [0.0, 0.0]]]
    """
    missing = past.isnan()
    return torch.cat([past.masked_fill(missing, 0.0), (~missing).to(past.dtype)], 2)


def last_value(past: Tensor) -> Tensor:
    """The last observed value, 0 where none was: what a network that forecasts changes starts from.

    Shapes: ``(B, T, C, *S)`` to ``(B, 1, C, *S)``.

    >>> last_value(torch.tensor([[[3.0, torch.nan], [torch.nan, torch.nan]]])).tolist()
    [[[3.0, 0.0]]]
    """
    last = carry_forward(past)[:, -1:]
    return last.masked_fill(last.isnan(), 0.0)


class Conv2d(nn.Module):
    r"""A convolution over the last two axes that keeps their size (for ``stride`` 1), with a choice of edge.

    .. math:: y_d(p) = b_d + \sum_{c, q} \kappa_{dc}(q)\, x_c(p + q)

    Beyond the edge, ``edge="zeros"`` sees 0, ``"replicate"`` the outermost value again, ``"periodic"`` the opposite
    side, and ``"periodic columns"`` the opposite side in a row (a globe's longitudes) and the outermost row again.

    Shapes: ``(B, C, H, W)`` to ``(B, D, ceil(H / stride), ceil(W / stride))``.
    Raises ValueError for an even kernel, a dilation or stride below 1, or an unknown edge.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        dilation: int = 1,
        stride: int = 1,
        edge: str = "zeros",
        bias: bool = True,
    ):
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {kernel}")
        if min(dilation, stride) < 1:
            raise ValueError(f"dilation and stride must be at least 1, got {dilation} and {stride}")
        if edge not in EDGES:
            raise ValueError(f"edge must be one of {', '.join(EDGES)}, got {edge!r}")
        self.edge, self.reach = edge, dilation * (kernel // 2)
        padding = self.reach if edge == "zeros" else 0
        self.conv = nn.Conv2d(
            channels, out_channels, kernel, dilation=dilation, stride=stride, padding=padding, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.edge == "zeros" else beyond_the_edge(x, self.reach, self.edge))


def beyond_the_edge(x: Tensor, reach: int, edge: str) -> Tensor:
    """The field with ``reach`` more cells on each side of its last two axes, as `Conv2d` sees them.

    >>> beyond_the_edge(torch.tensor([[[[1.0, 2.0]]]]), 1, "periodic columns")[0, 0].tolist()
    [[2.0, 1.0, 2.0, 1.0], [2.0, 1.0, 2.0, 1.0], [2.0, 1.0, 2.0, 1.0]]
    """
    rows, columns = {
        "zeros": ("constant", "constant"),
        "replicate": ("replicate", "replicate"),
        "periodic": ("circular", "circular"),
        "periodic columns": ("replicate", "circular"),
    }[edge]
    x = _pad(x, (reach, reach, 0, 0), columns)
    return _pad(x, (0, 0, reach, reach), rows)


def _pad(x: Tensor, sides: tuple[int, int, int, int], mode: str) -> Tensor:
    if mode == "circular":  # torch goes round once at most, a field may be narrower than the reach
        axis = -1 if sides[0] else -2
        size, reach = x.shape[axis], max(sides)
        around = torch.arange(-reach, size + reach, device=x.device) % size
        return x.index_select(axis, around) if reach > size else F.pad(x, sides, mode)
    return F.pad(x, sides, mode)
