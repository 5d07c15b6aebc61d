"""Windows: a field split in time order and cut into (past, future) pairs, on one device."""

import copy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from stlib._forward import arguments

CALENDAR = ("month", "weekday", "hour", "day_of_year")


class Batch(NamedTuple):
    """What a forecaster sees, what it should have said, and what is known beforehand of both times.

    Shapes: ``past`` is ``(B, past, C, *S)``, ``future`` is ``(B, horizon, C, *S)``. ``calendar`` is
    ``(B, past + horizon, 4)``: whole numbers from 0, with the columns month, weekday, hour and day of the year, or None
    where time has no dates. ``regressors`` is ``(B, past + horizon, K)``, the columns given to `split`, or None.
    """

    past: Tensor
    future: Tensor
    calendar: Tensor | None  # columns as in CALENDAR
    regressors: Tensor | None = None

    def inputs(self, model: nn.Module) -> tuple[Tensor | None, ...]:
        """What ``model.forward`` is given, in its own order: the past, and what it asks for of the rest by name.

        None stands for what there is not, and is left out at the end.
        Raises ValueError for a model that asks for ``calendar`` or ``regressors`` after another argument, or by keyword
        only: it would never be given them.
        """
        others = arguments(model)[1:]
        wanted = [a.name in ("calendar", "regressors") for a in others]
        first = wanted.index(False) if False in wanted else len(wanted)
        if any(wanted[first:]) or any(a.kind is a.KEYWORD_ONLY for a in others[:first]):
            raise ValueError(
                "calendar and regressors must stand directly after the past, not keyword-only, in "
                f"{type(model).__name__}.forward({', '.join(map(str, arguments(model)))})"
            )
        asked = [self.past, *(getattr(self, a.name) for a in others[:first])]
        while asked[-1] is None:
            asked.pop()
        return tuple(asked)


class Windows:
    r"""Every (past, future) pair of one part of a field, cut on demand from a single tensor. `split` makes them.

    A window belongs to the part that holds *all* its targets. Its past may reach back into earlier parts: at forecast
    time those steps are known.

    Shapes: ``series`` is ``(T, C, *S)``: the part's own steps and, except in the training part, the ``past`` steps
    before them. Indexing with a whole number, a slice or a tensor of numbers gives a `Batch`, gathered on the device.
    """

    def __init__(
        self,
        field: Tensor,
        labels: xr.DataArray,
        *,
        past: int,
        horizon: int,
        part: str,
        steps: range,
        regressors: Tensor | None = None,
    ):
        self.field, self.labels, self.past, self.horizon, self.part = field, labels, past, horizon, part
        first, last = max(steps.start, past), steps.stop - horizon  # the first targets of the first and last window
        if last < first:
            raise ValueError(
                f"the {part} part has {len(steps)} steps, too few for one window of past={past} and horizon={horizon}"
            )
        self._touched = slice(steps.start if part == "train" else max(steps.start - past, 0), steps.stop)
        self._first_targets = torch.arange(first, last + 1, device=field.device)
        self._calendar = _calendar(labels.indexes["time"])
        if self._calendar is not None:
            self._calendar = self._calendar.to(field.device)
        self._regressors = regressors

    @property
    def series(self) -> Tensor:
        """Every step that the windows touch, ``(T, C, *S)``."""
        return self.field[self._touched]

    @property
    def calendar(self) -> Tensor | None:
        """The calendar of `series`, ``(T, 4)``, with the columns of `Batch`."""
        return None if self._calendar is None else self._calendar[self._touched]

    @property
    def regressors(self) -> Tensor | None:
        """The regressors of `series`, ``(T, K)``."""
        return None if self._regressors is None else self._regressors[self._touched]

    def __len__(self) -> int:
        return len(self._first_targets)

    def __getitem__(self, which: int | slice | Tensor) -> Batch:
        start = self._first_targets[which].reshape(-1) - self.past
        both = self._cut(self.field, start)  # (B, past + horizon, C, *S)
        known = (None if x is None else self._cut(x, start) for x in (self._calendar, self._regressors))
        return Batch(both[:, : self.past], both[:, self.past :], *known)

    def _cut(self, series: Tensor, start: Tensor) -> Tensor:
        # A view of all windows, of which only the wanted rows are copied: faster than indexing with a table of steps.
        return series.unfold(0, self.past + self.horizon, 1).movedim(-1, 1).index_select(0, start)

    @property
    def origins(self) -> pd.Index:
        """The time of the last observed step of each window."""
        return self.labels.indexes["time"][(self._first_targets - 1).cpu().numpy()]

    def batches(self, batch_size: int, *, shuffle: bool = False, generator: torch.Generator | None = None):
        """All windows once, as `Batch` after `Batch`; the last one may be smaller and is never dropped."""
        order = torch.randperm(len(self), generator=generator) if shuffle else torch.arange(len(self))
        for indices in order.to(self.field.device).split(batch_size):
            yield self[indices]

    def every(self, stride: int) -> "Windows":
        """The same part with every ``stride``-th window only, for quick looks and for windows that do not overlap."""
        fewer = copy.copy(self)
        fewer._first_targets = self._first_targets[::stride]
        return fewer

    def map(self, function) -> "Windows":
        """The same windows of ``function(field)``, a tensor of the field's own shape."""
        mapped = copy.copy(self)
        mapped.field = function(self.field)
        return mapped


