"""Lagged values: a field as groups of variables, and what a regression of each on the past of its group needs."""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**24  # values of the regression matrix held at once
WEAK = 1e-8  # what is left of a sum of squares: below this share, its sums of products have lost too many digits


class Moments(NamedTuple):
    """Correlations of each variable now and at ``lags`` earlier steps, M = (lags + 1) K of them, the present first."""

    mean: Tensor  # (G, K), over all observed steps; NaN where never observed
    rows: Tensor  # (G,), steps that are complete with their predecessors
    root: Tensor  # (G, M), root of the sum of squares about the mean over these rows; 1 where nothing varies
    varies: Tensor  # (G, M)
    correlation: Tensor  # (G, M, M), the identity where nothing varies
    centre: Tensor  # (G, M), mean over these rows
    doubtful: Tensor  # (G,), a lag varies so little about its mean over the rows that its digits are lost


class Regression(NamedTuple):
    """Each of K variables on the past of its group, m = lags K regressors, on the scale of correlations."""

    mean: Tensor  # (G, K), rows, root, varies, centre: as in `Moments`
    rows: Tensor
    root: Tensor
    varies: Tensor
    centre: Tensor
    factor: Tensor  # (G, m, m), lower: times its transpose it is the matrix of the regressors, ridge included
    cross: Tensor  # (G, m, K), what each regressor adds to those before it: factor times this is the right-hand side
    rest: Tensor  # (G, K, K), sums of squares and products of what they leave, without ridge
    left: Tensor  # (G, m), share of each regressor that those before it do not explain
    floor: Tensor  # (G,), the smallest share that is no rounding: below it a regressor is nearly a copy


def grouped(x: Tensor, per: str) -> Tensor:
    """A field (..., C, *S) after two axes at most as (..., groups, variables): see `stlib.models.var.VAR`.

    >>> grouped(torch.zeros(1, 9, 2, 5), "field").shape, grouped(torch.zeros(1, 9, 2, 5), "place").shape
    (torch.Size([1, 9, 1, 10]), torch.Size([1, 9, 5, 2]))
    """
    x = x.flatten(3) if x.ndim > 3 else x[..., None]  # (B, T, C, N)
    if per == "field":
        return x.flatten(2)[:, :, None]
    return x.transpose(2, 3) if per == "place" else x.flatten(2)[..., None]


def ungrouped(x: Tensor, cells: torch.Size, per: str) -> Tensor:
    """The way back from (B, T, groups, variables) to (B, T, C, *S)."""
    x = x.transpose(2, 3) if per == "place" else x
    return x.reshape(*x.shape[:2], *cells)


def lagged_correlations(series: Tensor, lags: int, *, per: str) -> tuple[Tensor, Moments]:
    """The grouped series (T, G, K), in float64, and its moments. A variable that is never observed counts as constant.

    A row, that is a step and its ``lags`` predecessors, is used if it is complete in the whole group.
    Raises ValueError for an unknown ``per``, a series of another form or infinite, or fewer steps than lags + 2.
    """
    if per not in ("field", "place", "series"):
        raise ValueError(f'per must be "field", "place" or "series", got {per!r}')
    if series.ndim < 2 or len(series) < lags + 2:
        raise ValueError(f"series must be (T, C, *S) with T >= {lags + 2} for {lags} lags, got {tuple(series.shape)}")
    if series.isinf().any():
        raise ValueError(f"the series holds {int(series.isinf().sum())} infinite values: make them missing first")
    x = grouped(series[None].double(), per)[0]
    mean = x.nanmean(0)
    rows, sums, gram = _sums(torch.where(mean.isnan(), 0.0, x - mean), lags)
    count = rows[:, None].clamp_min(1)
    whole = gram.diagonal(dim1=1, dim2=2)
    gram = gram - sums[:, :, None] * sums[:, None] / count[..., None]
    squares = gram.diagonal(dim1=1, dim2=2)
    level = mean.nan_to_num().repeat(1, lags + 1)
    # What is less is the rounding of a constant, or of one that changes only in steps that this lag does not reach.
    varies = squares > torch.maximum(count * (1e-12 * level).square(), 1e-12 * whole)
    doubtful = ((squares < WEAK * whole) & (whole > count * (1e-12 * level).square())).any(1)
    root = torch.where(varies, squares, 1.0).sqrt()
    gram = torch.where(varies[:, :, None] & varies[:, None], gram / root[:, :, None] / root[:, None], 0.0)
    gram = gram + torch.diag_embed((~varies).double())
    return x, Moments(mean, rows, root, varies, gram, level + sums / count, doubtful)


