"""Moving a radar-sized map along: 256 by 256 cells, 12 leads, by stlib and by pysteps.

The velocity is a rotation with a drift and some eddies, up to about four cells a step, and both follow it back by the
same midpoint rule with bilinear values. Answers are compared where both have one: what comes from outside is missing,
for stlib from the outer side of the outermost cell, for pysteps from its middle.
"""

from functools import cache, partial

import numpy as np
import torch

from benchmarks.measure import Contestant, contest
from stlib.models.advection import advect

SIDE, LEADS = 256, 12


@cache
def scene() -> tuple[np.ndarray, np.ndarray]:
    """A map (H, W) and a velocity (2, H, W), rows first."""
    rng = np.random.default_rng(0)
    k = np.fft.fftfreq(SIDE) * SIDE
    squared = k[:, None] ** 2 + k**2

    def smooth(waves: float) -> np.ndarray:
        field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIDE, SIDE))) * np.exp(-squared / (2 * waves**2))).real
        return field / field.std()

    rows, columns = np.meshgrid(*[np.arange(SIDE) - SIDE / 2] * 2, indexing="ij")
    velocity = np.stack([columns / 60 + 0.5 * smooth(5), 1.5 - rows / 60 + 0.5 * smooth(5)])
    return smooth(20), velocity


def tensors(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    field, velocity = scene()
    return torch.from_numpy(field)[None, None].to(dtype), torch.from_numpy(velocity)[None].to(dtype)


def by_stlib(given: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    return advect(*given, steps=LEADS)[0, :, 0].numpy()


def by_pysteps(given: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    from pysteps.extrapolation.semilagrangian import extrapolate

    field, velocity = given
    return extrapolate(field, velocity[::-1], LEADS)  # it wants columns first


def compare() -> list[dict]:
    measured, answers = contest(
        [
            Contestant("advect, float32", "stlib-book", partial(tensors, torch.float32), by_stlib),
            Contestant("advect, float64", "stlib-book", partial(tensors, torch.float64), by_stlib),
            Contestant("semilagrangian.extrapolate", "pysteps", scene, by_pysteps),
        ],
        repetitions=9,
    )
    ours, spread = answers[0], float(scene()[0].std())
    for row, answer in zip(measured[1:], answers[1:], strict=True):
        if answer is not None:
            row["difference_share"] = float(np.nanmax(abs(answer - ours))) / spread
            row["missing_in_one"] = int((np.isnan(answer) != np.isnan(ours)).sum())
    return [{"work": f"{SIDE} x {SIDE} cells, {LEADS} leads", **row} for row in measured]
