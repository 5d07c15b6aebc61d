"""Least squares of a space-time ARMA: in closed form, and with a moving average by Gauss-Newton."""

import torch
from torch import Tensor

ITERATIONS = 100


def autoregression(z: Tensor, weights: Tensor, *, ar: int) -> tuple[Tensor, Tensor, Tensor]:
    """The regression of each place on ``ar`` past steps of itself and its neighbours, rows without a gap only.

    Shapes: ``z`` (T, C, N) and ``weights`` (orders, N, N), the identity first, to coefficients (C, ar, orders), their
    moment matrix (C, P, P) and the residuals (T - ar, C, N), NaN in the rows left out.
    """
    steps, orders = len(z), len(weights)
    missing = torch.einsum("lnm,tcm->tlcn", (weights != 0).to(z), z.isnan().to(z)) > 0
    lagged = torch.einsum("lnm,tcm->tlcn", weights, z.nan_to_num()).masked_fill(missing, torch.nan)
    rows = [lagged[ar - k : steps - k] for k in range(1, ar + 1)]
    rows = torch.cat(rows, 1) if rows else lagged[:, :0]
    rows = rows.permute(2, 1, 0, 3)  # (C, P, T - ar, N)
    target = z[ar:].movedim(1, 0)  # (C, T - ar, N)
    complete = ~(rows.isnan().any(1) | target.isnan())
    rows = torch.where(complete[:, None], rows, 0.0).flatten(2)
    y = torch.where(complete, target, 0.0).flatten(1)
    gram = rows @ rows.mT
    beta = _solve(gram, (rows @ y[..., None])[..., 0])
    fitted = (beta[:, None] @ rows).reshape(target.shape)
    residual = torch.where(complete, target - fitted, torch.nan).movedim(0, 1)
    return beta.unflatten(1, (ar, orders)), gram, residual


def gauss_newton(z: Tensor, weights: Tensor, phi: Tensor, *, ma: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From a pure autoregression ``phi`` to the smallest sum of squares, with Levenberg's damping for each channel.

    Shapes: as `autoregression`; gives both sets of coefficients, the Gauss-Newton matrix and the residuals.
    """
    channels, ar, orders = phi.shape
    beta = torch.cat([phi, phi.new_zeros(channels, ma, orders)], 1).flatten(1)
    damping = beta.new_full((channels,), 1e-3)
    best = residuals(z, weights, beta, ar=ar)
    for _ in range(ITERATIONS):
        total, gram, slope = best[:3]
        scale = torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
        step = _solve(gram + damping[:, None, None] * scale, slope)
        trial = residuals(z, weights, beta + step, ar=ar)
        better = trial[0] < total
        gain = torch.where(better, 1 - trial[0] / total, 0.0)
        beta = torch.where(better[:, None], beta + step, beta)
        best = [torch.where(_like(better, new), new, old) for new, old in zip(trial, best, strict=True)]
        damping = torch.where(better, damping / 10, damping * 10)
        if ((better & (gain < 1e-10)) | (damping > 1e8) | beta.isnan().any(1)).all():
            break
    beta = beta.unflatten(1, (ar + ma, orders))
    return beta[:, :ar], beta[:, ar:], best[1], best[3].movedim(0, 1)


def residuals(z: Tensor, weights: Tensor, beta: Tensor, *, ar: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of squares (C,), Gauss-Newton matrix (C, P, P), downhill slope (C, P) and residuals (C, T - ar, N).

    What is carried from step to step is a value and its derivatives by the P coefficients, (1 + P, C, N): of the
    residual, and of the series, which depends on the coefficients where it is missing and its forecast stands in.
    """
    _, channels, places = z.shape
    orders, size = len(weights), beta.shape[1]
    ma = size // orders - ar
    sign = torch.ones(size).to(beta)
    sign[ar * orders :] = -1  # the moving average is subtracted
    signed = (beta * sign)[:, None, :, None]
    stacked = weights.flatten(0, 1).T  # (N, orders N)

    def spread(value: Tensor) -> Tensor:
        """What each place takes, of a value and its derivatives: (1 + P, C, N) to (C, 1 + P, orders, N)."""
        return (value @ stacked).unflatten(-1, (orders, places)).transpose(0, 1)

    blank = z.new_zeros(1 + size, channels, places)
    states = [torch.cat([z[ar - k, None].nan_to_num(), blank[1:]]) for k in range(1, ar + 1)] + [blank] * ma
    states = [spread(state) for state in states]
    gaps = z.isnan()
    gappy = bool(gaps.any())
    total, found = 0, []
    for t in range(ar, len(z)):
        regressors = torch.cat(states, 2)  # (C, 1 + P, P, N)
        forecast = (signed * regressors).sum(2).transpose(0, 1)  # (1 + P, C, N)
        forecast[1:] += (regressors[:, 0] * sign[:, None]).transpose(0, 1)
        error = -forecast
        error[0] += z[t]
        value = blank.clone()
        value[0] = z[t]
        if gappy:
            error, value = error.masked_fill(gaps[t], 0.0), torch.where(gaps[t], forecast, value)
        total = total + error[0].square().sum(-1)
        found.append(error)
        old, errors = states[:ar], states[ar:]
        states = [*([spread(value)] if ar else []), *old[:-1], *([spread(error)] if ma else []), *errors[:-1]]
    error = torch.stack(found).permute(2, 1, 0, 3)  # (C, 1 + P, T - ar, N)
    jacobian = error[:, 1:].flatten(2)
    slope = -(jacobian @ error[:, 0].flatten(1)[..., None])[..., 0]
    return total, jacobian @ jacobian.mT, slope, error[:, 0]


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (value.ndim - 1))


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """Least squares from its moments, (C, P, P) and (C, P): 0 for a column of zeros, NaN where columns are copies."""
    if not gram.shape[1]:
        return right
    diagonal = gram.diagonal(dim1=1, dim2=2)
    there = diagonal > 0
    root = torch.where(there, diagonal, 1.0).sqrt()
    factor, failed = torch.linalg.cholesky_ex(
        gram / root[:, :, None] / root[:, None] + torch.diag_embed((~there).to(gram))
    )
    failed = (failed > 0) | (factor.diagonal(dim1=1, dim2=2).square().amin(1) < 1e-12)
    factor = torch.where(failed[:, None, None], torch.eye(gram.shape[1]).to(gram), factor)
    solution = torch.cholesky_solve((right / root)[..., None], factor)[..., 0] / root
    return solution.masked_fill(failed[:, None], torch.nan)
