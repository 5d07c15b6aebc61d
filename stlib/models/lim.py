"""Linear inverse model: a field's leading patterns as one linear system that noise keeps going."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from stlib.models._estimates import reserve, unfitted
from stlib.models.baselines import carry_forward


class TauTest(NamedTuple):
    """How far the field's covariance at longer lags is from what the model expects, as a share of that at lag 0."""

    lag: Tensor  # (K,), in steps
    distance: Tensor  # (K,)
    limit: Tensor  # (K,), what one in twenty records of the model itself would exceed


class LIM(nn.Module):
    r"""Linear inverse model: the linear dynamics of a field, read off its covariance now and ``lag`` steps later.

    .. math:: \frac{da}{dt} = B a + \xi, \qquad B = \frac1{\tau_0} \log\big( C_{\tau_0} C_0^{-1} \big), \qquad
       \hat a_{t+h \mid t} = e^{B h} a_t

    :math:`a` are the amplitudes of the field's ``modes`` leading patterns (EOFs) about its training mean,
    :math:`C_\tau = \operatorname{mean} a_{t+\tau} a_t^\top`, and :math:`\tau_0` is ``lag``. What the patterns do not
    hold is forecast as 0. With ``lag=1`` and steps of whole numbers this is a vector autoregression of one lag in the
    space of the patterns; B also says how fast each mode of the system decays and turns. Turns of a period shorter than
    two lags cannot be told from slower ones: B takes the slowest.

    After the fit ``patterns`` ``(modes, C, *S)`` carry the amplitudes to the field (orthonormal without weights,
    their largest value positive),
    ``dynamics`` (modes, modes) is B, in 1 / step, ``covariance`` :math:`C_0`, and ``forcing`` the covariance
    :math:`Q = -(B C_0 + C_0 B^\top)` of the noise that keeps :math:`C_0` going, in squared units a step. Nothing forces
    the Q of an estimate to be a covariance: its negative eigenvalues are set to 0 and the others scaled to keep their
    sum; ``negative`` is the share of the sum of absolute eigenvalues that was below 0. Forecasts do not use Q.

    A step enters the patterns if it is complete, a pair of steps the covariances if both are. A cell that is never
    observed is left out, its forecast is NaN. In ``forward`` a missing cell of the last step carries its last observed
    value; with none it counts as its mean, and its forecast is NaN.

    Shapes: ``fit(series (T, C, *S), weights (*S))``, then ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``, any T.
    ``weights`` say how much a place counts in the patterns, such as its area. Standardise channels of different units.
    Raises ValueError for ``modes``, ``lag`` or ``horizon`` below 1, no or infinite values, weights not positive and
    finite, more modes than the field has patterns or fewer than ``modes`` + 2 complete pairs, a
    :math:`C_{\tau_0} C_0^{-1}` with an eigenvalue of 0 or below, which has no real logarithm (take fewer modes or a
    shorter lag), or with modes too alike, a past of another size or infinite, a state of other ``modes``, and use
    before ``fit``.
    Source: Penland & Sardeshmukh (1995), doi:10.1175/1520-0442(1995)008<1999:TOGOTS>2.0.CO;2.
    Deviations: :math:`C_0` is taken over the first steps of the pairs, so that :math:`C_{\tau_0} C_0^{-1}` is the
    least-squares regression; the covariance that Q keeps going is that of all steps.

    >>> noise = torch.randn(3000, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> x = noise.clone()
    >>> for t in range(1, 3000):
    ...     x[t] += x[t - 1] * torch.tensor([0.9, 0.5])
    >>> model = LIM(modes=2, horizon=3).fit(x)
    >>> [round(decay.exp().item(), 1) for decay in model.eigenvalues().real]
    [0.9, 0.5]
    """

    def __init__(self, *, modes: int, horizon: int, lag: int = 1):
        super().__init__()
        if min(modes, horizon, lag) < 1:
            raise ValueError(f"modes, horizon and lag must be at least 1, got {modes}, {horizon} and {lag}")
        self.modes, self.horizon, self.lag = modes, horizon, lag
        reserve(self, ("mean", "patterns", "projection", "dynamics", "covariance", "forcing", "negative", "rest"))

    @torch.no_grad()
    def fit(self, series: Tensor, weights: Tensor | None = None) -> "LIM":
        if series.ndim < 2 or series.isinf().any():
            raise ValueError(f"series must be (T, C, *S), finite or NaN, got shape {tuple(series.shape)}")
        if series.isnan().all():  # or without a step, a channel or a place
            raise ValueError(f"series must hold observed values, got none in shape {tuple(series.shape)}")
        x = series.double()
        cells = x.shape[1:]
        weights = x.new_ones(cells) if weights is None else weights.to(x).expand(cells)
        if not ((weights > 0) & weights.isfinite()).all():
            raise ValueError("weights must be positive and finite at every place")
        mean = x.nanmean(0)
        known = ~mean.isnan()
        root = weights.sqrt()[known]
        x = (x - mean).masked_fill((x - mean).abs() <= 1e-12 * mean.abs(), 0.0)  # the rounding of a constant
        x = x[:, known] * root  # (T, M)
        complete = ~x.isnan().any(1)
        pairs = int((complete[: -self.lag] & complete[self.lag :]).sum())
        if pairs < self.modes + 2:
            raise ValueError(
                f"modes={self.modes} needs {self.modes + 2} pairs of complete steps, lag={self.lag} apart, got {pairs} "
                f"in {len(x)} steps"
            )
        vectors = _leading(x[complete], self.modes)  # (modes, M)
        largest = vectors.gather(1, (vectors / root).abs().argmax(1, keepdim=True))
        vectors = vectors * largest.sign()  # the same on every machine
        amplitude = x @ vectors.T
        self.dynamics = _logarithm(_propagator(amplitude, self.lag)) / self.lag
        self.covariance = _covariance(amplitude, 0)
        self.forcing, self.negative = _noise(self.dynamics, self.covariance)
        rest = ((x - amplitude @ vectors)[complete] / root).square().mean(0)
        self.mean = mean
        self.patterns = _whole(vectors / root, known, torch.nan)
        self.projection = _whole(vectors * root, known, 0.0)
        self.rest = _whole(rest, known, torch.nan)
        return self

    def eigenvalues(self) -> Tensor:
        r"""Those of B, complex, (modes,), in 1 / step, the slowest to decay first.

        A mode of eigenvalue :math:`\beta` falls by 1/e in :math:`-1 / \operatorname{Re} \beta` steps and, if it is
        complex, turns once in :math:`2 \pi / \lvert \operatorname{Im} \beta \rvert` steps. A real part above 0 is a
        mode that grows: then the model is no stationary system, and its spread means nothing.
        """
        self._check_fitted()
        values = torch.linalg.eigvals(self.dynamics)
        return values[values.real.argsort(descending=True)]

    def propagator(self, steps: float) -> Tensor:
        """What ``steps`` steps make of the amplitudes, without noise: :math:`e^{B h}`, (modes, modes)."""
        self._check_fitted()
        return torch.linalg.matrix_exp(self.dynamics * steps)

    def amplitudes(self, past: Tensor) -> Tensor:
        """How much of each pattern each step holds: ``(B, T, C, *S)`` to (B, T, modes), gaps as in `forward`."""
        past = self._checked(past)
        departure = (carry_forward(past) - self.mean.to(past.dtype)).nan_to_num().flatten(2)
        return departure @ self.projection.flatten(1).T.to(past.dtype)

    def forward(self, past: Tensor) -> Tensor:
        past = self._checked(past)
        now = self.amplitudes(past)[:, -1]  # (B, modes)
        later = torch.stack([now @ self.propagator(h).T.to(now) for h in range(1, self.horizon + 1)], 1)
        forecast = self.mean.to(past.dtype) + torch.tensordot(later, self.patterns.to(past.dtype), 1)
        return forecast.masked_fill(past.isnan().all(1, keepdim=True), torch.nan)

    def distribution(self, past: Tensor) -> Normal:
        r"""The forecast with its spread: independent normals, ``(B, horizon, C, *S)``.

        The amplitudes have the covariance :math:`C_0 - e^{Bh} C_0 e^{B^\top h}`; what the patterns leave out adds its
        variance in the training part.
        """
        mean = self(past)
        patterns = self.patterns.flatten(1)
        spread = []
        for h in range(1, self.horizon + 1):
            covariance = self._error_covariance(h)
            spread.append((patterns * (covariance @ patterns)).sum(0).clamp_min(0))
        variance = torch.stack(spread).reshape(mean.shape[1:]) + self.rest
        return Normal(mean, variance.sqrt().to(mean.dtype).expand_as(mean), validate_args=False)

    def simulate(self, steps: int, *, draws: int = 1, seed: int = 0) -> Tensor:
        """Amplitudes of made-up records of the model itself, from its steady state on: (draws, steps, modes).

        Raises ValueError for fewer than 1 step or draw, and use before ``fit``.
        """
        self._check_fitted()
        if min(steps, draws) < 1:
            raise ValueError(f"steps and draws must be at least 1, got {steps} and {draws}")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(steps, draws, self.modes, generator=generator, dtype=torch.float64).to(self.dynamics)
        step, kick = self.propagator(1), _root(self._error_covariance(1))
        a = [noise[0] @ _root(self.covariance).T]
        for t in range(1, steps):
            a.append(a[-1] @ step.T + noise[t] @ kick.T)
        return torch.stack(a, 1)

    def tau_test(self, series: Tensor, *, lags: int, draws: int = 200, seed: int = 0) -> TauTest:
        r"""Does a model fitted at one lag foretell the covariance at longer ones, as a linear system would?

        .. math:: \lVert C_\tau - G^{\tau / \tau_0} C_0 \rVert_F \,/\, \lVert C_0 \rVert_F, \qquad
           G = C_{\tau_0} C_0^{-1}, \quad \tau = 2\tau_0, 3\tau_0, \dots

        A short record departs from its own model by chance. So the same is done to ``draws`` records of the same
        length, simulated by the model: ``limit`` is the distance that 5 % of them exceed at that lag. Where the
        distance is larger, the field is not such a system: it remembers in another way, is not linear, or has patterns
        that were left out.

        Shapes: ``series`` ``(T, C, *S)``, the training part, and ``lags``, the number of lags from :math:`2 \tau_0` on.
        Raises ValueError for fewer than 1 lag or draw, a series too short or of other cells, and use before ``fit``.
        Source: Penland & Sardeshmukh (1995), compare the B of several lags.
        Deviation: covariances are compared, which need no logarithm, and judged against the model's own records.
        """
        self._checked(series[None])
        longest = (lags + 1) * self.lag
        if lags < 1 or draws < 1 or len(series) < longest + self.modes + 2:
            raise ValueError(
                f"needs lags and draws of at least 1 and more than {longest + self.modes + 1} steps for a longest "
                f"lag of {longest}, got {lags}, {draws} and {len(series)} steps"
            )
        complete = ~series[:, ~self.mean.isnan()].isnan().any(1)
        pairs = int((complete[:-longest] & complete[longest:]).sum())
        if pairs < self.modes + 2:
            raise ValueError(f"needs {self.modes + 2} pairs of complete steps, {longest} apart, got {pairs}")
        amplitude = self.amplitudes(series[None].double())[0]
        amplitude = torch.where(complete[:, None], amplitude, torch.nan)
        made = self.simulate(len(series), draws=draws, seed=seed)
        made = torch.where(complete[:, None], made - made.mean(1, keepdim=True), torch.nan)
        lag = torch.arange(2, lags + 2, device=series.device) * self.lag
        distance, chance = (_distances(a, self.lag, lags) for a in (amplitude, made))
        return TauTest(lag, distance, chance.quantile(0.95, dim=1))

    def _error_covariance(self, steps: float) -> Tensor:
        step = self.propagator(steps)
        return self.covariance - step @ self.covariance @ step.T

    def _checked(self, past: Tensor) -> Tensor:
        self._check_fitted()
        if past.ndim < 3 or past.shape[1] < 1 or past.shape[2:] != self.mean.shape:
            raise ValueError(f"past must be (B, T, {', '.join(map(str, self.mean.shape))}), got {tuple(past.shape)}")
        if past.isinf().any():
            raise ValueError(f"the past holds {int(past.isinf().sum())} infinite values: make them missing first")
        return past if past.is_floating_point() else past.to(self.mean.dtype)

    def _check_fitted(self) -> None:
        if unfitted(self.rest):
            raise ValueError("this linear inverse model is not fitted yet: call fit(train.series) first")
        if len(self.dynamics) != self.modes:
            raise ValueError(f"the state loaded is of a fit with modes={len(self.dynamics)}, got modes={self.modes}")


