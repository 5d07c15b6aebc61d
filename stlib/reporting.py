"""Reporting: claims that run, score tables, and answers to exercises."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
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
    """A number with three significant digits and no exponent between 0.0001 and a million; "–" for NaN.

    >>> three_digits(0.012345), three_digits(1013.25), three_digits(-7.0)
    ('0.0123', '1013', '-7.00')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = max(0, 2 - math.floor(math.log10(float(f"{abs(value):.2e}"))))
    return f"{value:.{decimals}f}"


def score_table(scores: Mapping[str, xr.DataArray], *, spread: str = "seed") -> pd.DataFrame:
    """One row a forecaster, one column a lead, three significant digits; "mean ± standard deviation" over seeds.

    ``scores`` holds for each forecaster an array over one dim (say "lead"), or over that dim and ``spread``.

    >>> scores = xr.DataArray([1.0, 2.0], dims="lead", coords={"lead": [1, 2]})
    >>> score_table({"persistence": scores}).loc["persistence", 2]
    '2.00'
    """
    rows = {}
    for name, values in scores.items():
        if spread in values.dims and values.sizes[spread] > 1:
            middle, width = values.mean(spread), values.std(spread, ddof=1)
            rows[name] = [
                f"{three_digits(m)} ± {float(f'{w:.1g}'):g}" for m, w in zip(middle.values, width.values, strict=True)
            ]
        else:
            middle = values.squeeze(spread) if spread in values.dims else values
            rows[name] = [three_digits(value) for value in middle.values]
    (dim,) = middle.dims
    return pd.DataFrame.from_dict(rows, orient="index", columns=pd.Index(middle[dim].values, name=dim))


def check(answer: object, expected: object, *, mistakes: Mapping[str, object] | None = None) -> None:
    """Tell a reader whether an answer to an exercise is right and, if not, which mistake it looks like.

    ``mistakes`` maps a hint to the value that the mistake would give. An answer of None or ``...`` is not tried yet.

    >>> check(4.0, 2.0, mistakes={"take the square root": 4.0})
    ✗ not yet: take the square root
    """
    if answer is None or answer is ...:
        print("… not answered yet")
        return
    given, wanted = np.asarray(answer, dtype=float), np.asarray(expected, dtype=float)
    if given.shape != wanted.shape:
        print(f"✗ not yet: your answer has shape {given.shape}, expected {wanted.shape}")
        return
    if np.allclose(given, wanted, rtol=1e-3, equal_nan=True):
        print("✓ right")
        return
    for hint, value in (mistakes or {}).items():
        if np.allclose(given, np.asarray(value, dtype=float), rtol=1e-3, equal_nan=True):
            print(f"✗ not yet: {hint}")
            return
    size = "too large" if np.nansum(np.abs(given)) > np.nansum(np.abs(wanted)) else "too small"
    print(f"✗ not yet: your answer is {size}")


def benchmark(name: str) -> dict:
    """A stored benchmark result: its rows, and where, when and with what they were measured.

    Raises ValueError for a name without a stored result.

    >>> sorted(benchmark("nlinear_ett"))
    ['provenance', 'rows']
    """
    here = Path(__file__).parent
    for folder in (here / "_results", here.parent / "benchmarks" / "results"):  # in a wheel, in a checkout
        if (folder / f"{name}.json").exists():
            return json.loads((folder / f"{name}.json").read_text())
    raise ValueError(f"no stored benchmark result {name!r}; run `make bench NAME={name}` in a checkout")
