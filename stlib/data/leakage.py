"""Leakage: does a split, or anything fitted or filled before it, know what it is going to be tested on?"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, issparse
from torch import nn

from stlib.data.structure import autocorrelation
from stlib.data.windows import Windows

# What the checks of a split say: when they find something, and when they do not.
SENTENCES = {
    "windows in two parts": (
        "{count} of {total} {later} windows are also {earlier} windows",
        "no window is in two parts",
    ),
    "targets in two parts": (
        "{count} of {total} {later} targets are also {earlier} targets",
        "no step is the target of two parts",
    ),
    "targets in an earlier past": (
        "{count} of {total} {later} targets stand in the past of {earlier} windows",
        "no target is seen by the windows of an earlier part",
    ),
    "time order": (
        "{count} of {total} {earlier} targets are later than the first {later} target",
        "the targets of each part are later than those before it",
    ),
}


def check_leakage(
    field: xr.DataArray,
    *,
    train: Windows | ArrayLike,
    test: Windows | ArrayLike,
    past: int,
    horizon: int,
    validation: Windows | ArrayLike | None = None,
    fitted: Mapping[str, Callable] | None = None,
    transforms: Mapping[str, Callable] | None = None,
    train_places: ArrayLike | None = None,
    test_places: ArrayLike | None = None,
    adjacency: ArrayLike | None = None,
) -> pd.DataFrame:
    """Look for leaks in a set-up, whatever library made it: one row a check, with ``leaks`` and a ``finding``.

    ``train``, ``validation`` and ``test`` are the origins of each part's windows, the positions along time of their
    last observed steps, or our `Windows`. A window at origin t sees the steps t - past + 1 to t, and its targets are
    the steps t + 1 to t + horizon. Steps are counted:

    - *windows in two parts*, *targets in two parts*;
    - *targets in an earlier past*: test targets that training windows see;
    - *time order*: training targets later than the first test target. All four are also asked of validation;
    - *untested windows*, as a batch that is dropped for being too small leaves them. No leak: read the finding;
    - *memory*: how many steps values stay alike, next to the gap before the first test target. Advice, never a leak.

    Nothing else is believed, it is tried out: values of the field are changed, and what should not know them must not
    change.

    - ``fitted`` holds functions of the field that return what they fitted, such as a scaler's mean, a graph or a list
      of chosen features (arrays, tensors, modules, or dicts and lists of them). They must not change when all values
      later than the last training target do. Called three times.
    - ``transforms`` holds functions from the field to another with the same steps, such as filling or smoothing. Their
      value at a step may depend on steps up to it only. After up to six steps, among them the ends of the longest gaps,
      all values are changed; the finding says how far the function was seen to reach. Called up to eight times.
      A transform with numbers from the training part reaches within it: give the part that fits to ``fitted``.

    With ``train_places`` and ``test_places``, positions in the flattened space, *places in two parts* are counted, and
    with ``adjacency`` (N, N), 0 for no edge, *neighbouring places*: test places with a training place next to them.

    A check finds what the data at hand show: a clean row is no proof. Values are changed to others of the field,
    shuffled in time, tripled and shifted, and later gaps are filled, so that what depends on gaps is found as well.

    Shapes: ``field`` has a dim ``time``, and any others.
    Raises ValueError for a field without time or out of order, origins whose windows leave the field or are not whole
    numbers, places that do not exist, and functions that give other numbers when called twice.
    Source: Kaufman et al. (2012), Leakage in data mining, doi:10.1145/2382577.2382579, for the idea of what may be
    known when.

    >>> from stlib.data import datasets, windows
    >>> storm = datasets.load("storm")
    >>> parts = windows.split(storm, past=4, horizon=4)
    >>> mean_of_all = {"mean": lambda field: field.mean("time")}
    >>> report = check_leakage(storm, train=parts.train, test=parts.test, past=4, horizon=4, fitted=mean_of_all)
    >>> report.index[report["leaks"]].tolist()
    ['fitted: mean']
    """
    if "time" not in field.dims:
        raise ValueError(f"field needs a dim time, got {field.dims}")
    if "time" in field.indexes and not field.indexes["time"].is_monotonic_increasing:
        raise ValueError("the time axis of the field must be increasing: sort it first")
    if past < 1 or horizon < 1:
        raise ValueError(f"past and horizon must be at least 1, got {past} and {horizon}")
    given = {"training": train, "validation": validation, "test": test}
    steps = field.sizes["time"]
    parts = {
        name: _origins(origins, name.replace("training", "train"), past, horizon, steps)
        for name, origins in given.items()
        if origins is not None
    }
    last = int(parts["training"][-1]) + horizon  # the last training target
    rows = _split_rows(parts, past, horizon, steps)
    rows["memory"] = False, _memory(field, last, parts["test"][0] + 1)
    for name, function in (fitted or {}).items():
        rows[f"fitted: {name}"] = _fitted_row(field, function, f"fitted[{name!r}]", last)
    for name, function in (transforms or {}).items():
        rows[f"transform: {name}"] = _transform_row(field, function, f"transforms[{name!r}]", last)
    if train_places is not None or test_places is not None or adjacency is not None:
        places = field.size // max(steps * field.sizes.get("channel", 1), 1)
        rows |= _place_rows(train_places, test_places, adjacency, places)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["leaks", "finding"])
    return table.astype({"leaks": bool}).rename_axis("check")


def _origins(origins: Windows | ArrayLike, name: str, past: int, horizon: int, steps: int) -> np.ndarray:
    """The origins of one part, sorted and each once."""
    if isinstance(origins, Windows):
        if (origins.past, origins.horizon) != (past, horizon):
            raise ValueError(
                f"{name} holds windows of past={origins.past} and horizon={origins.horizon}, "
                f"got past={past} and horizon={horizon}"
            )
        origins = origins._first_targets - 1
    origins = np.asarray(origins.cpu() if torch.is_tensor(origins) else origins)
    if origins.ndim != 1 or not origins.size or origins.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be origins, a list of whole numbers, at least one, "
            f"got shape {origins.shape} of {origins.dtype}"
        )
    if origins.min() < past - 1 or origins.max() + horizon >= steps:
        raise ValueError(
            f"{name} must be origins from {past - 1} to {steps - 1 - horizon} for past={past}, horizon={horizon} "
            f"and {steps} steps, got {origins.min()} to {origins.max()}"
        )
    return np.unique(origins).astype(np.int64)


def _split_rows(parts: dict[str, np.ndarray], past: int, horizon: int, steps: int) -> dict[str, tuple[bool, str]]:
    targets = {name: _covered(origins + 1, horizon, steps) for name, origins in parts.items()}
    pasts = {name: _covered(origins - past + 1, past, steps) for name, origins in parts.items()}
    found = {check: [] for check in SENTENCES}
    for later, earlier in [("validation", "training"), ("test", "training"), ("test", "validation")]:
        if later not in parts or earlier not in parts:
            continue
        new, known = targets[later], targets[earlier]
        counts = [
            (np.isin(parts[later], parts[earlier]).sum(), len(parts[later])),
            ((new & known).sum(), new.sum()),
            ((new & pasts[earlier]).sum(), new.sum()),
            (known[parts[later][0] + 2 :].sum(), known.sum()),  # after the first target
        ]
        for (check, (sentence, _)), (count, total) in zip(SENTENCES.items(), counts, strict=True):
            if count:
                found[check].append(sentence.format(count=count, total=total, later=later, earlier=earlier))
    rows = {check: (bool(found[check]), "; ".join(found[check]) or clean) for check, (_, clean) in SENTENCES.items()}
    return rows | {"untested windows": (False, _untested(parts["test"], steps - 1 - horizon))}


def _covered(starts: np.ndarray, length: int, steps: int) -> np.ndarray:
    """Which of the steps lie in a stretch of ``length`` steps from one of the starts."""
    opens, closes = np.bincount(starts, minlength=steps + 1), np.bincount(starts + length, minlength=steps + 1)
    return (opens - closes).cumsum()[:steps] > 0


def _untested(test: np.ndarray, last_possible: int) -> str:
    possible = last_possible - test[0] + 1
    missing, at_the_end = possible - len(test), last_possible - test[-1]
    if not missing:
        return f"all {possible} windows from the first test window on are tested"
    end = f"the last {at_the_end} among them" if at_the_end else "the last one is tested"
    return f"{missing} of {possible} windows from the first test window on are not tested; {end}"


def _memory(field: xr.DataArray, last: int, first_test: int) -> str:
    """How long values stay alike, from at most 64 series up to the last training target."""
    values = field.transpose("time", ...)[: last + 1].values.reshape(last + 1, -1)
    usable = np.flatnonzero((values == values).any(0))
    lags = min(last // 2, 300)
    if lags < 1 or not usable.size or values.dtype.kind not in "fiu":
        return "there are too few values to estimate how long they stay alike"
    some = usable[np.linspace(0, usable.size - 1, min(usable.size, 64)).astype(int)]
    correlation = autocorrelation(xr.DataArray(values[:, some].astype(float), dims=("time", "series")), lags=lags)
    mean = correlation.mean("series").values  # over the series that vary
    below = np.flatnonzero(mean < 1 / np.e)
    if np.isnan(mean[0]):
        return "nothing varies before the last training target"
    lag = f"at a lag of {below[0]}" if below.size else f"only beyond a lag of {lags}"
    gap = first_test - last - 1
    between = f"{gap} steps lie" if gap >= 0 else "no gap lies"
    advice = "" if below.size and gap >= below[0] else ", so the first test windows are easier than later ones"
    return (
        f"the autocorrelation of departures from the mean, seasons included, falls below 1/e {lag}; "
        f"{between} between the last training and the first test target{advice}"
    )


def _fitted_row(field: xr.DataArray, function: Callable, name: str, last: int) -> tuple[bool, str]:
    if last == field.sizes["time"] - 1:
        return False, "not checked: no step is later than the last training target"
    when = "when the values after the last training target do"
    before = _twice(field, function, name)
    after = _numbers(function(_changed_after(field, last, *_level(field))), name)
    if before.keys() != after.keys():
        return True, f"the names of what it returns change {when}"
    findings = []  # (how much, sentence)
    for key, old in before.items():
        new, label = after[key], key or "its result"
        if old.shape != new.shape:
            findings.append((np.inf, f"the shape of {label} changes from {old.shape} to {new.shape}"))
        elif count := _differs(old, new).sum():
            share, sentence = 0.0, f"{count} of {old.size} values of {label} change"
            if old.dtype.kind in "iuf" and (largest := np.abs(old[np.isfinite(old)]).max(initial=0)):
                distance = np.abs(new.astype(float) - old)
                share = distance[np.isfinite(distance)].max(initial=0) / largest
                sentence += f", by up to {share:.3g} times the largest of them,"
            findings.append((share, sentence))
    if not findings:
        return False, f"nothing changes {when}"
    return True, f"{max(findings)[1]} {when}"


def _transform_row(field: xr.DataArray, function: Callable, name: str, last: int) -> tuple[bool, str]:
    steps = field.sizes["time"]
    before = _series(_twice(field, function, name), name, steps)
    reach, back, within = 0, 0, True
    level = _level(field)
    for step in _probes(field, last):
        after = _series(_numbers(function(_changed_after(field, step, *level)), name), name, steps)
        if after.shape != before.shape:
            return True, f"its shape changes from {before.shape} to {after.shape} when steps after {step} change"
        moved = _differs(before[: step + 1], after[: step + 1]).reshape(step + 1, -1).any(1)
        if moved.any():
            within &= step < last
            if step + 1 - int(moved.argmax()) >= reach:  # of equal ones the later probe, which sees further back
                reach, back = step + 1 - int(moved.argmax()), int(moved.argmax())
    if not reach:
        return False, "no value depends on later steps"
    least = "at least " if back == 0 else ""
    note = "; seen within the training part only, which is no leak if it was fitted there" if within else ""
    return True, f"reaches {least}{reach} step{'s' * (reach > 1)} into the future{note}"


def _probes(field: xr.DataArray, last: int) -> list[int]:
    """The steps after which values are changed: spread over the record, and at the ends of the longest gaps."""
    steps = field.sizes["time"]
    missing = field.isnull().transpose("time", ...).values.reshape(steps, -1)
    step = np.arange(steps, dtype=np.int32)[:, None]
    length = step - np.maximum.accumulate(np.where(missing, np.int32(-1), step), 0)  # missing steps up to this one
    length[:-1][missing[1:]] = 0  # the gap goes on
    length[-1] = 0
    leading = length > step  # nothing was observed before: filled backwards, if at all
    probes = {steps // 4, last, (last + steps) // 2}
    inner = np.where(leading, 0, length).max(1, initial=0)
    for start, gaps in [(0, inner[:last]), (last, inner[last:]), (0, np.where(leading, length, 0).max(1, initial=0))]:
        if gaps.any():
            probes.add(start + int(gaps.argmax()))
    return sorted(probe for probe in probes if probe < steps - 1)


def _level(field: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each series over time, and a number that its values are shifted by."""
    if field.dtype.kind not in "fiu":
        raise ValueError(f"field must hold numbers to have them changed, got {field.dtype}")
    spread = field.std("time").values
    return field.mean("time").values, np.ceil(np.where(spread > 0, spread, 1.0))


