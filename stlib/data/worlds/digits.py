"""Moving digits: handwritten digits that fly straight and bounce off the walls. Nothing in them is random."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

SIDE = 8  # of a digit, in pixels
PARTS = {"train": slice(0, 1078), "validation": slice(1078, 1438), "test": slice(1438, 1797)}


def bounce(start: np.ndarray, velocity: np.ndarray, step: np.ndarray, *, room: int) -> np.ndarray:
    r"""Where something is that starts at ``start``, moves ``velocity`` a step and bounces off walls at 0 and ``room``.

    .. math:: p_t = R - \bigl|\, R - ((p_0 + v t) \bmod 2R) \,\bigr|

    A bounce mirrors the path: what would be :math:`a` beyond the wall is :math:`a` before it.

    Shapes: any that broadcast. Units: pixels and steps; the motion repeats after ``2 * room`` steps.

    >>> bounce(5, 2, np.arange(8), room=8).tolist()
    [5, 7, 7, 5, 3, 1, 1, 3]
    """
    return room - np.abs(room - (start + velocity * step) % (2 * room))


class MovingDigits:
    r"""Handwritten digits on a black canvas, each with a constant velocity, bouncing off the walls.

    Digit :math:`d` with image :math:`I_d` is at :math:`p_{d,t}` as in `bounce`; where digits overlap, the brighter
    pixel shows:

    .. math:: x_t(q) = \max_d I_d(q - p_{d,t}).

    Positions and velocities are whole pixels, so digits are moved and never blurred. After the start nothing is
    random: **the best possible error is 0 at every lead**, for a forecaster who knows the 8 by 8 box of each digit and
    whose past shows the velocities. Three frames do while no digit is hidden behind another; two do not, since a bounce
    may lie between them. From pixels alone the box of a narrow digit is not certain before it has met a wall, so a
    little error is left. There is no noise to learn, so all the rest is the model's own.

    A canvas of ``size`` repeats itself after ``2 * (size - 8)`` steps. Train on many short sequences from `batch`, not
    on windows of one long run. ``part`` says which digits appear: the 1797 images are cut in their own order into
    ``"train"`` (1078), ``"validation"`` (360) and ``"test"`` (359), so no test digit is seen in training. They come
    from 13 writers, whose digits stand together: a shuffled cut would put more of each writer on both sides.

    Units: pixel brightness from 0 to 1, ``max_speed`` in pixels per step along each axis. A digit never stands still.
    Raises ValueError for a canvas of 8 pixels or less, fewer than 1 digit, a speed below 1 or not below ``size - 8``,
    an unknown part; ImportError where scikit-learn, which holds the images, is missing.
    Source: Srivastava, Mansimov & Salakhutdinov (2015), doi:10.48550/arXiv.1502.04681, made with larger digits (MNIST)
    and fractional velocities. Images: Alpaydin & Kaynak (1998), doi:10.24432/C50P49, CC BY 4.0.

    >>> MovingDigits(size=24, part="test").batch(5, 10, seed=0).shape
    torch.Size([5, 10, 1, 24, 24])
    """

    def __init__(self, *, size: int = 32, digits: int = 2, max_speed: int = 3, part: str = "train"):
        if size <= SIDE or digits < 1 or not 1 <= max_speed < size - SIDE:
            raise ValueError(
                f"needs size > {SIDE}, digits >= 1 and 1 <= max_speed < size - {SIDE}, "
                f"got {size}, {digits} and {max_speed}"
            )
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        self.size, self.digits, self.max_speed = size, digits, max_speed
        self.images = _images()[PARTS[part]]  # (images, 8, 8)

    def batch(self, sequences: int, steps: int, *, seed: int) -> Tensor:
        """Many sequences with their own digits, starts and velocities: ``(B, T, 1, H, W)``."""
        generator = np.random.default_rng(seed)
        room = self.size - SIDE
        each = (sequences, self.digits)
        images = self.images[generator.integers(len(self.images), size=each)]  # (B, digits, 8, 8)
        start = generator.integers(room + 1, size=(*each, 2))  # row, column
        speeds = np.arange(-self.max_speed, self.max_speed + 1)
        moving = np.array([(row, column) for row in speeds for column in speeds if row or column])
        velocity = moving[generator.integers(len(moving), size=each)]
        return torch.from_numpy(self.draw(images, start, velocity, steps=steps))[:, :, None]

    def draw(self, images: np.ndarray, start: np.ndarray, velocity: np.ndarray, *, steps: int) -> np.ndarray:
        """The frames ``(B, T, H, W)`` of given images ``(B, digits, 8, 8)``, starts and velocities ``(B, digits, 2)``.

        >>> world = MovingDigits(size=12)
        >>> frames = world.draw(np.ones((1, 1, 8, 8)), np.array([[[0, 3]]]), np.array([[[1, 2]]]), steps=3)
        >>> [np.argwhere(frame)[0].tolist() for frame in frames[0]]  # the upper left corner
        [[0, 3], [1, 3], [2, 1]]
        """
        step = np.arange(steps)[:, None]
        corner = bounce(start[:, :, None], velocity[:, :, None], step, room=self.size - SIDE)  # (B, digits, T, 2)
        pixel = corner[..., None] + np.arange(SIDE)  # (B, digits, T, 2, 8)
        frames = np.zeros((len(images), steps, self.size, self.size), dtype=np.float32)
        which, when = np.arange(len(images))[:, None, None, None], np.arange(steps)[:, None, None]
        for digit in range(images.shape[1]):  # (B, T, 8, 8) pixels of one digit, which never overlap each other
            where = which, when, pixel[:, digit, :, 0, :, None], pixel[:, digit, :, 1, None, :]
            frames[where] = np.maximum(frames[where], images[:, digit, None])
        return frames

    def simulate(self, steps: int, *, seed: int) -> xr.DataArray:
        """One sequence, ``(time, channel, y, x)``: the first of ``batch(1, steps, seed=seed)``."""
        return xr.DataArray(
            self.batch(1, steps, seed=seed)[0].numpy(),
            dims=("time", "channel", "y", "x"),
            coords={
                "time": np.arange(steps),
                "channel": ["brightness"],
                "y": np.arange(self.size),
                "x": np.arange(self.size),
            },
            attrs={
                "units": "1",
                "long_name": "moving digits world",
                "licence": "CC BY 4.0",
                "source": "simulated from the digits in scikit-learn",
                "citation": "Alpaydin & Kaynak (1998), doi:10.24432/C50P49",
            },
        )

    def optimal_rmse(self, horizon: int) -> np.ndarray:
        """The smallest RMSE of a forecaster who knows each digit's box: 0 at leads 1 to ``horizon``."""
        return np.zeros(horizon)


def _images() -> np.ndarray:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("MovingDigits takes its digits from scikit-learn, which is not installed here") from None
    return (load_digits().images / 16).astype(np.float32)
