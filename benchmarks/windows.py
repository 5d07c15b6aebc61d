"""Shuffled batches of training windows: stlib, a plain torch Dataset of slices, and pytorch-forecasting.

The panel is 8 hourly series of 20,000 steps in float32. A batch has 128 windows of 336 past and 96 future steps, and a
window is either one series or all eight at once. stlib always cuts all series at one origin, so its batch of 128
single-series windows is 16 origins times 8 series, where the others draw the 128 one by one. stlib also gathers the
calendar of each step, and pytorch-forecasting its time index and lengths. All give the same windows, each once in an
epoch. Every value of the panel is different, so the first value of a window tells which one it is.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Contestant, contest
from stlib.data import windows

SERIES, STEPS, TRAIN_STEPS = 8, 20_000, 12_000
PAST, HORIZON = 336, 96
BATCH, BATCHES, REPETITIONS = 128, 20, 15

Epoch = Callable[[], Iterator[Any]]  # starts a freshly shuffled epoch


def panel() -> np.ndarray:
    """A different value everywhere, (T, N)."""
    values = np.random.default_rng(0).permutation(STEPS * SERIES)
    return values.reshape(STEPS, SERIES).astype(np.float32)


def from_stlib(together: bool) -> Epoch:
    time = pd.date_range("2000-01-01", periods=STEPS, freq="h")
    coords = {"time": time, "channel": ["value"], "series": range(SERIES)}
    field = xr.DataArray(panel()[:, None], dims=("time", "channel", "series"), coords=coords)
    train = windows.split(field, past=PAST, horizon=HORIZON, train=TRAIN_STEPS, validation=4_000).train
    return partial(train.batches, BATCH if together else BATCH // SERIES, shuffle=True)


class Slices(Dataset):
    """What one writes without a library."""

    def __init__(self, values: Tensor, together: bool):
        self.values, self.columns, self.together = values, values.T.contiguous(), together
        self.origins = len(values) - PAST - HORIZON + 1

    def __len__(self) -> int:
        return self.origins * (1 if self.together else SERIES)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if self.together:
            return self.values[i : i + PAST], self.values[i + PAST : i + PAST + HORIZON]
        series, first = divmod(i, self.origins)
        middle = first + PAST
        return self.columns[series, first:middle], self.columns[series, middle : middle + HORIZON]


def from_slices(together: bool) -> Epoch:
    loader = DataLoader(Slices(torch.from_numpy(panel()[:TRAIN_STEPS]), together), BATCH, shuffle=True, num_workers=0)
    return partial(iter, loader)


def from_pytorch_forecasting(together: bool) -> Epoch:
    from pytorch_forecasting import TimeSeriesDataSet

    names = [f"series_{i}" for i in range(SERIES)]
    table = pd.DataFrame(panel()[:TRAIN_STEPS], columns=names)
    if together:  # one group whose window has all series as its real-valued columns
        table, values = table.assign(group="panel"), names
    else:
        table, values = table.melt(var_name="group", value_name="value", ignore_index=False), ["value"]
    dataset = TimeSeriesDataSet(
        table.reset_index(names="step"),
        time_idx="step",
        target=values[0],
        group_ids=["group"],
        time_varying_unknown_reals=values,
        min_encoder_length=PAST,
        max_encoder_length=PAST,
        min_prediction_length=HORIZON,
        max_prediction_length=HORIZON,
        target_normalizer=None,  # no scaling at all: the least work, and the same values as the others
        scalers=dict.fromkeys(values[1:]),
    )
    loader = dataset.to_dataloader(train=True, batch_size=BATCH, num_workers=0, drop_last=False)  # train=True shuffles
    return partial(iter, loader)


def draw(epoch: Epoch) -> Any:
    for batch in islice(epoch(), BATCHES):
        last = batch
    return last


def single_windows(batch: Any) -> np.ndarray:
    """The single-series windows of anyone's batch, (number, past + horizon)."""
    if isinstance(batch, windows.Batch):
        past, future = batch.past[:, :, 0], batch.future[:, :, 0]
    elif isinstance(batch[0], dict):
        past, future = batch[0]["encoder_cont"], batch[0]["decoder_cont"]
    else:
        past, future = batch
    both = torch.cat([past, future], 1)
    return both.reshape(len(both), PAST + HORIZON, -1).movedim(1, 2).flatten(0, 1).numpy()


def largest_difference(found: np.ndarray) -> float:
    """Between windows and the panel's own values where their first value stands, in units of the panel."""
    values = panel()
    where = np.empty(values.size, dtype=int)
    where[values.astype(int).ravel()] = np.arange(values.size)
    steps, series = np.divmod(where[found[:, 0].astype(int)], SERIES)
    true = values[steps[:, None] + np.arange(PAST + HORIZON), series[:, None]]
    return float(np.abs(found - true).max())


def compare() -> list[dict]:
    rows = []
    for together, name in ((False, "one series a window"), (True, "all 8 series a window")):
        contestants = [
            Contestant("stlib windows", "stlib-book", partial(from_stlib, together), draw),
            Contestant("Dataset of slices", "torch", partial(from_slices, together), draw),
            Contestant("TimeSeriesDataSet", "pytorch-forecasting", partial(from_pytorch_forecasting, together), draw),
        ]
        measured, batches = contest(contestants, repetitions=REPETITIONS, pieces=BATCHES)
        for row, batch in zip(measured, batches, strict=True):
            if batch is not None:
                found = single_windows(batch)
                row |= {"series_windows": len(found), "max_abs_difference": largest_difference(found)}
            rows.append({"work": name, **row})
    return rows
