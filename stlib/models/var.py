"""Vector autoregression: every variable from the last values of all, and what each knows about the others."""

from typing import NamedTuple

import torch
from scipy.special import chdtrc, fdtrc
from torch import Tensor, nn
from torch.distributions import Normal

from stlib.models._estimates import reserve, unfitted
from stlib.models._lagged import grouped, regression, spectral_radius, ungrouped
from stlib.models.baselines import carry_forward


class Causality(NamedTuple):
    """Granger tests of all ordered pairs: entry ``[g, i, j]`` asks whether j helps to forecast i."""

    statistic: Tensor  # (groups, K, K), NaN on the diagonal
    p_value: Tensor


class Criteria(NamedTuple):
    """Information criteria for 0, 1, ... lags, each ``(max_lags + 1, groups)``; the smallest is the best."""

    aic: Tensor
    bic: Tensor
    hqic: Tensor


class VAR(nn.Module):
    r"""Vector autoregression: each variable is a linear function of the last values of all variables.

    .. math:: x_t = b + \sum_{\tau=1}^{p} A_\tau x_{t-\tau} + \varepsilon_t, \qquad
       \operatorname{Cov} \varepsilon_t = \Sigma

    ``per`` says which variables see each other: ``"field"`` puts all channels and places into one system of K = C N
    variables, ``"place"`` gives each place its own system of K = C channels, ``"series"`` gives each series its own
    autoregression, K = 1. All systems ("groups") are fitted at once.

    The fit is least squares with an intercept. ``ridge`` :math:`\lambda` adds to the squared errors of variable i

    .. math:: \lambda \sum_\tau \Big(\sum_{j \ne i} g_{\tau j}\, A_{\tau,ij}^2 + \kappa\, g_{\tau i}\,A_{\tau,ii}^2\Big)

    where :math:`g_{\tau j}` is the sum of squares of that regressor about its mean, so that :math:`\lambda` means the
    same for any units and length. ``own`` :math:`\kappa` is the share that falls on a variable's own past: with 1 it is
    plain ridge, with 0 a large :math:`\lambda` leaves an autoregression of each variable alone.

    After the fit ``coefficients`` (groups, p, K, K) hold :math:`A_\tau`, ``intercept`` (groups, K) :math:`b`, ``noise``
    (groups, K, K) :math:`\Sigma` in squared units of the series, with the divisor ``rows`` - 1 - (coefficients of an
    equation; for ridge their effective number, the trace of the hat matrix), and ``rows`` (groups,) the steps used.
    Variables are in the order of ``series.flatten(1)``.

    A step enters the fit if it and its ``lags`` predecessors are complete in the whole group. A variable that is never
    observed is left out: its forecast is NaN and the others do without it. One that never varies is no regressor, and
    its forecast is its value. A group with no more complete steps than coefficients, or with variables that are nearly
    copies of others or of their combinations (what is left is 1e-9 of the variation, for a series in single precision
    1e-6), cannot be fitted without ridge: its coefficients and forecasts are NaN.

    In ``forward`` a missing step is replaced by the model's own forecast of it from the steps before; the first
    ``lags`` steps carry observed values. A variable with nothing observed in the past counts as its training mean and
    is forecast as NaN.

    Shapes: ``fit(series (T, C, *S))``, then ``(B, T, C, *S)`` with ``T >= lags`` to ``(B, horizon, C, *S)``.
    Raises ValueError for an unknown ``per``, ``lags`` or ``horizon`` below 1, a negative penalty, infinite values, a
    series in which no group can be fitted, a past that is too short or of another size, a state of other ``lags``, and
    use before ``fit``.
    Source: Lütkepohl (2005), New Introduction to Multiple Time Series Analysis, doi:10.1007/978-3-540-27752-1, chapters
    2 and 3; ridge: Hoerl & Kennard (1970), doi:10.1080/00401706.1970.10488634; a lighter penalty on a variable's own
    past: Litterman (1986), doi:10.1080/07350015.1986.10509491.
    Deviation: that prior shrinks towards a random walk, this penalty towards the mean.

    >>> noise = torch.randn(2000, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> x = noise.clone()
    >>> for t in range(1, 2000):
    ...     x[t, 0, 0] += 0.5 * x[t - 1, 0, 0] + 0.4 * x[t - 1, 0, 1]
    >>> model = VAR(lags=1, horizon=3).fit(x)
    >>> [[round(a, 1) + 0.0 for a in row] for row in model.coefficients[0, 0].tolist()]
    [[0.5, 0.4], [0.0, 0.0]]
    """

    def __init__(self, *, lags: int, horizon: int, ridge: float = 0.0, own: float = 1.0, per: str = "field"):
        super().__init__()
        if per not in ("field", "place", "series"):
            raise ValueError(f'per must be "field", "place" or "series", got {per!r}')
        if lags < 1 or horizon < 1 or not 0 <= ridge < torch.inf or not 0 <= own <= 1:
            raise ValueError(
                "needs lags and horizon of at least 1, a finite ridge of at least 0 and own from 0 to 1, "
                f"got {lags}, {horizon}, {ridge} and {own}"
            )
        self.lags, self.horizon, self.ridge, self.own, self.per = lags, horizon, ridge, own, per
        reserve(self, ("coefficients", "intercept", "mean", "noise", "rows", "freedom", "blocks"))

    @torch.no_grad()
    def fit(self, series: Tensor) -> "VAR":
        x, moments, found = regression(series, self.lags, per=self.per, ridge=self.ridge)
        mean, rows, root, varies, centre, factor, cross, squares, left, floor = found
        count, K = rows[:, None], mean.shape[1]
        failed = (left < floor[:, None]).any(1)
        factor = torch.where(failed[:, None, None], torch.eye(len(factor[0])).to(factor), factor)
        inverse = torch.cholesky_inverse(factor)
        slope = torch.linalg.solve_triangular(factor.mT, cross, upper=True)
        slope, used = self._own_past_freed(slope, inverse, varies[:, K:])
        freedom = count - 1 - used  # (G, K)
        failed = failed | (freedom <= 0.5).any(1) | mean.isnan().all(1)
        if failed.all():
            raise ValueError(self._why_not(x, rows, used))
        if self.ridge > 0:
            gram = moments.correlation
            right = gram[:, K:, :K]
            squares = gram[:, :K, :K] - slope.mT @ right - right.mT @ slope + slope.mT @ gram[:, K:, K:] @ slope
        squares = torch.where(varies[:, :K, None] & varies[:, None, :K], squares, 0.0)
        noise = squares * root[:, :K, None] * root[:, None, :K] / (freedom[:, :, None] * freedom[:, None]).sqrt()
        slope = (slope * root[:, None, :K] / root[:, K:, None]).unflatten(1, (self.lags, K))  # (G, p, K, K)
        centre = centre.unflatten(1, (self.lags + 1, K))  # mean over the rows used, of each lag
        intercept = centre[:, 0] - torch.einsum("gtji,gtj->gi", slope, centre[:, 1:])
        # The part of the inverse that belongs to the lags of each variable, for the Granger tests.
        blocks = (inverse / root[:, K:, None] / root[:, None, K:]).unflatten(2, (-1, K)).unflatten(1, (-1, K))
        blocks = blocks.diagonal(dim1=2, dim2=4).movedim(-1, 1)  # (G, K, p, p)
        unknown = mean.isnan()
        noise = noise.masked_fill(unknown[:, :, None] | unknown[:, None], torch.nan)
        intercept = intercept.masked_fill(unknown, torch.nan)
        self.mean, self.rows, self.freedom = mean, rows, freedom
        fitted = {"coefficients": slope.mT, "intercept": intercept, "noise": noise, "blocks": blocks}
        for name, value in fitted.items():
            value = value.masked_fill(failed.reshape(-1, *[1] * (value.ndim - 1)), torch.nan)
            setattr(self, name, value.contiguous())
        return self

    def _own_past_freed(self, slope: Tensor, inverse: Tensor, regressors: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients with the lighter penalty on each variable's own past, and their effective number (G, K).

        The matrix of equation i differs from the shared one in the p rows of its own lags: by Woodbury's formula.
        """
        G, M, K = slope.shape
        weight = self.ridge * regressors[:, None].expand(G, K, M).double()  # penalty on each regressor, by equation
        inverse_diagonal = inverse.diagonal(dim1=1, dim2=2)[:, None]
        if self.ridge > 0 and self.own < 1:
            # Without the lags of a constant, which no penalty has touched.
            column = (inverse * regressors[:, None]).unflatten(2, (self.lags, K)).movedim(-1, 1)  # (G, K, M, p)
            block = column.unflatten(2, (self.lags, K)).diagonal(dim1=1, dim2=3).movedim(-1, 1)  # (G, K, p, p)
            core = torch.eye(self.lags).to(block) / (self.ridge * (1 - self.own)) - block
            mine = slope.unflatten(1, (self.lags, K)).diagonal(dim1=2, dim2=3).mT  # (G, K, p)
            change = torch.linalg.solve(core, torch.cat([mine[..., None], column.mT], -1))  # (G, K, p, 1 + M)
            slope = slope + (column @ change[..., :1])[..., 0].mT
            inverse_diagonal = inverse_diagonal + (column * change[..., 1:].mT).sum(-1)
            lag_of = torch.arange(M, device=slope.device) % K == torch.arange(K, device=slope.device)[:, None]
            weight = torch.where(lag_of, self.own * weight, weight)
        return slope, regressors.sum(1, keepdim=True) - (weight * inverse_diagonal).sum(-1)

    def _why_not(self, x: Tensor, rows: Tensor, used: Tensor) -> str:
        observed = (~x.isnan()).sum(0)
        if self.ridge == 0:
            needed = f"more than {self.lags * x.shape[2] + 1} complete steps and no variables that are nearly copies"
            remedy = ", or set ridge above 0"
        else:
            size = 1 + float(used.amax(1).min())
            needed = (
                f"more complete steps than its coefficients count for under the penalty, intercept included: {size:.3g}"
            )
            remedy = ", or take a larger ridge" + (" or own above 0" if self.own == 0 else "")
        return (
            f"no group of {x.shape[2]} variables can be fitted with lags={self.lags} and ridge={self.ridge}: it needs "
            f"{needed}; of {len(x)} steps at most {int(rows.max())} are complete with their predecessors, and one "
            f"variable is observed at {int(observed.min())}. Take fewer lags, leave variables out, fill their gaps"
            + remedy
        )

    def forward(self, past: Tensor) -> Tensor:
        x = self._grouped(past)
        silent = x.isnan().all(1)
        x = self._completed(x)
        for _ in range(self.horizon):
            x = torch.cat([x, self._next(x)[:, None]], 1)
        unknown = silent | self.intercept.isnan()
        forecast = x[:, self.lags :].masked_fill(unknown[:, None], torch.nan)
        return ungrouped(forecast, past.shape[2:], self.per)

    def distribution(self, past: Tensor) -> Normal:
        """The forecast with its spread: independent normals, ``(B, horizon, C, *S)``, each with its exact variance.

        The errors of the variables are correlated; `forecast_covariance` has their joint covariance.
        """
        mean = self(past)
        variance = self.forecast_covariance().diagonal(dim1=2, dim2=3).movedim(0, 1)[None]  # (1, horizon, G, K)
        spread = ungrouped(variance.sqrt(), past.shape[2:], self.per).to(mean.dtype)
        return Normal(mean, spread.expand_as(mean), validate_args=False)

    def forecast_covariance(self) -> Tensor:
        r"""Covariance of the forecast errors: :math:`\sum_{k<h} \Psi_k \Sigma \Psi_k^\top`, (groups, horizon, K, K).

        That of a model whose coefficients are known, and of a past without gaps.
        """
        psi = self.responses(self.horizon - 1)
        covariance = (psi @ self.noise.nan_to_num()[:, None] @ psi.mT).cumsum(1)
        return covariance.masked_fill(self.noise.isnan()[:, None], torch.nan)

    def responses(self, steps: int, *, orthogonal: bool = False) -> Tensor:
        r"""Impulse responses: how each variable answers, 0 to ``steps`` steps later, to a push of another one.

        .. math:: \Psi_0 = I, \qquad \Psi_h = \sum_{\tau=1}^{\min(h, p)} A_\tau \Psi_{h-\tau}

        Shapes: (groups, steps + 1, K, K); ``[g, h, i, j]`` is the answer of i at lead h to a push of 1 unit of j. With
        ``orthogonal`` the pushes are the columns of the Cholesky factor of the noise, :math:`\Psi_h L`: one standard
        deviation each and uncorrelated, but what they are depends on the order of the variables. They are NaN where the
        noise of some variables determines that of another, as with fewer degrees of freedom than variables.
        Raises ValueError for negative ``steps`` and use before ``fit``.

        >>> x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> VAR(lags=1, horizon=1).fit(x).responses(2).shape
        torch.Size([1, 3, 2, 2])
        """
        self._check_fitted()
        if steps < 0:
            raise ValueError(f"steps must be at least 0, got {steps}")
        _, p, K, _ = self.coefficients.shape
        failed = self.coefficients.isnan().flatten(1).any(1)
        psi = [torch.eye(K).to(self.coefficients).where(~failed[:, None, None], torch.nan)]
        for h in range(1, steps + 1):
            psi.append(sum(self.coefficients[:, tau - 1] @ psi[h - tau] for tau in range(1, min(h, p) + 1)))
        psi = torch.stack(psi, 1)
        if orthogonal:
            scale = self.noise.diagonal(dim1=1, dim2=2).sqrt()
            moves = scale > 0  # a constant has no push
            both = moves[:, :, None] & moves[:, None]
            correlation = torch.where(both, self.noise / scale[:, :, None] / scale[:, None], torch.eye(K).to(scale))
            factor, failed = torch.linalg.cholesky_ex(correlation)
            failed = (failed > 0) | (factor.diagonal(dim1=1, dim2=2).square() < 1e-12).any(1)
            factor = torch.where(both, factor, 0.0) * scale.nan_to_num()[:, :, None]
            unknown = self.noise.isnan() | failed[:, None, None]
            psi = (psi @ factor[:, None]).masked_fill(unknown[:, None], torch.nan)
        return psi

    def spectral_radius(self) -> Tensor:
        r"""Largest modulus of an eigenvalue of the companion matrix, (groups,): below 1 the model is stable.

        The companion matrix takes :math:`(x_{t-1}, \dots, x_{t-p})` to :math:`(x_t, \dots, x_{t-p+1})` without noise.
        """
        self._check_fitted()
        return spectral_radius(self.coefficients)

    def causality(self, *, test: str = "f") -> Causality:
        r"""Granger's test of every ordered pair: do the lags of j add to the forecast of i, given all other lags?

        .. math:: W_{ij} = \frac{a_{ij}^\top V_j^{-1} a_{ij}}{\Sigma_{ii}}, \qquad a_{ij} = (A_{1,ij}, \dots, A_{p,ij})

        with :math:`V_j` the block of the inverse moment matrix of the regressors that belongs to the lags of j. Without
        an effect :math:`W` is about :math:`\chi^2_p` (``test="wald"``, which rejects too often in short records) and
        :math:`W / p` about :math:`F(p, \nu)` (``"f"``), with :math:`\nu` the steps used less the coefficients of an
        equation.

        Of K (K - 1) tests one in twenty is below 0.05 by chance: correct the p-values for that, with
        `stlib.evaluation.significance.holm` or ``benjamini_hochberg``. "Causes" means "helps to forecast". An effect
        of a variable that is not in the system looks the same.

        Raises ValueError for another ``test``, a fit with ridge, and use before ``fit``.
        Source: Granger (1969), doi:10.2307/1912791; Lütkepohl (2005), section 3.6. With one other variable (K = 2)
        this is the textbook test of a pair.
        Deviation: statsmodels takes :math:`\nu K` in place of :math:`\nu`. In short records its p-values are too small.

        >>> x = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> x[1:, 0] += x[:-1, 1]
        >>> (VAR(lags=1, horizon=1).fit(x).causality().p_value[0] < 0.01).tolist()
        [[False, True], [False, False]]
        """
        self._check_fitted()
        if test not in ("f", "wald"):
            raise ValueError(f'test must be "f" or "wald", got {test!r}')
        if self.ridge > 0:
            raise ValueError(f"the test needs a fit by least squares, this one has ridge={self.ridge}")
        p = self.lags
        variance = self.noise.diagonal(dim1=1, dim2=2)  # (G, K), 0 for a constant, NaN for what cannot be fitted
        moves = variance > 0
        block = torch.where(moves[..., None, None], self.blocks, torch.eye(p).to(self.blocks))  # (G, j, p, p)
        a = self.coefficients.permute(0, 3, 1, 2)  # (G, j, p, i)
        wald = (a * torch.linalg.solve(block, a)).sum(2).mT / variance[..., None]
        statistic = wald / p if test == "f" else wald
        freedom = self.freedom[:, :1, None]
        host = statistic.cpu().numpy()
        p_value = fdtrc(p, freedom.cpu().numpy(), host) if test == "f" else chdtrc(p, host)
        tested = moves[:, :, None] & moves[:, None] & ~torch.eye(moves.shape[1], dtype=torch.bool).to(moves)
        p_value = torch.from_numpy(p_value).to(statistic)
        return Causality(*(torch.where(tested, value, torch.nan) for value in (statistic, p_value)))

    def _completed(self, x: Tensor) -> Tensor:
        """The last ``lags`` steps (B, p, G, K), their gaps and those before them forecast from the steps before."""
        if not x.isnan().any():
            return x[:, -self.lags :]
        state = carry_forward(x)[:, : self.lags]
        state = torch.where(state.isnan(), self.mean.nan_to_num().to(x.dtype), state)
        for t in range(self.lags, x.shape[1]):
            new = torch.where(x[:, t].isnan(), self._next(state), x[:, t])
            state = torch.cat([state[:, 1:], new[:, None]], 1)
        return state

    def _next(self, x: Tensor) -> Tensor:
        coefficients = self.coefficients.nan_to_num().to(x.dtype)
        recent = x[:, -self.lags :].flip(1)  # the newest first
        return self.intercept.nan_to_num().to(x.dtype) + torch.einsum("gtij,btgj->bgi", coefficients, recent)

    def _grouped(self, past: Tensor) -> Tensor:
        self._check_fitted()
        if past.ndim < 3 or past.shape[1] < self.lags:
            raise ValueError(
                f"past must be (B, T, C, *S) with at least {self.lags} time steps, got shape {tuple(past.shape)}"
            )
        if past.isinf().any():
            raise ValueError(f"the past holds {int(past.isinf().sum())} infinite values: make them missing first")
        x = grouped(past if past.is_floating_point() else past.to(self.intercept.dtype), self.per)
        if x.shape[2:] != self.intercept.shape:
            raise ValueError(
                f"past of shape {tuple(past.shape)} has {tuple(x.shape[2:])} groups and variables, "
                f"the fit {tuple(self.intercept.shape)}"
            )
        return x

    def _check_fitted(self) -> None:
        if unfitted(self.noise):
            raise ValueError("this vector autoregression is not fitted yet: call fit(train.series) first")
        if self.coefficients.shape[1] != self.lags:
            raise ValueError(
                f"the state loaded is of a fit with lags={self.coefficients.shape[1]}, got lags={self.lags}"
            )


def lag_criteria(series: Tensor, *, max_lags: int, per: str = "field") -> Criteria:
    r"""Akaike's, Schwarz's and Hannan and Quinn's criterion for vector autoregressions of 0 to ``max_lags`` lags.

    .. math:: \log \det \tilde\Sigma_p + \frac{c}{n}\,(p K^2 + K), \qquad c = 2,\ \log n,\ 2 \log \log n

    All orders are fitted to the same :math:`n` steps, those after the first ``max_lags``; :math:`\tilde\Sigma_p` is the
    covariance of the residuals with divisor :math:`n`. One factorisation serves every order. Variables that never vary
    or are never observed do not count.

    Shapes: ``series`` ``(T, C, *S)``, grouped by ``per`` as in `VAR`. NaN where an order cannot be fitted or its
    residuals have less than full rank: with less than K steps more than an equation has coefficients, with variables
    that are nearly copies, and in a group in which nothing varies. ``argmin`` would choose a NaN: make it infinite.
    Raises ValueError for ``max_lags`` below 1, an unknown ``per``, infinite values or a series that is too short.
    Source: Lütkepohl (2005), doi:10.1007/978-3-540-27752-1, section 4.3.

    >>> walk = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    >>> lag_criteria(walk, max_lags=4).bic.nan_to_num(nan=torch.inf).argmin(0)
    tensor([1])
    """
    if max_lags < 1:
        raise ValueError(f"max_lags must be at least 1, got {max_lags}")
    found = regression(series, max_lags, per=per)[2]
    n, K = found.rows[:, None], found.mean.shape[1]
    varies, root, floor = found.varies[:, :K], found.root[:, :K], found.floor[:, None]
    # What each lag explains beyond those before it, from the last one back: the residuals of every order.
    added = found.cross.unflatten(1, (max_lags, K))
    added = torch.cat([(added.mT @ added).flip(1), found.rest[:, None]], 1)
    squares = torch.cat([added[:, -1:], added[:, :-1]], 1).cumsum(1).flip(1)  # (G, max_lags + 1, K, K)
    squares = torch.where((varies[:, :, None] & varies[:, None])[:, None], squares, torch.eye(K).to(squares))
    left = squares.diagonal(dim1=2, dim2=3)  # share of each variable's sum of squares
    unit = left.clamp_min(torch.finfo(left.dtype).tiny).sqrt()
    factor, failed = torch.linalg.cholesky_ex(squares / unit[..., None] / unit[..., None, :])
    independent = factor.diagonal(dim1=2, dim2=3).square()
    singular = (failed > 0) | (left < floor[..., None]).any(2) | (independent < 1e-12).any(2)
    scale = torch.where(varies, root.square() / n, 1.0).log().sum(1)
    fit = (left * independent).log().sum(2) + scale[:, None]  # (G, max_lags + 1)
    variables = varies.sum(1, keepdim=True)
    order = torch.arange(max_lags + 1, device=fit.device)
    size = order * variables.square() + variables
    copies = nn.functional.pad(found.left < floor, (K, 0)).unflatten(1, (-1, K)).any(2).cumsum(1) > 0
    possible = ~copies & ~singular & (n - order * variables - 1 >= variables) & (variables > 0)
    n = n.double()
    penalties = 2 / n, n.log() / n, 2 * n.log().log() / n
    return Criteria(*(torch.where(possible, fit + penalty * size, torch.nan).T for penalty in penalties))
