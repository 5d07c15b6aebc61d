"""A training step of the recurrent networks, beside the same work written with plain torch.nn.

Work: forward, mean squared error, backward and one step of AdamW, for 64 windows of 20 places, each place on its own
(1280 sequences), one channel, 32 hidden channels, 14 steps ahead. The contestants start from the same weights and see
the same windows, so that their losses and their weights after the steps can be compared. Plain torch.nn is what a
reader would write without this package: nn.LSTM or nn.GRU over the values and a mask of ones, and nn.Linear.

"training step by length" is the same step for 4 windows (80 sequences) and pasts of several lengths, of the LSTM and of
the TCN with as many blocks as it takes to see the whole past. Times are for one step.
"""

from functools import partial

import torch
from torch import nn

from benchmarks.measure import Contestant, contest
from stlib.models.recurrent import Recurrent
from stlib.models.tcn import TCN, receptive_field

WINDOWS, PLACES, HORIZON, HIDDEN, PAST = 64, 20, 14, 32, 56
FEW_WINDOWS = 4
LENGTHS = (16, 64, 256, 1024)
STEPS = 5


class Plain(nn.Module):
    """The same network by hand."""

    def __init__(self, cell: str):
        super().__init__()
        self.cell = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](2, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, HORIZON)

    def forward(self, past):
        rows = past[:, :, 0].movedim(-1, 1).flatten(0, 1)[..., None]  # (B N, T, 1)
        states, _ = self.cell(torch.cat([rows, torch.ones_like(rows)], -1))
        forecast = rows[:, -1] + self.head(states[:, -1])
        return forecast.unflatten(0, (len(past), -1)).movedim(-1, 1)[:, :, None]


def prepare(make, past=PAST, windows=WINDOWS):
    torch.manual_seed(0)
    model = make()
    draws = torch.Generator().manual_seed(1)
    data = torch.randn(windows, past + HORIZON, 1, PLACES, generator=draws)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), data


def train(prepared):
    model, optimizer, data = prepared
    losses = []
    for _ in range(STEPS):
        loss = (model(data[:, :-HORIZON]) - data[:, -HORIZON:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def ours(cell):
    return Recurrent(channels=1, horizon=HORIZON, hidden=HIDDEN, cell=cell)


def long_memory(past):
    return ours("lstm")


def convolutions(past):
    blocks = next(n for n in range(1, 20) if receptive_field(3, n) >= past)
    return TCN(channels=1, horizon=HORIZON, hidden=HIDDEN, blocks=blocks)


def compare() -> list[dict]:
    rows = []
    for cell in ("lstm", "gru"):
        contestants = [
            Contestant("Recurrent", "stlib-book", partial(prepare, partial(ours, cell)), train),
            Contestant("torch.nn", "torch", partial(prepare, partial(Plain, cell)), train),
        ]
        measured, answers = contest(contestants, repetitions=7, pieces=STEPS)
        gap = max(abs(a - b) for a, b in zip(*answers, strict=True))
        labels = {"work": f"training step, {cell.upper()}", "past": PAST, "horizon": HORIZON}
        rows += [labels | row | {"largest_difference": gap} for row in measured]
    for length in LENGTHS:
        contestants = [
            Contestant(name, "stlib-book", partial(prepare, partial(make, length), length, FEW_WINDOWS), train)
            for name, make in (("LSTM", long_memory), ("TCN", convolutions))
        ]
        labels = {"work": "training step by length", "past": length, "horizon": HORIZON}
        rows += [labels | row for row in contest(contestants, repetitions=5, pieces=STEPS)[0]]
    return rows
