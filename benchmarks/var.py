"""Vector autoregressions by stlib and by statsmodels: the fit of a large system, and the Granger tests of a small one.

Fit: 3 lags, 100 variables, 6,000 steps, least squares with an intercept, in float64. Granger: the same with 10
variables and 1,000 steps, and then the F test of all 90 ordered pairs. The record follows itself and its neighbour on a
ring. Coefficients and F statistics are compared.
"""

from functools import cache, partial

import numpy as np
import torch

from benchmarks.measure import Contestant, contest
from stlib.models.var import VAR

LAGS = 3
TASKS = {"fit": (100, 6000), "fit and Granger tests of all pairs": (10, 1000)}


@cache
def record(task: str) -> np.ndarray:
    variables, steps = TASKS[task]
    x = np.random.default_rng(0).standard_normal((steps, variables))
    for t in range(1, steps):
        x[t] += 0.6 * x[t - 1] + 0.3 * np.roll(x[t - 1], 1)
    return x


def tensor(task: str) -> torch.Tensor:
    return torch.from_numpy(record(task))


def by_stlib(task: str, series: torch.Tensor) -> np.ndarray:
    model = VAR(lags=LAGS, horizon=1).fit(series)
    return (model.coefficients if task == "fit" else model.causality().statistic)[0].numpy()


def by_statsmodels(task: str, series: np.ndarray) -> np.ndarray:
    from statsmodels.tsa.api import VAR as Reference

    model = Reference(series).fit(LAGS)
    if task == "fit":
        return model.coefs
    pairs = range(series.shape[1])
    # The statistics: its p-values take other degrees of freedom.
    statistic = [
        [np.nan if i == j else model.test_causality(i, j, kind="f").test_statistic for j in pairs] for i in pairs
    ]
    return np.array(statistic)


def compare() -> list[dict]:
    rows = []
    for task in TASKS:
        measured, answers = contest(
            [
                Contestant("VAR", "stlib-book", partial(tensor, task), partial(by_stlib, task)),
                Contestant("VAR", "statsmodels", partial(record, task), partial(by_statsmodels, task)),
            ]
        )
        if answers[1] is not None:
            measured[1]["largest_difference"] = float(np.nanmax(abs(answers[0] - answers[1])))
        rows += [{"work": task, **row} for row in measured]
    return rows
