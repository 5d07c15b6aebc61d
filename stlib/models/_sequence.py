"""What the networks over time share: places as sequences, the calendar as columns, and the way back."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stlib.models._checks import check_positive
from stlib.models._grid import values_and_mask
from stlib.models.baselines import CYCLES

ONE_HOT = 12  # a cycle of at most so many phases has a column for each, a longer one its sine and cosine


def width(channels: int, places: int, cycles: tuple[str, ...]) -> int:
    """How many inputs a step has: values, masks and calendar. Raises ValueError for an unknown cycle."""
    if isinstance(cycles, str):
        raise ValueError(f"cycles must be a tuple of names, got the one string {cycles!r}")
    if unknown := [name for name in cycles if name not in CYCLES]:
        raise ValueError(f"cycles must be among {', '.join(CYCLES)}, got {', '.join(map(repr, unknown))}")
    if len(set(cycles)) < len(cycles):
        raise ValueError(f"cycles must name each cycle once, got {', '.join(cycles)}")
    check_positive(channels=channels, places=places)
    calendar = sum(CYCLES[name] if CYCLES[name] <= ONE_HOT else 2 for name in cycles)
    return 2 * channels * places + calendar


def sequences(past: Tensor, calendar: Tensor | None, *, channels: int, places: int, cycles: tuple[str, ...]) -> Tensor:
    """The past as sequences, one a place (``places=1``) or one of all places, with the calendar of the step after each.

    Shapes: ``(B, T, C, *S)`` to ``(B N, T, 2C + K)``, or to ``(B, T, 2C N + K)`` for ``places=N``.
    Raises ValueError for a past of another shape, and for ``cycles`` without a calendar.

    >>> sequences(torch.zeros(2, 5, 1, 3), None, channels=1, places=1, cycles=()).shape
    torch.Size([6, 5, 2])
    """
    check_past(past, channels, places)
    seen = values_and_mask(past)
    steps = past.shape[1]
    if not cycles:
        return to_rows(seen, places)
    known = known_ahead(calendar, cycles, past)[:, :steps]
    return with_calendar(to_rows(seen, places), known)


def to_rows(x: Tensor, places: int) -> Tensor:
    """``(B, T, C, *S)`` to ``(B N, T, C)`` for ``places=1``, to ``(B, T, C N)`` for ``places=N``."""
    x = x.reshape(*x.shape[:3], math.prod(x.shape[3:]))
    return x.permute(0, 3, 1, 2).flatten(0, 1) if places == 1 else x.flatten(2)


def from_rows(rows: Tensor, channels: int, like: Tensor, places: int) -> Tensor:
    """The way back: ``(rows, T, C)`` or ``(B, T, C N)`` to ``(B, T, C, *S)``, with the batch and space of ``like``."""
    steps = rows.shape[1]
    if places == 1:
        rows = rows.unflatten(0, (len(like), math.prod(like.shape[3:]))).permute(0, 2, 3, 1)
    return rows.reshape(len(like), steps, channels, *like.shape[3:])


def with_calendar(rows: Tensor, known: Tensor) -> Tensor:
    """The rows with the calendar ``(B, T, K)`` beside them; a window's places all have its dates."""
    each = rows.unflatten(0, (len(known), -1)) if len(known) else rows[:, None]
    return torch.cat([each, known[:, None].expand(-1, each.shape[1], -1, -1)], -1).flatten(0, 1)


def known_ahead(calendar: Tensor | None, cycles: tuple[str, ...], past: Tensor, horizon: int = 1) -> Tensor:
    """The calendar of the step after each: ``(B, T + horizon, 4)``, or more steps, to one step less, ``K`` columns.

    >>> weekdays = torch.tensor([0, 5, 6])
    >>> calendar = torch.zeros(1, 3, 4, dtype=torch.long)
    >>> calendar[0, :, 1] = weekdays
    >>> known_ahead(calendar, ("weekday",), torch.zeros(1, 2, 1)).argmax(-1).tolist()
    [[5, 6]]
    """
    batch, least = len(past), past.shape[1] + horizon
    if (
        calendar is None
        or calendar.ndim != 3
        or calendar.shape[::2] != (batch, len(CYCLES))
        or calendar.shape[1] < least
    ):
        given = "none" if calendar is None else f"one of shape {tuple(calendar.shape)}"
        raise ValueError(
            f"cycles {', '.join(cycles)} need a calendar ({batch}, T + horizon, {len(CYCLES)}) with "
            f"T = {past.shape[1]} and a horizon of at least {horizon}, got {given}"
        )
    calendar, columns = calendar.long(), []
    for name in cycles:
        phase, phases = calendar[:, 1:, list(CYCLES).index(name)], CYCLES[name]
        if phases <= ONE_HOT:
            columns.append(F.one_hot(phase, phases).to(past.dtype))
        else:
            angle = 2 * math.pi / phases * phase.double()
            columns.append(torch.stack([angle.sin(), angle.cos()], -1).to(past.dtype))
    return torch.cat(columns, -1)


def check_past(past: Tensor, channels: int, places: int) -> None:
    """Raise ValueError unless the past is ``(B, T, channels, *S)`` with the promised number of places."""
    cells = math.prod(past.shape[3:])
    if past.ndim < 3 or past.shape[1] < 1 or past.shape[2] != channels or places not in (1, cells):
        space = ", *S" if places == 1 else f", *S of {places} places"
        raise ValueError(f"past must be (B, T, {channels}{space}) with T at least 1, got shape {tuple(past.shape)}")