def _leading(x: Tensor, modes: int) -> Tensor:
    """The first right singular vectors of ``x`` (T, M), as rows, from the products of its shorter side."""
    short = len(x) < x.shape[1]
    values, axes = torch.linalg.eigh(x @ x.T if short else x.T @ x)
    values, axes = values.flip(0)[:modes], axes.flip(1)[:, :modes]
    if len(values) == modes and values[-1] > 1e-6 * values[0]:  # squares: weaker patterns would lose too many digits
        return (axes.T @ x) / values.sqrt()[:, None] if short else axes.T
    _, strength, vectors = torch.linalg.svd(x, full_matrices=False)
    there = int((strength > 1e-10 * strength[0]).sum())
    if modes > there:
        raise ValueError(f"the field has {there} patterns that differ from 0, modes={modes} were asked for")
    return vectors[:modes]


def _covariance(a: Tensor, lag: int) -> Tensor:
    """The mean of a(t + lag) a(t)ᵀ over the pairs that are there, (..., T, k) to (..., k, k)."""
    later, now = a[..., lag:, :], a[..., : a.shape[-2] - lag, :]
    there = ~(later.isnan() | now.isnan()).any(-1, keepdim=True)
    count = there.sum(-2, keepdim=True)
    return torch.where(there, later, 0.0).mT @ torch.where(there, now, 0.0) / count