def regression(series: Tensor, lags: int, *, per: str, ridge: float = 0.0) -> tuple[Tensor, Moments, Regression]:
    """The least squares of every group; errors as in `lagged_correlations`.

    From sums of products where these keep enough digits, from the rows by an orthogonal factorisation where not.
    """
    x, moments = lagged_correlations(series, lags, per=per)
    mean, rows, root, varies, gram, centre, doubtful = moments
    K = mean.shape[1]
    factor, failed = torch.linalg.cholesky_ex(gram[:, K:, K:] + ridge * torch.diag_embed(varies[:, K:].double()))
    left = factor.diagonal(dim1=1, dim2=2).square().masked_fill(failed[:, None] > 0, 0.0)
    factor = torch.where(failed[:, None, None] > 0, torch.eye(len(factor[0])).to(factor), factor)
    cross = torch.linalg.solve_triangular(factor, gram[:, K:, :K], upper=False)
    rest = gram[:, :K, :K] - cross.mT @ cross
    found = mean, rows, root, varies, centre, factor, cross, rest, left, torch.full_like(left[:, 0], 1e-12)
    again = ((left < WEAK).any(1) | doubtful) & (rows > 0)
    if ridge > 0 or not again.any():
        return x, moments, Regression(*found)
    eps = torch.finfo(series.dtype).eps if series.is_floating_point() else 0.0
    block = max(1, BLOCK // (len(x) * K * (lags + 1)))
    parts = [_from_rows(part, lags) for part in torch.where(mean.isnan(), 0.0, x)[:, again].split(block, 1)]
    exact = [torch.cat(values) for values in zip(*parts, strict=True)]
    exact += [torch.full_like(exact[-1][:, 0], max(1e-18, (10 * eps) ** 2))]
    return (
        x,
        moments,
        Regression(mean, rows, *(a.index_put((again,), b) for a, b in zip(found[2:], exact, strict=True))),
    )


def _from_rows(x: Tensor, lags: int) -> tuple[Tensor, ...]:
    """Root, varies, centre, factor, cross, rest and left of `Regression` for a few groups (T, G, K)."""
    K = x.shape[2]
    rows = x.unfold(0, lags + 1, 1).flip(-1).permute(1, 0, 3, 2).flatten(2)  # (G, n, M), the present first
    complete = ~rows.isnan().any(-1, keepdim=True)
    count = complete.sum(1)
    rows = torch.where(complete, rows, 0.0)
    centre = rows.sum(1) / count
    rows = torch.where(complete, rows - centre[:, None], 0.0)
    squares = rows.square().sum(1)
    varies = squares > count * (1e-12 * centre).square()
    root = torch.where(varies, squares, 1.0).sqrt()
    rows = torch.where(varies[:, None], rows / root[:, None], 0.0)
    rows = torch.cat([rows, torch.diag_embed((~varies).to(rows))], 1).roll(-K, 2)
    R = torch.linalg.qr(rows, mode="r").R
    corner = R[:, -K:, -K:]
    left = R.diagonal(dim1=1, dim2=2)[:, :-K].square()
    factor = torch.where(left[..., None] > 0, R[:, :-K, :-K], torch.eye(lags * K).to(R)).mT
    return root, varies, centre, factor, R[:, :-K, -K:], corner.mT @ corner, left


def _sums(x: Tensor, lags: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number of complete rows (G,), their sum (G, M) and the sum of their outer products (G, M, M)."""
    if not x.isnan().any():
        return _sums_without_gaps(x.transpose(0, 1), lags)
    windows = x.unfold(0, lags + 1, 1)  # (T - lags, G, K, lags + 1)
    block = max(1, BLOCK // windows[0].numel())
    total = None
    for part in windows.split(block):
        part = part.flip(-1).permute(1, 0, 3, 2).flatten(2)  # (G, n, M), the present first
        complete = ~part.isnan().any(-1)
        part = torch.where(complete[..., None], part, 0.0)
        found = complete.sum(1), part.sum(1), part.mT @ part
        total = found if total is None else tuple(a + b for a, b in zip(total, found, strict=True))
    return total


def _sums_without_gaps(x: Tensor, lags: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same for x (G, T, K) from the products with the present alone: those of two lags are these, moved in time."""
    groups, steps, size = x.shape
    last = steps - 1
    sums = torch.cat([x[:, lags - a : steps - a].sum(1) for a in range(lags + 1)], 1)
    gram = x.new_empty(groups, lags + 1, size, lags + 1, size)
    now = x[:, lags:].mT
    for b in range(lags + 1):
        product = now @ x[:, lags - b : steps - b]
        gram[:, 0, :, b], gram[:, b, :, 0] = product, product.mT
        for a in range(1, lags + 1 - b):  # one step earlier: a product comes in, another drops out
            ends = x[:, [lags - a, last - a + 1]], x[:, [lags - a - b, last - a - b + 1]]
            come, drop = (ends[0][:, k, :, None] * ends[1][:, k, None] for k in (0, 1))
            product = product + come - drop
            gram[:, a, :, a + b], gram[:, a + b, :, a] = product, product.mT
    return torch.full((groups,), steps - lags).to(x.device), sums, gram.reshape(groups, (lags + 1) * size, -1)


def spectral_radius(coefficients: Tensor) -> Tensor:
    """Largest modulus of an eigenvalue of the companion matrix of ``coefficients`` (G, p, K, K): (G,).

    >>> spectral_radius(torch.tensor([[[[0.5]], [[0.5]]]]))
    tensor([1.])
    """
    groups, lags, size, _ = coefficients.shape
    companion = torch.diag_embed(coefficients.new_ones(groups, size * lags)[:, size:], offset=-size)
    companion[:, :size] = coefficients.nan_to_num().movedim(1, 2).flatten(2)
    radius = torch.linalg.eigvals(companion).abs().amax(1)
    return radius.masked_fill(coefficients.isnan().flatten(1).any(1), torch.nan)
