"""ConvLSTM: a memory at every place that also reads its neighbours."""

from collections import deque

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlib.models._checks import check_among, check_positive
from stlib.models._grid import Conv2d, beyond_the_edge, last_value, values_and_mask
from stlib.models._sampling import ScheduledSampling, check_truth

CELLS = ("lstm", "gru")


class ConvLSTMCell(nn.Module):
    r"""One step of an LSTM in which every product with a weight matrix is a convolution.

    .. math::
        i_t &= \sigma(\kappa_{xi} \star x_t + \kappa_{zi} \star z_{t-1} + w_i \odot c_{t-1} + b_i) \\
        f_t &= \sigma(\kappa_{xf} \star x_t + \kappa_{zf} \star z_{t-1} + w_f \odot c_{t-1} + b_f) \\
        g_t &= \tanh(\kappa_{xg} \star x_t + \kappa_{zg} \star z_{t-1} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(\kappa_{xo} \star x_t + \kappa_{zo} \star z_{t-1} + w_o \odot c_t + b_o) \\
        z_t &= o_t \odot \tanh(c_t)

    All eight kernels lie in one convolution: its input is the frame with the hidden state after it, its output the
    gates :math:`i, f, g, o`, in the order of `torch.nn.LSTM`. ``edge`` is what it sees beyond the edge, as in the other
    networks on grids: ``"zeros"``, ``"replicate"``, ``"periodic"`` or ``"periodic columns"``. ``peepholes=True`` adds
    the terms with :math:`w`.

    Shapes: a frame ``(B, C, H, W)`` and the state ``(z, c)``, each ``(B, hidden, H, W)`` and 0 where none is given, to
    the next state ``(z, c)``.
    Raises ValueError for a frame or a state of another shape, an even kernel and an unknown edge.
    Source: Shi et al. (2015), doi:10.48550/arXiv.1506.04214, eq. 3.
    Deviation: a peephole is one number for a hidden channel, where the paper has one for each place as well, which ties
    a network to one size of map; it starts at 0. The bias of the forget gate starts at 1, so that memory is kept at
    first.

    >>> z, c = ConvLSTMCell(channels=3, hidden=8)(torch.zeros(2, 3, 5, 7))
    >>> z.shape
    torch.Size([2, 8, 5, 7])
    """

    def __init__(self, *, channels: int, hidden: int, kernel: int = 3, peepholes: bool = False, edge: str = "zeros"):
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.conv = Conv2d(channels + hidden, 4 * hidden, kernel=kernel, edge=edge)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden, 1, 1)) if peepholes else None  # of i, f and o
        with torch.no_grad():
            self.conv.conv.bias[hidden : 2 * hidden] = 1.0

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        step = self.gates(x, state)
        return step["hidden"], step["cell"]

    def gates(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """The gates and the next state of one step: ``input``, ``forget``, ``candidate``, ``output``, ``cell`` and
        ``hidden``, each ``(B, hidden, H, W)``."""
        z, c = _state(self, x, (None, None) if state is None else state)
        i, f, g, o = _convolve(self.conv, x, None if state is None else z).chunk(4, 1)
        if self.peepholes is not None:
            i, f = i + self.peepholes[0] * c, f + self.peepholes[1] * c
        i, f, g = i.sigmoid(), f.sigmoid(), g.tanh()
        c = f * c + i * g
        o = (o if self.peepholes is None else o + self.peepholes[2] * c).sigmoid()
        return {"input": i, "forget": f, "candidate": g, "output": o, "cell": c, "hidden": o * c.tanh()}


class ConvGRUCell(nn.Module):
    r"""One step of a GRU in which every product with a weight matrix is a convolution.

    .. math::
        u_t &= \sigma(\kappa_{xu} \star x_t + \kappa_{zu} \star z_{t-1} + b_u) \\
        r_t &= \sigma(\kappa_{xr} \star x_t + \kappa_{zr} \star z_{t-1} + b_r) \\
        g_t &= \tanh(\kappa_{xg} \star x_t + \kappa_{zg} \star (r_t \odot z_{t-1}) + b_g) \\
        z_t &= (1 - u_t) \odot z_{t-1} + u_t \odot g_t

    It has no cell state, and three quarters of the weights of `ConvLSTMCell`.

    Shapes: a frame ``(B, C, H, W)`` and the hidden state ``(B, hidden, H, W)``, 0 where none is given, to the next
    hidden state.
    Raises ValueError for a frame or a state of another shape, an even kernel and an unknown edge.
    Source: Ballas et al. (2016), doi:10.48550/arXiv.1511.06432.
    Deviation: biases, which the paper leaves out. `torch.nn.GRU` multiplies by :math:`r_t` after the product with
    :math:`z_{t-1}`, so the two differ also for ``kernel=1``.

    >>> ConvGRUCell(channels=3, hidden=8)(torch.zeros(2, 3, 5, 7)).shape
    torch.Size([2, 8, 5, 7])
    """

    def __init__(self, *, channels: int, hidden: int, kernel: int = 3, edge: str = "zeros"):
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.conv = Conv2d(channels + hidden, 2 * hidden, kernel=kernel, edge=edge)
        self.candidate = Conv2d(channels + hidden, hidden, kernel=kernel, edge=edge)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return self.gates(x, state)["hidden"]

    def gates(self, x: Tensor, state: Tensor | None = None) -> dict[str, Tensor]:
        """The gates and the next state of one step: ``update``, ``reset``, ``candidate`` and ``hidden``, each
        ``(B, hidden, H, W)``."""
        (z,) = _state(self, x, (state,))
        u, r = _convolve(self.conv, x, None if state is None else z).sigmoid().chunk(2, 1)
        g = _convolve(self.candidate, x, None if state is None else r * z).tanh()
        return {"update": u, "reset": r, "candidate": g, "hidden": z + u * (g - z)}


class ConvLSTM(nn.Module):
    r"""Encoder and forecaster: one stack of cells reads the past, a second one starts from its states and goes on.

    .. math::
        s_\tau &= \mathrm{encoder}(x_\tau, s_{\tau-1}) \\
        s_{t+h} &= \mathrm{forecaster}(\hat x_{t+h-1 \mid t}, s_{t+h-1}) \\
        \hat x_{t+h \mid t} &= \hat x_{t+h-1 \mid t} + \kappa \star z_{t+h}, \qquad \hat x_{t \mid t} = x_t

    :math:`s` holds the states of ``layers`` cells, one on top of the other, :math:`z` all their hidden states, and
    :math:`\kappa` has sides of 1. With ``feedback=False`` the forecaster sees nothing, and its changes count from
    :math:`x_t`. The last kernel starts at 0, so an untrained network is `stlib.models.baselines.Persistence`. Missing
    cells enter as 0 with a mask beside; :math:`x_t` is the last observed value.

    ``cell`` is ``"lstm"`` or ``"gru"``. With ``kernel=1`` it is one LSTM at every place, which knows nothing of the
    places next to it. The number of steps may differ from ``horizon`` at call time: ``model(past, horizon=20)``.

    Given the ``truth``, as `stlib.training.fit.fit` does in training, each window throws a coin before each lead, and
    the forecaster sees the true frame with probability :math:`s`, else its own (scheduled sampling). After :math:`k`
    training batches

    .. math:: s = d / (d + e^{k / d})

    with :math:`d` given as ``decay``. ``decay=math.inf`` always takes the truth (teacher forcing); ``decay=0``, the
    default, never does. A missing truth is replaced by the network's own forecast.

    Shapes: ``(B, T, C, H, W)``, any ``T``, ``H`` and ``W`` of at least 1, to ``(B, horizon, C, H, W)``.
    Raises ValueError for a past or truth of another shape, sizes below 1, an unknown cell, peepholes of a GRU, a
    negative ``decay``, and a positive one without feedback.
    Source: Shi et al. (2015), doi:10.48550/arXiv.1506.04214, section 3.2; scheduled sampling: Bengio et al. (2015),
    doi:10.48550/arXiv.1506.03099.
    Deviation: the network forecasts changes, and sees its last forecast, where the paper's sees nothing.

    >>> model = ConvLSTM(channels=1, horizon=4, hidden=8)
    >>> sum(parameter.numel() for parameter in model.parameters())
    5545
    >>> model(torch.rand(2, 6, 1, 9, 7)).shape
    torch.Size([2, 4, 1, 9, 7])
    """

    def __init__(
        self,
        *,
        channels: int,
        horizon: int,
        hidden: int = 32,
        layers: int = 1,
        kernel: int = 3,
        cell: str = "lstm",
        peepholes: bool = False,
        edge: str = "zeros",
        feedback: bool = True,
        decay: float = 0.0,
    ):
        super().__init__()
        check_among("cell", cell, CELLS)
        check_positive(channels=channels, horizon=horizon, hidden=hidden, layers=layers)
        if peepholes and cell == "gru":
            raise ValueError('peepholes look at the cell state, which cell="gru" does not have')
        if decay and not feedback:
            raise ValueError(f"decay must be 0 for feedback=False, where no truth is shown, got {decay}")
        self.channels, self.horizon, self.feedback = channels, horizon, feedback
        options = {"hidden": hidden, "kernel": kernel, "edge": edge} | ({"peepholes": peepholes} if peepholes else {})
        kind = ConvLSTMCell if cell == "lstm" else ConvGRUCell
        above = [hidden] * (layers - 1)
        self.encoder = nn.ModuleList(kind(channels=c, **options) for c in [2 * channels, *above])
        self.forecaster = nn.ModuleList(kind(channels=c, **options) for c in [channels * feedback, *above])
        self.head = nn.Conv2d(layers * hidden, channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.sampling = ScheduledSampling(decay)

    def forward(self, past: Tensor, truth: Tensor | None = None, *, horizon: int | None = None) -> Tensor:
        return self._run(past, horizon, truth)

    @torch.no_grad()
    def states(self, past: Tensor, *, horizon: int | None = None) -> dict[str, Tensor]:
        """The gates and states at every step of the past and of the forecast, to look at as maps.

        Shapes: ``(B, T, C, H, W)`` to one tensor ``(B, T + horizon, layers, hidden, H, W)`` for each name that
        `ConvLSTMCell.gates` or `ConvGRUCell.gates` returns.
        """
        steps = []
        self._run(past, horizon, record=steps)
        return {
            name: torch.stack([torch.stack([layer[name] for layer in step], 1) for step in steps], 1)
            for name in steps[0][0]
        }

    def _run(
        self, past: Tensor, horizon: int | None, truth: Tensor | None = None, record: list | None = None
    ) -> Tensor:
        horizon = self.horizon if horizon is None else horizon
        check_positive(horizon=horizon)
        record = deque(maxlen=0) if record is None else record  # gates are kept only to be looked at
        if past.ndim != 5 or past.shape[1] < 1 or past.shape[2] != self.channels:
            raise ValueError(
                f"past must be (B, T, {self.channels}, H, W) with at least one step, got shape {tuple(past.shape)}"
            )
        states = [None] * len(self.encoder)
        for frame in values_and_mask(past).unbind(1):
            step, states = _upwards(self.encoder, frame, states)
            record.append(step)
        last, forecasts = last_value(past)[:, 0], []
        x = last
        shown = None
        if truth is not None:
            check_truth(truth, past, horizon)
            shown = self.sampling(truth)
        for lead in range(horizon):
            if lead and shown is not None:
                x = torch.where(shown[:, lead - 1].isnan(), x, shown[:, lead - 1])
            step, states = _upwards(self.forecaster, x if self.feedback else x[:, :0], states)
            record.append(step)
            x = (x if self.feedback else last) + self.head(torch.cat([layer["hidden"] for layer in step], 1))
            forecasts.append(x)
        return torch.stack(forecasts, 1)


def _upwards(cells: nn.ModuleList, x: Tensor, states: list) -> tuple[list[dict[str, Tensor]], list]:
    """One step of all layers, each of which reads the hidden state of the one below."""
    steps, after = [], []
    for cell, state in zip(cells, states, strict=True):
        step = cell.gates(x, state)
        x = step["hidden"]
        steps.append(step)
        after.append((x, step["cell"]) if "cell" in step else x)
    return steps, after


def _state(cell: nn.Module, x: Tensor, state: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """The state, 0 where none is given, of the shape that the frame asks for."""
    if x.ndim != 4 or x.shape[1] != cell.channels:
        raise ValueError(f"a frame must be (B, {cell.channels}, H, W), got shape {tuple(x.shape)}")
    due = (len(x), cell.hidden, *x.shape[2:])
    for given in state:
        if given is not None and given.shape != due:
            raise ValueError(f"the state must be {due} for this frame, got shape {tuple(given.shape)}")
    return tuple(x.new_zeros(due) if given is None else given for given in state)


def _convolve(conv: Conv2d, x: Tensor, z: Tensor | None) -> Tensor:
    """The convolution of a frame with the hidden state after it, as a sum of two.

    With 32 hidden channels a training step is shorter by an eighth than with the two joined first, since an observed
    frame needs no gradient (with 12 it is longer by a tenth). A state of 0 needs no convolution.
    """
    total, first = 0.0, 0
    for part in (x, z):
        if part is None or part.shape[1] == 0:
            continue
        weight, bias = conv.conv.weight[:, first : first + part.shape[1]], None if first else conv.conv.bias
        first += part.shape[1]
        if conv.edge == "zeros":
            total = total + F.conv2d(part, weight, bias, padding=conv.reach)
        else:
            total = total + F.conv2d(beyond_the_edge(part, conv.reach, conv.edge), weight, bias)
    return total