def _propagator(a: Tensor, lag: int) -> Tensor:
    """The regression of a(t + lag) on a(t), without a constant."""
    there = ~(a[..., lag:, :].isnan() | a[..., : a.shape[-2] - lag, :].isnan()).any(-1, keepdim=True)
    now = torch.where(there, a[..., : a.shape[-2] - lag, :], 0.0)
    later = torch.where(there, a[..., lag:, :], 0.0)
    return torch.linalg.solve(now.mT @ now, now.mT @ later).mT


def _distances(a: Tensor, lag: int, lags: int) -> Tensor:
    """At ``lags`` multiples of ``lag`` from the second on, (..., T, k) to (lags, ...)."""
    start, step = _covariance(a, 0), _propagator(a, lag)
    expected, found = step @ start, []
    for k in range(2, lags + 2):
        expected = step @ expected
        found.append(torch.linalg.matrix_norm(_covariance(a, k * lag) - expected))
    return torch.stack(found) / torch.linalg.matrix_norm(start)


def _logarithm(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eig(matrix)
    bad = (values.imag.abs() < 1e-12 * values.abs()) & (values.real <= 0)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(matrix)} modes change sign or vanish within the lag (eigenvalue "
            f"{values[bad][0].real.item():.3g} of C_tau C_0^-1), so B has no real logarithm: take fewer modes or a "
            "shorter lag"
        )
    found = torch.linalg.solve_ex(vectors.mT, torch.diag(values.log()) @ vectors.mT).result.mT.real
    if not torch.linalg.matrix_norm(torch.linalg.matrix_exp(found) - matrix) <= 1e-8 * torch.linalg.matrix_norm(matrix):
        raise ValueError("two modes of C_tau C_0^-1 are nearly the same, its logarithm is lost in rounding: take fewer")
    return found


def _noise(dynamics: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance of the forcing, made positive, and the share of it that was negative."""
    forcing = -(dynamics @ covariance + covariance @ dynamics.mT)
    values, axes = torch.linalg.eigh((forcing + forcing.mT) / 2)
    kept = values.clamp_min(0)
    scale = values.sum().clamp_min(0) / kept.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return axes @ torch.diag(kept * scale) @ axes.mT, (-values).clamp_min(0).sum() / values.abs().sum()


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root of a covariance, what rounding or estimation made negative set to 0."""
    values, axes = torch.linalg.eigh((covariance + covariance.mT) / 2)
    return (axes * values.clamp_min(0).sqrt()) @ axes.mT


def _whole(values: Tensor, known: Tensor, blank: float) -> Tensor:
    whole = values.new_full((*values.shape[:-1], *known.shape), blank)
    whole[..., known] = values
    return whole
