"""Recurrent networks: a state that is carried along, and gates that decide what stays."""

import math

import torch
from torch import Tensor, nn

from stlib.models._checks import check_among, check_positive
from stlib.models._grid import last_value
from stlib.models._sequence import from_rows, sequences, width

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class _Cell(nn.Module):
    """The weights of a cell, named and ordered as those of torch's cells, so that they can be copied over."""

    def __init__(self, inputs: int, hidden: int, gates: int):
        super().__init__()
        self.hidden = hidden
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(gates * hidden))
        self.bias_hh = nn.Parameter(torch.empty(gates * hidden))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def _sums(self, x: Tensor, z: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the input and what the state add to each gate."""
        of_input = x @ self.weight_ih.mT + self.bias_ih
        of_state = z @ self.weight_hh.mT + self.bias_hh
        return of_input.split(self.hidden, -1), of_state.split(self.hidden, -1)

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.hidden)


class RNNCell(_Cell):
    r"""The plain recurrent cell: the state is written anew at every step.

    .. math:: z_t = \tanh(W x_t + b + U z_{t-1} + b')

    Shapes: ``x (B, inputs)`` and ``state (B, hidden)``, or None for zeros, to the new state ``(B, hidden)``.
    Source: Elman (1990), doi:10.1207/s15516709cog1402_1. Names and order of the weights are those of
    ``torch.nn.RNNCell``.

    >>> RNNCell(inputs=3, hidden=8)(torch.zeros(2, 3)).shape
    torch.Size([2, 8])
    """

    def __init__(self, *, inputs: int, hidden: int):
        super().__init__(inputs, hidden, gates=1)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        (of_input,), (of_state,) = self._sums(x, self.start(x) if state is None else state)
        return torch.tanh(of_input + of_state)


class LSTMCell(_Cell):
    r"""Long short-term memory: a cell state that is only added to and scaled down, and three gates.

    .. math:: i, f, o = \sigma(W_{i,f,o}\, x_t + U_{i,f,o}\, z_{t-1} + b_{i,f,o}), \qquad
              g = \tanh(W_g x_t + U_g z_{t-1} + b_g)
    .. math:: c_t = f \odot c_{t-1} + i \odot g, \qquad z_t = o \odot \tanh(c_t)

    Here :math:`\sigma` is the logistic function, and :math:`b` the sum of the two biases.

    Shapes: ``x (B, inputs)`` and ``state``, the pair ``(z, c)`` of ``(B, hidden)`` or None for zeros, to the new pair.
    Source: Hochreiter & Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735; forget gate: Gers, Schmidhuber & Cummins
    (2000), doi:10.1162/089976600300015015. Names and order of the weights (i, f, g, o) are those of
    ``torch.nn.LSTMCell``.

    >>> z, c = LSTMCell(inputs=3, hidden=8)(torch.zeros(2, 3))
    >>> z.shape, sum(weight.numel() for weight in LSTMCell(inputs=3, hidden=8).parameters())
    (torch.Size([2, 8]), 416)
    """

    def __init__(self, *, inputs: int, hidden: int):
        super().__init__(inputs, hidden, gates=4)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        z, c = (self.start(x), self.start(x)) if state is None else state
        i, f, g, o = self.gates(x, z)
        c = f * c + i * g
        return o * torch.tanh(c), c

    def gates(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is let in, what is kept, the candidate, and what is shown: four of ``(B, hidden)``."""
        i, f, g, o = (a + b for a, b in zip(*self._sums(x, z), strict=True))
        return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()


class GRUCell(_Cell):
    r"""Gated recurrent unit: one gate :math:`u` shares the state between the old and a candidate.

    .. math:: r, u = \sigma(W_{r,u}\, x_t + b_{r,u} + U_{r,u}\, z_{t-1} + b'_{r,u}), \qquad
              g = \tanh(W_g x_t + b_g + r \odot (U_g z_{t-1} + b'_g))
    .. math:: z_t = (1 - u) \odot g + u \odot z_{t-1}

    Shapes: ``x (B, inputs)`` and ``state (B, hidden)``, or None for zeros, to the new state ``(B, hidden)``.
    Source: Cho et al. (2014), doi:10.3115/v1/D14-1179. Deviation: :math:`r` is applied after the product with
    :math:`U_g`, as in ``torch.nn.GRUCell``, whose names and order of the weights (r, u, g) these are.

    >>> GRUCell(inputs=3, hidden=8)(torch.zeros(2, 3)).shape
    torch.Size([2, 8])
    """

    def __init__(self, *, inputs: int, hidden: int):
        super().__init__(inputs, hidden, gates=3)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        z = self.start(x) if state is None else state
        _, u, g = self.gates(x, z)
        return (1 - u) * g + u * z

    def gates(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How much of the state the candidate sees, how much is kept, and the candidate: three of ``(B, hidden)``."""
        (r, u, g), (r_state, u_state, g_state) = self._sums(x, z)
        r = (r + r_state).sigmoid()
        return r, (u + u_state).sigmoid(), (g + r * g_state).tanh()


def unroll(cell: nn.Module, x: Tensor, state=None) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
    """Carry a cell along a sequence: the states of all steps, and the last state as the cell gives it.

    Shapes: ``x (B, T, inputs)`` to ``(B, T, hidden)`` and the last state.

    >>> states, last = unroll(GRUCell(inputs=1, hidden=4), torch.zeros(2, 7, 1))
    >>> states.shape, bool((states[:, -1] == last).all())
    (torch.Size([2, 7, 4]), True)
    """
    states = []
    for now in x.unbind(1):
        state = cell(now, state)
        states.append(state if torch.is_tensor(state) else state[0])
    return torch.stack(states, 1), state


class Recurrent(nn.Module):
    r"""Many steps in, all leads out at once: an RNN, LSTM or GRU over the past and a linear map of its last state.

    .. math:: \hat x_{t+h \mid t} = x_t + W_h z_t + b_h, \qquad z_\tau = \mathrm{cell}(x_\tau, z_{\tau-1})

    With ``attention=True`` the map also sees a mean of all states, weighted by their likeness to the last one:
    :math:`\sum_\tau a_\tau z_\tau` with :math:`a = \operatorname{softmax}_\tau(z_\tau^\top A z_t / \sqrt D)`.

    ``places=1`` shares one network among all places, each seen on its own; ``places=N`` gives all N places to one
    network as its inputs. Each step brings its values (0 where missing), a mask (1 where observed), and the calendar of
    the step after it: the columns that ``cycles`` names ("month", "weekday", "hour", "day_of_year"). :math:`x_t` is
    the last observed value; a place that was never observed starts from 0. ``dropout`` acts before the map and, with
    several ``layers``, between them.

    Shapes: ``(B, T, C, *S)`` for any ``T`` of at least 1 to ``(B, horizon, C, *S)``; ``calendar (B, T + horizon, 4)``,
    needed with ``cycles`` and else ignored.
    Raises ValueError for an unknown cell or cycle, sizes below 1, a past or calendar of another shape, and ``cycles``
    without a calendar.
    Source: as `RNNCell`, `LSTMCell` and `GRUCell`; attention: Luong, Pham & Manning (2015), doi:10.18653/v1/D15-1166,
    "general". Deviation: likenesses are divided by :math:`\sqrt D`, and no tanh after the weighted mean.

    >>> model = Recurrent(channels=1, horizon=14, hidden=32)
    >>> model(torch.zeros(2, 28, 1, 20)).shape, sum(weight.numel() for weight in model.parameters())
    (torch.Size([2, 14, 1, 20]), 5070)
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
        attention: bool = False,
        dropout: float = 0.0,
        cycles: tuple[str, ...] = (),
    ):
        super().__init__()
        check_among("cell", cell, CELLS)
        check_positive(horizon=horizon, hidden=hidden, layers=layers)
        self.channels, self.horizon, self.places, self.cycles = channels, horizon, places, cycles
        between = dropout if layers > 1 else 0.0
        inputs = width(channels, places, cycles)
        self.cell = CELLS[cell](inputs, hidden, layers, batch_first=True, dropout=between)
        self.likeness = nn.Linear(hidden, hidden, bias=False) if attention else None
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(hidden * (2 if attention else 1), horizon * channels * places)

    def forward(self, past: Tensor, calendar: Tensor | None = None) -> Tensor:
        states = self._states(past, calendar)
        seen = states[:, -1]
        if self.likeness is not None:
            mean = (self._weights(states)[..., None] * states).sum(1)
            seen = torch.cat([seen, mean], -1)
        change = self.head(self.drop(seen)).unflatten(-1, (self.horizon, -1))
        return last_value(past) + from_rows(change, self.channels, past, self.places)

    def states(self, past: Tensor, calendar: Tensor | None = None) -> Tensor:
        """The hidden state after each step: ``(B, T, hidden, *S)``, or ``(B, T, hidden)`` for ``places=N``."""
        states = self._states(past, calendar)
        return from_rows(states, states.shape[-1], past, 1) if self.places == 1 else states

    def attention_weights(self, past: Tensor, calendar: Tensor | None = None) -> Tensor:
        """How much each step counts in the weighted mean: ``(B, T, *S)``, or ``(B, T)`` for ``places=N``; sums to 1."""
        if self.likeness is None:
            raise ValueError("this network has no attention: make it with attention=True")
        weights = self._weights(self._states(past, calendar))
        return from_rows(weights[..., None], 1, past, 1)[:, :, 0] if self.places == 1 else weights

    def _states(self, past: Tensor, calendar: Tensor | None) -> Tensor:
        options = {"channels": self.channels, "places": self.places, "cycles": self.cycles}
        return self.cell(sequences(past, calendar, **options))[0]

    def _weights(self, states: Tensor) -> Tensor:
        query = self.likeness(states[:, -1])
        return torch.softmax((states @ query[..., None])[..., 0] / math.sqrt(states.shape[-1]), 1)


def gradient_by_lag(model: nn.Module, past: Tensor, calendar: Tensor | None = None, *, lead: int = 1) -> Tensor:
    r"""How strongly a forecast hangs on each step of the past: the size of its derivative, by lag.

    .. math:: G_\tau = \Big( \operatorname{mean} \big\| \partial \hat x_{t+h \mid t} / \partial x_{t-\tau} \big\|^2
              \Big)^{1/2}

    The norm is that of the matrix with a row for each channel and place of the forecast and a column for each of the
    past; the mean is over windows and rows. It costs one backward pass a row.

    Shapes: ``past (B, T, C, *S)`` to ``(T,)``, lag 0 first.
    Raises ValueError for a lead beyond the forecast.

    >>> from stlib.models.baselines import Persistence
    >>> gradient_by_lag(Persistence(horizon=2), torch.ones(1, 3, 1)).tolist()
    [1.0, 0.0, 0.0]
    """
    past = past.detach().clone().requires_grad_()
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # it refuses recurrent layers in eval mode
        forecast = model(past) if calendar is None else model(past, calendar)
        if not 1 <= lead <= forecast.shape[1]:
            raise ValueError(f"lead must be from 1 to {forecast.shape[1]}, got {lead}")
        rows = forecast[:, lead - 1].flatten(1).sum(0)  # windows do not touch each other: all at once
        rows = rows + 0 * past.nan_to_num().sum()  # so that a forecast that ignores the past has a gradient too
        squares = sum(
            torch.autograd.grad(row, past, retain_graph=True)[0].flatten(2).square().sum((0, 2)) for row in rows
        )
    return (squares / (len(past) * len(rows))).sqrt().flip(0)