class Split(NamedTuple):
    """The three parts of a field, in time order: ``train``, ``validation`` and ``test``, each a `Windows`."""

    train: Windows
    validation: Windows
    test: Windows


def split(
    field: xr.DataArray,
    *,
    past: int,
    horizon: int,
    train: float | int = 0.6,
    validation: float | int = 0.2,
    gap: int = 0,
    regressors: xr.DataArray | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Split:
    """Cut a field, an xarray array, in time order into a `Split` of training, validation and test windows.

    ``train`` and ``validation`` are shares of the steps (floats) or numbers of steps (whole numbers); the test part is
    the rest. ``gap`` steps between two parts are nobody's target: an embargo, for series whose memory is so long that
    neighbouring targets are nearly the same. ``regressors`` are numbers known beforehand for every step, the future's
    too, such as holidays; each window carries those of its own steps.

    Shapes: ``field`` has dims ``("time", "channel", ...space)`` and a regular, increasing time axis; ``regressors`` has
    dims ``("time", one more)`` and the times of the field.
    Raises ValueError for other dims, a time axis that is irregular, repeated or not increasing, a channel without any
    observed training value, a part too short for one window, or regressors that are missing, infinite or no numbers
    somewhere.

    >>> from stlib.data import datasets, windows
    >>> parts = windows.split(datasets.load("storm"), past=4, horizon=4)
    >>> parts.test[0].past.shape
    torch.Size([1, 4, 6, 33, 36])
    """
    check_field(field)
    if past < 1 or horizon < 1 or gap < 0:
        raise ValueError(f"past and horizon must be at least 1 and gap at least 0, got {past}, {horizon} and {gap}")
    steps = field.sizes["time"]
    count = [round(part * steps) if isinstance(part, float) else part for part in (train, validation)]
    ends = (count[0], count[0] + gap + count[1])
    if min(count) < 1 or ends[1] + gap >= steps:
        raise ValueError(
            f"train={train} and validation={validation} with gap={gap} leave no test part of {steps} time steps"
        )
    known = None if regressors is None else _known(regressors, field, dtype).to(device)
    bounds = range(ends[0]), range(ends[0] + gap, ends[1]), range(ends[1] + gap, steps)
    tensor = torch.tensor(field.values, dtype=dtype, device=device)
    observed = (~tensor[: ends[0]].isnan()).movedim(1, 0).flatten(1).any(1)
    if not observed.all():
        empty = ", ".join(map(str, field["channel"].values[~observed.cpu().numpy()]))
        raise ValueError(f"channel {empty} has no observed value in the training part")
    names = ("train", "validation", "test")
    return Split(
        *(
            Windows(tensor, field, past=past, horizon=horizon, part=name, steps=own, regressors=known)
            for name, own in zip(names, bounds, strict=True)
        )
    )


def check_field(field: xr.DataArray) -> None:
    """Raise ValueError unless the dims are ``("time", "channel", ...space)`` and the time axis regular and increasing.

    >>> check_field(xr.DataArray([[1.0], [2.0]], dims=("time", "channel"), coords={"time": [0, 1]}))
    """
    if field.dims[:2] != ("time", "channel"):
        raise ValueError(f'a field needs dims ("time", "channel", ...space), got {field.dims}')
    if "time" not in field.indexes:
        raise ValueError("the dim time needs a coordinate: dates, or whole numbers that count the steps")
    time = field.indexes["time"]
    if not time.is_unique or not time.is_monotonic_increasing:
        raise ValueError("the time axis must be strictly increasing: sort it and drop its duplicates first")
    regular = len(np.unique(np.diff(time.to_numpy()))) <= 1
    if isinstance(time, pd.DatetimeIndex) and not regular:  # calendar months and years are regular too
        month = time.to_period("M")
        same_day = (time - month.start_time).nunique() == 1 or (month.end_time - time).nunique() == 1
        regular = same_day and len(np.unique(np.diff(12 * time.year + time.month))) == 1
    if not regular:
        raise ValueError("the time axis has gaps or unequal steps: resample it to one step first (NaN where unknown)")


def _known(regressors: xr.DataArray, field: xr.DataArray, dtype: torch.dtype) -> Tensor:
    if not isinstance(regressors, xr.DataArray):
        raise ValueError(f'regressors must be an xarray array with dims ("time", one more), got {type(regressors)}')
    if regressors.ndim != 2 or regressors.dims[0] != "time":
        raise ValueError(f'regressors need dims ("time", one more), got {regressors.dims}')
    if regressors.dtype.kind not in "biufO":  # dates would become nanoseconds, complex numbers lose a part
        raise ValueError(f"regressors must be real numbers, got {regressors.dtype}")
    if "time" not in regressors.indexes or not regressors.indexes["time"].equals(field.indexes["time"]):
        raise ValueError(
            f"regressors need the {field.sizes['time']} times of the field, got {regressors.sizes['time']} steps, "
            "of which some are others or not named"
        )
    values = torch.from_numpy(regressors.values.astype(np.float64)).to(dtype)
    if not values.isfinite().all():
        raise ValueError(
            f"regressors must be known at every step, got {int((~values.isfinite()).sum())} missing or infinite values "
            f"in {dtype}"
        )
    return values


def _calendar(time: pd.Index) -> Tensor | None:
    if not isinstance(time, pd.DatetimeIndex):
        return None
    columns = time.month - 1, time.day_of_week, time.hour, time.day_of_year - 1
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.int64))
