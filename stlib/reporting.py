"""Reporting: claims that run, score tables, and answers to exercises."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr


def claim(text: str, condition: object) -> None:
    """Print a claim with a tick if it holds; raise AssertionError if it does not.

    >>> claim("two is less than three", 2 < 3)
    ✓ two is less than three
    """
    if not bool(condition):
        raise AssertionError(f"this claim does not hold: {text}")
    print(f"✓ {text}")


def three_digits(value: float) -> str:
    """A number with three significant digits, at least one decimal, and no exponent from 0.0001 to a million.

    The decimal marks it as measured: the notebooks' check compares whole numbers exactly. NaN is "–".

    >>> three_digits(0.012345), three_digits(1013.25), three_digits(-7.0)
    ('0.0123', '1013.2', '-7.00')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = max(1, 2 - math.floor(math.log10(float(f"{abs(value):.2e}"))))
    return f"{value:.{decimals}f}"


def score_table(scores: Mapping[str, xr.DataArray], *, step: float = 1, unit: str = "") -> pd.DataFrame:
    """One row a forecaster, one column a lead, three significant digits; "mean ± standard deviation" over seeds.

    ``scores`` holds for each forecaster an array over one dim (say "lead"), or over that dim and "seed". ``step`` is
    the length of one lead in ``unit``.

    >>> scores = xr.DataArray([1.0, 2.0], dims="lead", coords={"lead": [1, 2]})
    >>> table = score_table({"persistence": scores}, step=6, unit="hours")
    >>> table.columns.name, table.loc["persistence", 12]
    ('lead (hours)', '2.00')
    """
    rows = {}
    for name, values in scores.items():
        if "seed" in values.dims and values.sizes["seed"] > 1:
            middle, width = values.mean("seed"), values.std("seed", ddof=1)
            rows[name] = [
                f"{three_digits(m)} ± {float(f'{w:.1g}'):g}" for m, w in zip(middle.values, width.values, strict=True)
            ]
        else:
            middle = values.squeeze("seed") if "seed" in values.dims else values
            rows[name] = [three_digits(value) for value in middle.values]
    (dim,) = middle.dims
    different = [name for name, values in scores.items() if not values[dim].equals(middle[dim])]
    if different:
        raise ValueError(f"the scores need the same values of {dim}, those of {', '.join(different)} are others")
    columns = pd.Index(middle[dim].values * step, name=f"{dim} ({unit})" if unit else dim)
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def check(answer: object, exercise: str) -> None:
    """Tell a reader whether an answer to an exercise is right and, if not, which mistake it looks like.

    ``exercise`` is "chapter: name", as in ``stlib/exercises.json``, which holds the right value and, for each hint, the
    value that the mistake would give. An answer of None or ``...`` is not tried yet. Values agree within 0.1 %, whole
    numbers exactly.
    Raises ValueError for an unknown exercise.

    >>> check(None, "honest-forecasts: mase")
    … not answered yet
    """
    exercises = json.loads((Path(__file__).parent / "exercises.json").read_text())
    if exercise not in exercises:
        raise ValueError(f"no exercise {exercise!r} in stlib/exercises.json; there are {', '.join(exercises)}")
    right, mistakes = exercises[exercise]["right"], exercises[exercise]["mistakes"]
    if answer is None or answer is ...:
        print("… not answered yet")
        return
    given = np.asarray(answer.detach().cpu() if torch.is_tensor(answer) else answer, dtype=float)
    if given.shape != ():
        print(f"✗ not yet: your answer has shape {given.shape}, a single number is needed")
        return

    def agrees(value):
        return np.isclose(given, value, rtol=1e-3) and not (isinstance(value, int) and abs(given - value) >= 0.5)

    hints = [hint for hint, value in mistakes.items() if agrees(value)]
    if agrees(right):
        print("✓ right")
    elif hints:
        print(f"✗ not yet: {hints[0]}")
    else:
        print(f"✗ not yet: your answer is too {'large' if given > right else 'small'}")


def benchmark(name: str) -> dict:
    """A stored benchmark result: its rows, and where, when and with what they were measured.

    Raises ValueError for a name without a stored result.

    >>> sorted(benchmark("nlinear_ett"))
    ['columns', 'provenance', 'rows', 'work']
    """
    here = Path(__file__).parent
    for folder in (here / "_results", here.parent / "benchmarks" / "results"):  # in a wheel, in a checkout
        if (folder / f"{name}.json").exists():
            return json.loads((folder / f"{name}.json").read_text())
    raise ValueError(f"no stored benchmark result {name!r}; run `make bench NAME={name}` in a checkout")