def _changed_after(field: xr.DataArray, step: int, mean: np.ndarray, shift: np.ndarray) -> xr.DataArray:
    """A copy with other values after ``step``: shuffled in time, tripled, shifted, with the later gaps filled.

    Positive values stay positive and whole numbers whole, so that functions work on it as they do on the field. Places
    that are never observed, such as land in a field of seas, stay missing.
    """
    changed = field.copy(data=field.values.copy())
    values = np.moveaxis(changed.values, field.get_axis_num("time"), 0)  # a view
    later = values[step + 1 :]
    order = np.random.default_rng(0).permutation(len(later))
    other = later[order] * 3 + shift.astype(later.dtype)
    if other.dtype.kind == "f":
        other = np.where(np.isnan(other), (3 * mean + 2 * shift).astype(other.dtype), other)
    values[step + 1 :] = other
    return changed


def _twice(field: xr.DataArray, function: Callable, name: str) -> dict[str, np.ndarray]:
    """What the function returns, after making sure that it returns it again."""
    first, second = (_numbers(function(field.copy(data=field.values.copy())), name) for _ in range(2))
    same = first.keys() == second.keys() and all(first[key].shape == second[key].shape for key in first)
    if not same or any(_differs(first[key], second[key]).any() for key in first):
        raise ValueError(f"{name} gives other numbers when called twice with the same field: fix its seed")
    return first


