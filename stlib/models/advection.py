"""Lagrangian persistence: find out how the picture moves, and move it along. A network has to beat that."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlib.models._grid import EDGES, beyond_the_edge
from stlib.models.baselines import carry_forward


class LagrangianPersistence(nn.Module):
    r"""Everything moves on as it has moved, and nothing else changes.

    .. math:: \hat x_{t+h \mid t}(p) = x_t(p + D_h(p)), \qquad D_{h} = D_{h-1} - v(p + D_{h-1} + \ldots)

    `motion` finds the velocity :math:`v` in the last ``past`` frames, `advect` follows it back to where the cell's
    content came from. Where that lies beyond the edge (``edge="missing"``) or among missing cells, the forecast is that
    of persistence: missing where nothing was ever observed. ``per="all"`` moves all channels in the same way,
    ``per="channel"`` each in its own. There is nothing to train; ``width``, ``levels``, ``iterations`` and ``ridge``
    are those of `motion`.

    Shapes: ``(B, T, C, H, W)`` with ``T >= past`` to ``(B, horizon, C, H, W)``.
    Raises ValueError for another shape, fewer than 2 frames, an unknown edge or ``per``, and options out of range.
    Source: Germann & Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2. Deviation: the motion is
    found by least squares in windows, as in Lucas & Kanade (1981), not by minimising over the whole map at once.

    >>> bump = torch.exp(-(torch.arange(24.0) - 6).square() / 8)
    >>> frames = torch.stack([bump[:, None] * bump.roll(2 * t) for t in range(4)])[None, :, None]  # 2 columns a step
    >>> forecast = LagrangianPersistence(horizon=2)(frames[:, :2])
    >>> bool((forecast - frames[:, 2:]).abs().max() < 0.05)
    True
    """

    def __init__(
        self,
        *,
        horizon: int,
        past: int = 2,
        width: float = 3.0,
        levels: int = 3,
        iterations: int = 5,
        ridge: float = 0.01,
        per: str = "all",
        edge: str = "missing",
    ):
        super().__init__()
        if past < 2:
            raise ValueError(f"past must be at least 2 frames, between which things move, got {past}")
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        if per not in ("all", "channel"):
            raise ValueError(f'per must be "all" or "channel", got {per!r}')
        _check_edge(edge)
        _check_search(width, levels, iterations, ridge)
        self.horizon, self.past, self.per, self.edge = horizon, past, per, edge
        self.options = {"width": width, "levels": levels, "iterations": iterations, "ridge": ridge, "edge": edge}

    def forward(self, past: Tensor) -> Tensor:
        _check_frames(past, self.past)
        recent, last = past[:, -self.past :], carry_forward(past)[:, -1]
        if self.per == "channel":
            velocity = motion(recent.transpose(1, 2).flatten(0, 1)[:, :, None], **self.options)
            moved = advect(last.flatten(0, 1)[:, None], velocity, steps=self.horizon, edge=self.edge)
            moved = moved[:, :, 0].unflatten(0, last.shape[:2]).transpose(1, 2)
        else:
            moved = advect(last, motion(recent, **self.options), steps=self.horizon, edge=self.edge)
        return torch.where(moved.isnan(), last[:, None], moved)


def motion(
    past: Tensor,
    *,
    width: float = 3.0,
    levels: int = 3,
    iterations: int = 5,
    ridge: float = 0.01,
    edge: str = "missing",
) -> Tensor:
    r"""The velocity with which the picture moves: dense Lucas-Kanade, from coarse to fine.

    .. math::

        v(p) = \arg\min_v \sum_{q,\,t} g(q - p)\, \bigl(x_{t+1}(q + v/2) - x_t(q - v/2)\bigr)^2

    :math:`g` is a Gaussian window with standard deviation ``width``. The sum is linearised about the velocity so far
    and solved, ``iterations`` times: first for one velocity of the whole map, then in windows, with frames smoothed and
    windows widened by :math:`2^{\mathrm{levels} - 1}, \dots, 2, 1` cells. All pairs of neighbouring frames count
    alike, and so do all channels, whatever their units. Missing cells and what comes from beyond the edge weigh
    nothing. ``ridge``, a share of the mean squared gradient, holds back each correction: where a window shows no
    gradient, the velocity is that of its wider surroundings. A channel that is the same everywhere shows none, whatever
    it does in time.

    Shapes: ``(B, T, C, H, W)``, ``T >= 2``, to ``(B, 2, H, W)``: towards larger rows and larger columns.
    Units: cells per step.
    Raises ValueError for another shape, an unknown edge, or options out of range.
    Source: Lucas & Kanade (1981), "An iterative image registration technique with an application to stereo vision",
    IJCAI 2, 674-679. Deviation: scales are smoothed, not subsampled, so that every size and any gap is allowed.

    >>> wave = torch.sin(torch.arange(16) * 2 * torch.pi / 16)
    >>> map = wave[:, None] + wave
    >>> past = torch.stack([map, map.roll((1, 2), (0, 1))])[None, :, None]
    >>> [round(v, 2) for v in motion(past, edge="periodic").mean((0, 2, 3)).tolist()]
    [1.0, 2.0]
    """
    _check_frames(past, 2)
    _check_edge(edge)
    _check_search(width, levels, iterations, ridge)
    with torch.autocast(past.device.type, enabled=False):
        x = past.to(torch.promote_types(past.dtype, torch.float32))
        observed = ~x.isnan()
        weight = observed.to(x.dtype)
        x = torch.where(observed, x, 0.0)
        mean = (x.sum((1, 3, 4), keepdim=True) / weight.sum((1, 3, 4), keepdim=True).clamp_min(1)).detach()
        x = (x - mean) * weight  # a large mean would leave no digits for what moves
        velocity = x.new_zeros(len(x), 2, *x.shape[-2:])
        for level in reversed(range(levels)):
            near = _blur(weight, 2.0**level, edge)
            blurred = _blur(x, 2.0**level, edge) / near.clamp_min(1e-20)
            trust = weight * near.square()  # beside a gap or an edge, a smoothed value lacks half of its neighbours
            rounding = blurred.detach().square().mean((1, 3, 4)) * (32 * torch.finfo(x.dtype).eps) ** 2  # (B, C)
            windows = [width * 2**level] * iterations
            if level == levels - 1:
                windows = [None] * iterations + windows
            for window in windows:
                step = _step(blurred, trust, velocity, window, ridge, edge, rounding)
                velocity = velocity + step.clamp(-(2.0**level), 2.0**level)
    return velocity


def advect(field: Tensor, velocity: Tensor, *, steps: int, edge: str = "missing", substeps: int = 1) -> Tensor:
    r"""Move a map along a steady velocity: semi-Lagrangian, interpolated once for each lead.

    .. math:: D_h = D_{h-1} - v\bigl(p + D_{h-1} - \tfrac12 v(p + D_{h-1})\bigr), \qquad x_h(p) = x_0(p + D_h(p))

    Each step follows the velocity back by the midpoint rule, in ``substeps`` parts. Values between cells are bilinear,
    from the observed ones among the four neighbours; with less than half of the weight observed, the result is missing.
    So is what a missing velocity would have moved. Whole numbers become float32.
    ``edge`` says what comes from outside: ``"missing"`` (NaN, from half a cell beyond the middle of the outermost
    cell), ``"zeros"``, ``"replicate"``, ``"periodic"`` or ``"periodic columns"``, as in the networks.

    Shapes: ``field`` ``(B, C, H, W)``, ``velocity`` ``(B, 2, H, W)``, to ``(B, steps, C, H, W)``.
    Units: ``velocity`` in cells per step, rows first.
    Raises ValueError for other shapes, fewer than 1 of ``steps`` or ``substeps``, or an unknown edge.
    Source: Staniforth & Côté (1991), doi:10.1175/1520-0493(1991)119<2206:SLISFA>2.0.CO;2; for radar maps Germann &
    Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2.

    >>> row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> east = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    >>> advect(row, east, steps=2, edge="periodic").flatten().round(decimals=3).tolist()
    [3.0, 1.0, 2.0, 2.0, 3.0, 1.0]
    """
    if field.ndim != 4 or 0 in field.shape[1:] or velocity.shape != (len(field), 2, *field.shape[-2:]):
        raise ValueError(
            "field must be (B, C, H, W) and velocity (B, 2, H, W), "
            f"got shapes {tuple(field.shape)} and {tuple(velocity.shape)}"
        )
    _check_edge(edge)
    if min(steps, substeps) < 1:
        raise ValueError(f"steps and substeps must be at least 1, got {steps} and {substeps}")
    exact = torch.promote_types(torch.promote_types(field.dtype, velocity.dtype), torch.float32)
    part = _as_places(velocity.to(exact)) / substeps
    home = place = _home(part)
    path = []
    for _ in range(steps):
        for _ in range(substeps):
            here = _sample(part, place, edge) if place is not home else part
            middle = torch.sub(place, here, alpha=0.5)
            place = (place - _sample(part, middle, edge)).where(middle.isfinite(), torch.nan)
        path.append(place)
    moved = _interpolate(field.to(exact), torch.stack(path, 2).flatten(2, 3), edge)  # (B, C, steps H, W)
    return (
        moved.unflatten(2, (steps, field.shape[-2]))
        .transpose(1, 2)
        .to(field.dtype if field.is_floating_point() else exact)
    )


def _check_edge(edge: str) -> None:
    if edge not in ("missing", *EDGES):
        raise ValueError(f"edge must be one of missing, {', '.join(EDGES)}, got {edge!r}")


def _check_frames(past: Tensor, steps: int) -> None:
    if past.ndim != 5 or past.shape[1] < steps or 0 in past.shape[2:]:
        raise ValueError(f"past must be (B, T, C, H, W) with T >= {steps}, got shape {tuple(past.shape)}")


def _check_search(width: float, levels: int, iterations: int, ridge: float) -> None:
    if not (width > 0 and ridge >= 0) or min(levels, iterations) < 1:
        raise ValueError(
            "width must be above 0, ridge at least 0, levels and iterations at least 1, "
            f"got width={width}, ridge={ridge}, levels={levels}, iterations={iterations}"
        )


def _home(x: Tensor) -> Tensor:
    """The place of each cell (B, 2, H, W): column and row, from -1 at one side of the map to 1 at the other."""
    columns, rows = (
        (2 * torch.arange(size, dtype=x.dtype, device=x.device) + 1) / size - 1 for size in (x.shape[-1], x.shape[-2])
    )
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy")).expand(len(x), -1, -1, -1)


def _as_places(velocity: Tensor) -> Tensor:
    """Rows and columns in cells, as differences of places."""
    height, width = velocity.shape[-2:]
    return velocity.flip(1) * (2 / velocity.new_tensor([width, height]))[:, None, None]


def _sample(x: Tensor, place: Tensor, edge: str, outside: str = "border") -> Tensor:
    """Bilinear values (B, C, h, w) of maps (B, C, H, W) at places (B, 2, h, w)."""
    if edge.startswith("periodic"):
        height, width = x.shape[-2:]
        column, row = (place + 1).remainder(2).sub(1).unbind(1)
        row = row if edge == "periodic" else place[:, 1]
        place = torch.stack([column * (width / (width + 2)), row * (height / (height + 2))], 1)
        x = beyond_the_edge(x, 1, edge)
    return F.grid_sample(x, place.permute(0, 2, 3, 1), mode="bilinear", padding_mode=outside, align_corners=False)


def _interpolate(field: Tensor, place: Tensor, edge: str) -> Tensor:
    """Bilinear from the observed neighbours; NaN where they hold less than half of the weight."""
    outside = "zeros" if edge == "zeros" else "border"
    observed = ~field.isnan()
    if bool(observed.all()):
        value = _sample(field, place, edge, outside)
    else:
        both = torch.cat([field.nan_to_num(), observed.to(field.dtype)], 1)
        value, weight = _sample(both, place, edge, outside).chunk(2, 1)
        if edge == "zeros":
            weight = weight + 1 - _sample(torch.ones_like(both[:, :1]), place, edge, outside)
        value = torch.where(weight > 0.499, value / weight.clamp_min(0.1), torch.nan)
    # Where a velocity is missing so is the place, which grid_sample would take for a corner of the map.
    lost = ~place.isfinite().all(1)
    if edge == "missing":
        lost = lost | (place.abs().amax(1) > 1)
    return value.masked_fill(lost[:, None], torch.nan)


def _step(
    x: Tensor, weight: Tensor, velocity: Tensor, window: float | None, ridge: float, edge: str, rounding: Tensor
) -> Tensor:
    """The correction of the velocity (B, 2, H, W) from frames (B, T, C, H, W), by linearised least squares.

    A channel whose squared gradient is no more than ``rounding`` (B, C) has no say.
    """
    home, half = _home(velocity), _as_places(velocity) / 2
    # Both frames go half the way, so that the bilinear values flatten both alike.
    pairs = (x[:, :-1], weight[:, :-1], home - half), (x[:, 1:], weight[:, 1:], home + half)
    before, after = (_sample(frames.flatten(1, 2), place, edge) for frames, _, place in pairs)
    outside = "zeros" if edge in ("zeros", "missing") else "border"
    known, too = (_sample(weights.flatten(1, 2), place, edge, outside) for _, weights, place in pairs)
    known, channels = known * too, x.shape[2]  # (B, (T - 1) C, H, W)
    across, along = _slopes((before + after) / 2, edge)
    energy = (known * (across.square() + along.square())).unflatten(1, (-1, channels)).mean((1, 3, 4))
    energy = energy.clamp_min(1e-30).masked_fill(energy <= rounding, torch.inf)
    known = known / energy.repeat(1, x.shape[1] - 1)[..., None, None]
    rest = before - after
    sums = torch.stack(
        [(known * y).sum(1) for y in (across * across, across * along, along * along, across * rest, along * rest)], 1
    )
    sums = sums.mean((-2, -1), keepdim=True) if window is None else _blur(sums, window, edge)
    aa, ab, bb, ar, br = sums.unbind(1)
    hold = ridge * (aa + bb).mean((-2, -1), keepdim=True) / 2 + 1e-12
    aa, bb = aa + hold, bb + hold
    return torch.stack([bb * ar - ab * br, aa * br - ab * ar], 1) / (aa * bb - ab * ab)[:, None]


def _slopes(x: Tensor, edge: str) -> tuple[Tensor, Tensor]:
    """Central differences along rows and columns; at an edge that is not periodic, one-sided."""
    return tuple(
        (x.roll(-1, axis) - x.roll(1, axis)) / 2
        if edge == "periodic" or (edge == "periodic columns" and axis == -1)
        else torch.gradient(x, dim=axis)[0]
        if x.shape[axis] > 1
        else torch.zeros_like(x)
        for axis in (-2, -1)
    )


def _blur(x: Tensor, width: float, edge: str) -> Tensor:
    """A Gaussian mean over rows and columns; beyond the edge, nothing is added."""
    for axis, ring in ((-2, edge == "periodic"), (-1, edge.startswith("periodic"))):
        size = x.shape[axis]
        step = torch.arange(size, dtype=x.dtype, device=x.device)
        apart = (step[:, None] - step).abs()
        apart = torch.minimum(apart, size - apart) if ring else apart
        weights = torch.exp(-0.5 * (apart / width).square())
        weights = weights / weights[size // 2].sum()
        x = weights @ x if axis == -2 else x @ weights.mT
    return x
