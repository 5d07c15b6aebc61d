"""Recursive forecasts: a network that says one step and is fed its own words to say the next."""

import torch
from torch import Tensor, nn

from stlib.models._checks import check_among, check_positive
from stlib.models._grid import last_value
from stlib.models._sampling import ScheduledSampling, check_truth
from stlib.models._sequence import from_rows, known_ahead, sequences, to_rows, width, with_calendar
from stlib.models.recurrent import CELLS


class Recursive(nn.Module):
    r"""A recurrent network that forecasts one step, takes the forecast as if it had been observed, and goes on.

    .. math:: \hat x_{t+h} = \tilde x_{t+h-1} + W z_{t+h-1} + b, \qquad
              z_{t+h-1} = \mathrm{cell}(\tilde x_{t+h-1}, z_{t+h-2})

    Up to the origin :math:`\tilde x` is what was observed. After it, :math:`\tilde x` is the network's own forecast
    (free-running). While `stlib.training.fit.fit` trains, it also gives the ``truth``, and each :math:`\tilde x` is a
    throw of a coin: the true value with probability :math:`s`, else the network's own (scheduled sampling). After
    :math:`k` training batches

    .. math:: s = d / (d + e^{k / d})

    with the number of batches :math:`d` given as ``decay``. ``decay=math.inf`` always takes the truth (teacher
    forcing), ``decay=0`` never. A missing truth is replaced by the network's own word. Each sequence, that is each
    window and, with ``places=1``, each place, throws its own coin at each step.

    ``places``, masks, ``cycles`` and the last observed value: as in `stlib.models.recurrent.Recurrent`.

    Shapes: ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``; ``calendar (B, T + horizon, 4)``, needed with ``cycles`` and
    else ignored; ``truth`` as the forecast.
    Raises ValueError for an unknown cell or cycle, sizes below 1, a negative ``decay``, a past, truth or calendar of
    another shape, and ``cycles`` without a calendar.
    Source: Bengio et al. (2015), doi:10.48550/arXiv.1506.03099. Deviation: values in place of words.

    >>> model = Recursive(channels=1, horizon=14, hidden=32)
    >>> model(torch.zeros(2, 28, 1, 20)).shape, sum(weight.numel() for weight in model.parameters())
    (torch.Size([2, 14, 1, 20]), 4641)
    """

    def __init__(
        self,
        *,
        channels: int,
        horizon: int,
        hidden: int = 64,
        layers: int = 1,
        cell: str = "lstm",
        places: int = 1,
        decay: float = 100.0,
        cycles: tuple[str, ...] = (),
    ):
        super().__init__()
        check_among("cell", cell, CELLS)
        check_positive(horizon=horizon, hidden=hidden, layers=layers)
        self.channels, self.horizon, self.places, self.cycles = channels, horizon, places, cycles
        self.cell = CELLS[cell](width(channels, places, cycles), hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, channels * places)
        self.sampling = ScheduledSampling(decay)

    def forward(self, past: Tensor, calendar: Tensor | None = None, truth: Tensor | None = None) -> Tensor:
        options = {"channels": self.channels, "places": self.places, "cycles": self.cycles}
        states, memory = self.cell(sequences(past, calendar, **options))
        now = to_rows(last_value(past), self.places)  # (rows, 1, C)
        known = None
        if self.cycles:
            known = known_ahead(calendar, self.cycles, past, self.horizon)[:, past.shape[1] :]
        shown = None
        if truth is not None:
            check_truth(truth, past, self.horizon)
            shown = self.sampling(to_rows(truth, self.places))
        forecasts = []
        for step in range(self.horizon):
            now = now + self.head(states[:, -1:])
            forecasts.append(now)
            if step + 1 == self.horizon:
                break
            if shown is not None:
                now = torch.where(shown[:, step, None].isnan(), now, shown[:, step, None])
            seen = torch.cat([now, torch.ones_like(now)], -1)
            if known is not None:
                seen = with_calendar(seen, known[:, step, None])
            states, memory = self.cell(seen, memory)
        return from_rows(torch.cat(forecasts, 1), self.channels, past, self.places)