def _numbers(result, name: str) -> dict[str, np.ndarray]:
    """Whatever a function returned, as arrays by name."""
    if isinstance(result, nn.Module):
        result = result.state_dict()
    if isinstance(result, (list, tuple)) and not all(np.isscalar(value) for value in result):
        result = dict(enumerate(result))
    if isinstance(result, Mapping):
        inner = {key: _numbers(value, f"{name}[{key!r}]") for key, value in result.items()}
        return {f"{key}.{rest}".rstrip("."): array for key, arrays in inner.items() for rest, array in arrays.items()}
    if isinstance(result, xr.DataArray) and "time" in result.dims:
        result = result.transpose("time", ...)
    if torch.is_tensor(result):
        result = result.detach().to_dense().cpu()
        result = (result.float() if result.dtype == torch.bfloat16 else result).numpy()
    array = np.array(result.todense() if issparse(result) else result)  # a copy: the function may reuse its own
    if array.dtype == object:
        raise ValueError(
            f"{name} must return numbers (an array, a tensor, a module, or a dict of them), got {type(result).__name__}"
        )
    return {"": array}


def _series(arrays: dict[str, np.ndarray], name: str, steps: int) -> np.ndarray:
    array = arrays.get("")
    if array is None or not array.ndim or array.shape[0] != steps:
        shape = None if array is None else array.shape
        raise ValueError(f"{name} must return an array whose first axis is the {steps} steps, got shape {shape}")
    return array


