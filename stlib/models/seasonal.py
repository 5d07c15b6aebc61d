"""A network that sees and forecasts departures from the last season, a step or a whole season at a time."""

import torch
from torch import Tensor, nn

from stlib._forward import asks_for
from stlib.models._grid import last_value
from stlib.models._sampling import check_truth
from stlib.models.baselines import SeasonalPersistence

HANDED_ON = ("calendar", "regressors", "truth")


class Seasonal(nn.Module):
    r"""Let a forecaster work on departures from the last season, and add that season to what it says.

    .. math:: y_{t-\tau} = (x_{t-\tau} - u_{t-\tau}) / s, \qquad \hat x_{t+h \mid t} = u_{t+h} + s\, \hat y_{t+h \mid t}

    :math:`u` repeats the last season of :math:`m` steps before the origin over past and future, :math:`m` is
    ``season``, and :math:`s` is ``spread``, the usual size of a departure. A cycle that is many times larger than what
    a network has to learn hides it; here the cycle is gone from input and output, as the level is in
    `stlib.models.linear.NLinear`. A missing value of the last season is replaced by the one a season earlier still,
    then by the last observed value, then by 0.

    With ``fold=True`` a whole season is one step of the network and its phases are channels: the network, with
    ``channels`` :math:`m C` and ``horizon`` :math:`\lceil L / m \rceil`, then sees ``T // m`` steps, and no calendar.

    Shapes: ``(B, T, C, *S)`` with ``T >= season`` to ``(B, horizon, C, *S)``; ``calendar (B, T + horizon, 4)``,
    ``regressors (B, T + horizon, K)`` and, in training, ``truth`` are handed on to a network that asks for them.
    Raises ValueError for a season, horizon or spread that is not positive, a folded network that asks for ``truth`` or
    ``regressors``, a past shorter than one season, a truth of another shape than the forecast, and a network that
    forecasts another number of steps.
    Source: the level taken out in this way: Zeng et al. (2023), doi:10.1609/aaai.v37i9.26317. Deviation: a season in
    place of the last value.

    >>> from stlib.models.recurrent import Recurrent
    >>> weekly = Seasonal(Recurrent(channels=7, horizon=2), horizon=14, season=7, fold=True)
    >>> weekly(torch.zeros(2, 56, 1, 20)).shape
    torch.Size([2, 14, 1, 20])
    """

    def __init__(self, model: nn.Module, *, horizon: int, season: int, fold: bool = False, spread: float = 1.0):
        super().__init__()
        if min(horizon, season) < 1 or not spread > 0:
            raise ValueError(f"horizon, season and spread must be positive, got {horizon}, {season} and {spread}")
        self.model, self.horizon, self.season, self.fold, self.spread = model, horizon, season, fold, spread
        self.usual = SeasonalPersistence(horizon=season, season=season)
        self.hands_on = {name for name in HANDED_ON if asks_for(model, name)}
        if fold and (lost := self.hands_on - {"calendar"}):
            raise ValueError(f"a folded network cannot be given {' or '.join(sorted(lost))}, which it asks for")

    def forward(
        self,
        past: Tensor,
        calendar: Tensor | None = None,
        regressors: Tensor | None = None,
        truth: Tensor | None = None,
    ) -> Tensor:
        m, steps = self.season, past.shape[1]
        if truth is not None:
            check_truth(truth, past, self.horizon)
        usual = self.usual(past)
        usual = torch.where(usual.isnan(), last_value(past), usual)
        phase = torch.arange(-steps, self.horizon, device=past.device) % m
        departures = (past - usual[:, phase[:steps]]) / self.spread
        ahead = usual[:, phase[steps:]]
        told = None if truth is None else (truth - ahead) / self.spread
        known = dict(zip(HANDED_ON, (calendar, regressors, told), strict=True))
        known = {name: value for name, value in known.items() if name in self.hands_on and value is not None}
        if self.fold:
            whole = departures[:, steps % m :].unflatten(1, (steps // m, m))  # (B, T // m, m, C, *S)
            said = self.model(whole.flatten(2, 3))
            _check_steps(said, -(-self.horizon // m))
            said = said.unflatten(2, (m, past.shape[2])).flatten(1, 2)[:, : self.horizon]
        else:
            said = self.model(departures, **known)
            _check_steps(said, self.horizon)
        return ahead + self.spread * said


def _check_steps(said: Tensor, due: int) -> None:
    if said.shape[1] != due:
        raise ValueError(f"the network inside must forecast {due} steps, got {said.shape[1]}")
