"""Augmentation: training windows changed at random, in ways that should not change what a good forecaster does.

Each function takes a `Batch` and a generator and returns a new `Batch`. With its options filled in by
``functools.partial`` it is an ``augment(batch, generator) -> Batch``::

    augment = partial(jitter, spread=0.1)

Several are one after the other, in a function of yours::

    def augment(batch, generator):
        return flip(jitter(batch, generator, spread=0.1), generator, axis="width")

Every window has its own draw. Draws come from ``generator``, a generator on the CPU, and are moved to the batch, so
that a seed means the same numbers on every device. Past and future are changed together, and nothing of the future
reaches the past. Missing stays missing. Augment training windows only: a changed test is another test.

An augmentation claims a symmetry, and the claim may be false: each docstring says when. Try it on the validation part.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stlib.data.windows import Batch


def jitter(batch: Batch, generator: torch.Generator, *, spread: float | Tensor) -> Batch:
    r"""Add noise to what was observed: :math:`x + s\,\varepsilon`, :math:`\varepsilon \sim N(0, 1)`, in the past only.

    The truth stays as it is. It claims that instruments err independently in each value, with a spread that small.

    Shapes: ``spread`` :math:`s` is one number, or ``(C,)`` with one for each channel, in the channel's own units.
    Raises ValueError for a negative spread or another shape.
    Source: Um et al. (2017), doi:10.1145/3136755.3136817.

    >>> batch = Batch(torch.zeros(2, 4, 1), torch.zeros(2, 3, 1), None)
    >>> noisy = jitter(batch, torch.Generator().manual_seed(0), spread=0.1)
    >>> bool((noisy.past != 0).all()), bool((noisy.future == 0).all())
    (True, True)
    """
    past = batch.past
    spread = torch.as_tensor(spread)
    if spread.shape not in ((), (past.shape[2],)) or not bool((spread >= 0).all()):
        raise ValueError(f"spread must be one number or one for each of {past.shape[2]} channels, >= 0, got {spread}")
    noise = torch.randn(past.shape, generator=generator, dtype=past.dtype).to(past.device)
    return batch._replace(past=past + noise * _over(spread.reshape(1, 1, -1).to(past), past))


def scale(batch: Batch, generator: torch.Generator, *, spread: float, channels: Sequence[int] | None = None) -> Batch:
    r"""Multiply each window by a factor: :math:`x \, e^{s \varepsilon}`, :math:`\varepsilon \sim N(0, 1)`.

    The factor is the same for past and future and for all ``channels`` (all there are, unless named). It claims that a
    process twice as large behaves alike, and needs a zero that means "nothing": true of rain or traffic, false of
    temperatures and pressures. In scaled units, zero is the mean.

    Raises ValueError for a negative spread or a channel that does not exist.
    Source: Um et al. (2017), doi:10.1145/3136755.3136817. There the factor is Gaussian and may be negative.

    >>> batch = Batch(torch.ones(2, 4, 1), torch.ones(2, 3, 1), None)
    >>> scaled = scale(batch, torch.Generator().manual_seed(0), spread=0.5)
    >>> bool((scaled.past[:, 0] == scaled.future[:, 0]).all())
    True
    """
    count = batch.past.shape[2]
    if not spread >= 0:
        raise ValueError(f"spread must be at least 0, got {spread}")
    chosen = list(range(count) if channels is None else channels)
    if not set(chosen) <= set(range(count)):
        raise ValueError(f"channels must be whole numbers from 0 to {count - 1}, got {chosen}")
    draw = torch.randn(len(batch.past), generator=generator, dtype=torch.float64)
    factor = torch.ones(len(batch.past), 1, count, dtype=torch.float64)
    factor[:, :, chosen] = (spread * draw).exp()[:, None, None]
    return _both(batch, lambda x: x * _over(factor.to(x), x))


def time_warp(batch: Batch, generator: torch.Generator, *, strength: float, knots: int = 4) -> Batch:
    r"""Let time run faster and slower: :math:`x(\tau(t))` for a random increasing :math:`\tau`.

    The logarithm of the speed :math:`d\tau/dt` is drawn from :math:`N(0, s^2)`, :math:`s` the ``strength``, at
    ``knots`` places spread evenly over the window, and is linear between them. The origin stays fixed, and so do the
    first and the last step: past steps stay within the past, and future steps between the origin and the last lead.
    Values between steps are interpolated linearly; with one missing neighbour they are missing. Calendar and
    regressors are left as they are. So it claims that nothing depends on the pace: false where a day or a year sets the
    clock, unless the warp is small, and false of waves and fronts whose speed matters.

    Raises ValueError for a negative strength or fewer than 2 knots (with one speed for all, nothing moves).
    Source: Um et al. (2017), doi:10.1145/3136755.3136817. The fixed origin is ours: without it, the future of the
    window would reach its past.

    >>> ramp = torch.arange(10.0).reshape(1, 10, 1)
    >>> warped = time_warp(Batch(ramp[:, :6], ramp[:, 6:], None), torch.Generator().manual_seed(0), strength=0.5)
    >>> warped.past[0, [0, -1], 0].tolist(), warped.future[0, -1, 0].item()
    ([0.0, 5.0], 9.0)
    """
    if not strength >= 0 or knots < 2:
        raise ValueError(f"strength must be at least 0 and knots at least 2, got {strength} and {knots}")
    past, future = batch.past, batch.future
    draw = strength * torch.randn(len(past), knots, generator=generator, dtype=torch.float64)
    place = torch.linspace(0, knots - 1, past.shape[1] + future.shape[1] - 1, dtype=torch.float64)
    left = place.long().clamp_max(knots - 2)
    speed = torch.lerp(draw[:, left], draw[:, left + 1], place - left).exp()  # (B, P + L - 1), one a step
    known, ahead = speed.split([past.shape[1] - 1, future.shape[1]], 1)
    from_origin = torch.cat([past[:, -1:], future], 1)
    return batch._replace(past=_resample(past, known), future=_resample(from_origin, ahead)[:, 1:])


def _resample(x: Tensor, speed: Tensor) -> Tensor:
    """The series (B, T, ...) at times that run with the given speeds (B, T - 1) from its first to its last step."""
    last = x.shape[1] - 1
    time = torch.zeros(x.shape[:2], dtype=torch.float64)
    time[:, 1:] = speed.cumsum(1) * last / speed.sum(1, keepdim=True)
    time[:, -1] = last  # exactly, whatever the rounding
    before = time.floor().clamp(0, last)
    after = time.ceil().clamp(0, last)  # the same step where a time falls on one: its neighbour is no parent then
    row = torch.arange(len(x), device=x.device)[:, None]
    weight = _over((time - before).to(x), x)
    return torch.lerp(x[row, before.long().to(x.device)], x[row, after.long().to(x.device)], weight)


def slice_window(batch: Batch, generator: torch.Generator, *, past: int, horizon: int) -> Batch:
    """Cut each window to ``past`` + ``horizon`` consecutive steps that start at a random one of its steps.

    The slice has an origin of its own, so what was future may become past: the forecaster is asked at that origin and
    sees nothing after it. Calendar and regressors are cut along. If windows stand at every origin, as `split`
    cuts them, the slices are what shorter windows would have been; it adds something where windows were thinned, or
    came from elsewhere.

    Shapes: ``(B, P, C, *S)`` and ``(B, L, C, *S)`` to ``(B, past, C, *S)`` and ``(B, horizon, C, *S)``.
    Raises ValueError for less than one step of either, or more steps than the window has.
    Source: Le Guennec et al. (2016), "Data augmentation for time series classification using convolutional neural
    networks", section on window slicing; there a slice keeps the label of its series, here it has its own future.

    >>> ramp = torch.arange(10.0).reshape(1, 10, 1)
    >>> batch = Batch(ramp[:, :6], ramp[:, 6:], None)
    >>> cut = slice_window(batch, torch.Generator().manual_seed(0), past=3, horizon=2)
    >>> (cut.future[0, 0] - cut.past[0, -1]).item()
    1.0
    """
    steps = batch.past.shape[1] + batch.future.shape[1]
    if past < 1 or horizon < 1 or past + horizon > steps:
        raise ValueError(f"past and horizon must be at least 1 and at most {steps} together, got {past} and {horizon}")
    start = torch.randint(steps - past - horizon + 1, (len(batch.past),), generator=generator)
    step = (start[:, None] + torch.arange(past + horizon)).to(batch.past.device)
    row = torch.arange(len(step), device=step.device)[:, None]
    both = torch.cat([batch.past, batch.future], 1)[row, step]
    known = (None if x is None else x[row, step] for x in (batch.calendar, batch.regressors))
    return Batch(both[:, :past], both[:, past:], *known)


def mixup(batch: Batch, generator: torch.Generator, *, alpha: float) -> Batch:
    r"""Mix each window with another one of the batch: :math:`\lambda x_i + (1 - \lambda) x_j`,
    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`.

    :math:`j` is a random permutation of the batch, and :math:`\lambda` the same for past and future. What is missing in
    either is missing in the mixture. Calendar and regressors are those of the heavier one. It claims that forecasts are
    nearly linear: two storms that are half as strong in one map, which no weather shows, and a blend of two seasons
    under one date.

    Raises ValueError unless ``alpha`` is positive.
    Source: Zhang et al. (2018), doi:10.48550/arXiv.1710.09412. There one :math:`\lambda` a batch, here one a window.

    >>> batch = Batch(torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[[0.0]], [[2.0]]]), None)
    >>> mixed = mixup(batch, torch.Generator().manual_seed(0), alpha=1.0)
    >>> bool((mixed.future == 2 * mixed.past).all())
    True
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be positive, got {alpha}")
    count = len(batch.past)
    partner = torch.randperm(count, generator=generator).to(batch.past.device)
    seed = int(torch.randint(2**62, (), generator=generator))  # torch.distributions.Beta takes no generator
    own = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count))
    mixed = _both(batch, lambda x: torch.lerp(x[partner], x, _over(own.reshape(-1, 1).to(x), x)))
    heavier = (own >= 0.5).reshape(-1, 1, 1).to(batch.past.device)
    known = (None if x is None else torch.where(heavier, x, x[partner]) for x in (batch.calendar, batch.regressors))
    return Batch(mixed.past, mixed.future, *known)


def crop(batch: Batch, generator: torch.Generator, *, height: int, width: int) -> Batch:
    """Cut a random rectangle out of each window's maps, the same from past and future.

    It claims that a forecast needs nothing from outside and does not depend on where it is: weather that enters through
    the edge cannot be foreseen, and a network that knows its place by heart (a mountain, a coast) loses it.

    Shapes: ``(B, T, C, H, W)`` to ``(B, T, C, height, width)``.
    Raises ValueError for other shapes, or a rectangle that does not fit.

    >>> batch = Batch(torch.zeros(2, 4, 1, 8, 9), torch.zeros(2, 3, 1, 8, 9), None)
    >>> crop(batch, torch.Generator().manual_seed(0), height=5, width=6).future.shape
    torch.Size([2, 3, 1, 5, 6])
    """
    _check_map(batch.past)
    rows, columns = batch.past.shape[-2:]
    if not (1 <= height <= rows and 1 <= width <= columns):
        raise ValueError(f"height and width must be from 1 to {rows} and {columns}, got {height} and {width}")
    count = (len(batch.past),)
    top = torch.randint(rows - height + 1, count, generator=generator).to(batch.past.device)
    left = torch.randint(columns - width + 1, count, generator=generator).to(batch.past.device)
    window = torch.arange(*count, device=batch.past.device)
    # A view of all rectangles, of which one a window is copied.
    return _both(batch, lambda x: x.unfold(3, height, 1).unfold(4, width, 1)[window, :, :, top, left])


def flip(batch: Batch, generator: torch.Generator, *, axis: str, vector: Sequence = ()) -> Batch:
    """Mirror each window's maps with probability one half, past and future together: see `mirror`.

    It claims that the mirrored weather could happen. It could not: north to south, the earth turns the other way under
    it, the warm side changes and January is summer; east to west, the westerlies blow from the east, and lows turn the
    wrong way round. The claim is true of worlds without rotation, sphere or coast, and of some small scales.

    Raises ValueError for an unknown axis, maps that are not ``(B, T, C, H, W)`` and as `mirror`.

    >>> batch = Batch(torch.zeros(2, 4, 2, 8, 9), torch.zeros(2, 3, 2, 8, 9), None)
    >>> flip(batch, torch.Generator().manual_seed(0), axis="width", vector=(0, 1)).past.shape
    torch.Size([2, 4, 2, 8, 9])
    """
    _check_map(batch.past)
    draw = torch.randint(2, (len(batch.past),), generator=generator)
    changed = (draw == 1).nonzero().flatten().to(batch.past.device)
    return _both(batch, lambda x: x.index_copy(0, changed, mirror(x[changed], axis, vector=vector)))


def rotate(
    batch: Batch, generator: torch.Generator, *, turns: Sequence[int] = (0, 1, 2, 3), vector: Sequence = ()
) -> Batch:
    """Turn each window's maps by one of ``turns`` quarter turns, past and future together: see `quarter_turns`.

    It claims that no direction is special. On a weather map all are: turned, its westerlies blow from the south, its
    cold side is in the west, its coasts are elsewhere, and the Coriolis parameter no longer grows to the north. On a
    grid of longitudes and latitudes not even lengths survive. The claim is true of
    worlds that have no directions, and roughly of small patches, such as rain seen by one radar.

    Raises ValueError for quarter turns of maps that are not square (``turns=(0, 2)`` is allowed), and as
    `quarter_turns`.

    >>> batch = Batch(torch.zeros(2, 4, 2, 8, 8), torch.zeros(2, 3, 2, 8, 8), None)
    >>> rotate(batch, torch.Generator().manual_seed(0), vector=(0, 1)).past.shape
    torch.Size([2, 4, 2, 8, 8])
    """
    _check_map(batch.past)
    if not len(turns):
        raise ValueError("turns must name at least one number of quarter turns, got none")
    if any(turn % 2 for turn in turns):
        _check_square(batch.past)
    draw = torch.tensor(turns)[torch.randint(len(turns), (len(batch.past),), generator=generator)] % 4

    def turned(x: Tensor) -> Tensor:
        for k in (1, 2, 3):
            which = (draw == k).nonzero().flatten().to(x.device)
            x = x.index_copy(0, which, quarter_turns(x[which], k, vector=vector)) if len(which) else x
        return x

    _pairs(vector, batch.past.shape[2])  # refused even when the draw turns nothing
    return _both(batch, turned)


def quarter_turns(x: Tensor, k: int, *, vector: Sequence = ()) -> Tensor:
    r"""Turn maps by ``k`` quarter turns anticlockwise, and the vectors on them too: :math:`(u, v) \to (-v, u)`.

    A vector field is not a picture: a west wind on a map that is turned anticlockwise is a south wind. ``vector`` names
    the channels of the components, ``(u, v)`` or several such pairs: u towards the east, along the columns, and v
    towards the north, along the rows. Row 0 is the south, as in this book's data; where it is the north, give the
    number of turns the other way and -v.

    Shapes: ``(..., C, H, W)`` to the same, for odd ``k`` with H = W.
    Raises ValueError for odd ``k`` on maps that are not square, or channels that do not exist or are named twice.

    >>> west_wind = torch.tensor([1.0, 0.0]).reshape(2, 1, 1)  # u, v on a map of one cell
    >>> quarter_turns(west_wind, 1, vector=(0, 1)).flatten().tolist()  # a south wind
    [-0.0, 1.0]
    """
    u, v = _pairs(vector, x.shape[-3])
    if k % 2:
        _check_square(x)
    # From the columns (east) to the rows (north), which is anticlockwise with north at the top.
    turned = torch.rot90(x, k, (-1, -2))
    if u:
        east, north = turned[..., u, :, :], turned[..., v, :, :]
        east, north = [(east, north), (-north, east), (-east, -north), (north, -east)][k % 4]
        turned = turned.clone()
        turned[..., u, :, :], turned[..., v, :, :] = east, north
    return turned


def mirror(x: Tensor, axis: str, *, vector: Sequence = ()) -> Tensor:
    r"""Mirror maps along ``axis``, and the vectors on them too: ``"width"`` swaps east and west and gives
    :math:`(-u, v)`, ``"height"`` swaps north and south and gives :math:`(u, -v)`.

    ``vector`` is as in `quarter_turns`. Vorticity changes its sign in a mirror: a channel that holds it must be
    negated, which is not done here.

    Shapes: ``(..., C, H, W)`` to the same.
    Raises ValueError for another axis, or channels that do not exist or are named twice.

    >>> west_wind = torch.tensor([1.0, 0.0]).reshape(2, 1, 1)
    >>> mirror(west_wind, "width", vector=(0, 1)).flatten().tolist()  # an east wind
    [-1.0, 0.0]
    """
    if axis not in ("height", "width"):
        raise ValueError(f'axis must be "height" (north to south) or "width" (east to west), got {axis!r}')
    u, v = _pairs(vector, x.shape[-3])
    flipped = x.flip(-1 if axis == "width" else -2)
    turning = u if axis == "width" else v
    flipped[..., turning, :, :] *= -1  # flip has copied
    return flipped


def _both(batch: Batch, change) -> Batch:
    return batch._replace(past=change(batch.past), future=change(batch.future))


def _over(values: Tensor, x: Tensor) -> Tensor:
    """Values of the first dims of ``x``, ready to be broadcast over the rest."""
    return values.reshape(*values.shape, *[1] * (x.ndim - values.ndim))


def _pairs(vector: Sequence, channels: int) -> tuple[list[int], list[int]]:
    named = np.asarray(vector).reshape(-1).tolist()
    if len(named) % 2 or len(set(named)) < len(named) or not set(named) <= set(range(channels)):
        raise ValueError(
            f"vector must be pairs of channels (u, v), each from 0 to {channels - 1} and named once, got {vector}"
        )
    return named[::2], named[1::2]


def _check_map(x: Tensor) -> None:
    if x.ndim != 5:
        raise ValueError(f"the batch must hold maps, (B, T, C, H, W), got a past of shape {tuple(x.shape)}")


def _check_square(x: Tensor) -> None:
    if x.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"only square maps can be turned by 90 degrees, got {x.shape[-2]} x {x.shape[-1]}: crop, or take even turns"
        )