def _differs(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    if old.dtype.kind not in "fc":
        return old != new
    size = np.abs(old, where=np.isfinite(old), out=np.zeros(old.shape, old.real.dtype)).max(initial=0)
    return ~np.isclose(old, new, rtol=1e-6, atol=1e-12 * size, equal_nan=True)


def _place_rows(train, test, adjacency, places: int) -> dict[str, tuple[bool, str]]:
    if train is None or test is None:
        raise ValueError("train_places and test_places are needed together, and with adjacency")
    train, test = _places(train, "train_places", places), _places(test, "test_places", places)
    shared = np.isin(test, train).sum()
    finding = f"{shared} of {len(test)} test places are also training places" if shared else "no place is in two parts"
    rows = {"places in two parts": (shared > 0, finding)}
    if adjacency is not None:
        edge = csr_array(adjacency.cpu().numpy() if torch.is_tensor(adjacency) else adjacency) != 0
        if edge.shape != (places, places):
            raise ValueError(f"adjacency must be {places} x {places}, one row a place of the field, got {edge.shape}")
        touches = ((edge + edge.T)[test][:, train[~np.isin(train, test)]].sum(1) > 0).sum()
        share = f"{touches} of {len(test)} test places ({touches / len(test):.0%}) have a training place next to them"
        rows["neighbouring places"] = touches > 0, share
    return rows


def _places(given: ArrayLike, name: str, places: int) -> np.ndarray:
    array = np.asarray(given.cpu() if torch.is_tensor(given) else given)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= places:
        raise ValueError(f"{name} must be whole numbers from 0 to {places - 1}, at least one, got {given}")
    return np.unique(array)
