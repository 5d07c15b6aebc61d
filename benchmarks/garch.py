"""Maximum likelihood of GARCH models on simulated returns: all series in one call, beside arch series by series.

The returns are drawn from the model that is fitted, in double precision; the mean is zero. Both maximise the same
likelihood, so the higher one is the better fit; ours less theirs is given over the series. The last rows fit ever more
series, to see how time and memory grow. Peak memory is that of a whole process with its libraries.
"""

from functools import cache, partial

import numpy as np
import torch

from benchmarks.measure import Contestant, contest
from stlib.models.garch import GARCH

STEPS = 1000
REPETITIONS = 5
CLOSE = 1e-3  # in log-likelihood
TASKS = {  # work: kind, noise, series
    "GARCH(1,1), normal noise": ("garch", "normal", 1000),
    "GJR(1,1), Student's t": ("gjr", "t", 200),
    "EGARCH(1,1), normal noise": ("egarch", "normal", 200),
}
GROWTH = (250, 1000, 4000)


@cache
def returns(kind: str, noise: str, series: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    e, log_h, h, drawn = np.zeros(series), np.zeros(series), np.ones(series), []
    for _ in range(STEPS + 200):
        z = rng.standard_t(6, series) * np.sqrt(2 / 3) if noise == "t" else rng.standard_normal(series)
        if kind == "egarch":
            e = np.exp(log_h / 2) * z
            log_h = 0.15 * (abs(z) - np.sqrt(2 / np.pi)) - 0.08 * z + 0.96 * log_h
        else:
            e = np.sqrt(h) * z
            alpha, fall, beta = (0.08, 0.0, 0.87) if kind == "garch" else (0.04, 0.08, 0.88)
            h = 0.05 + (alpha + fall * (e < 0)) * e**2 + beta * h
        drawn.append(e)
    return torch.from_numpy(np.array(drawn[200:]))


def by_stlib(kind: str, noise: str, x: torch.Tensor) -> np.ndarray:
    return GARCH(kind=kind, noise=noise).fit(x).likelihood.numpy()


def by_arch(kind: str, noise: str, x: torch.Tensor) -> np.ndarray:
    from arch import arch_model

    vol, asymmetry = ("EGARCH" if kind == "egarch" else "GARCH"), int(kind != "garch")
    found = []
    for one in x.T.numpy():
        model = arch_model(one, mean="Zero", vol=vol, p=1, o=asymmetry, q=1, dist=noise, rescale=False)
        found.append(model.fit(disp="off", show_warning=False).loglikelihood)
    return np.array(found)


def compare() -> list[dict]:
    rows = []
    for task, (kind, noise, series) in TASKS.items():
        prepare = partial(returns, kind, noise, series)
        contestants = [
            Contestant("stlib", "stlib-book", prepare, partial(by_stlib, kind, noise)),
            Contestant("arch, series by series", "arch", prepare, partial(by_arch, kind, noise)),
        ]
        measured, (ours, theirs) = contest(contestants, repetitions=REPETITIONS)
        if theirs is not None:
            measured[1] |= likelihoods(ours - theirs)
        rows += [{"work": task, "series": series, **row} for row in measured]
    for series in GROWTH:
        ours = Contestant(
            "stlib", "stlib-book", partial(returns, "garch", "normal", series), partial(by_stlib, "garch", "normal")
        )
        measured, _ = contest([ours], repetitions=REPETITIONS)
        rows.append({"work": f"growth: {series} series", "series": series, **measured[0]})
    return rows


def likelihoods(difference: np.ndarray) -> dict[str, float]:
    return {
        "gain_least": float(difference.min()),
        "gain_median": float(np.median(difference)),
        "gain_most": float(difference.max()),
        "share_lower": float((difference < -CLOSE).mean()),
        "share_higher": float((difference > CLOSE).mean()),
    }
