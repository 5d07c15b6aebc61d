r"""The Kalman filter of seasonal ARIMA models, for many series with missing values at once.

The same model as `stlib.models._arima_likelihood`, one step of time after the other: slower, and for any gaps. Arrays
are ``(T, N)``, and covariances ``(R, R, N)``: the long dim last.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stlib.models._arima_likelihood import initial_covariance

FLAT, DOUBTFUL = 1e-9, 1e4  # precision of a value not yet known, and a variance of what is not known


class Filtered(NamedTuple):
    """What `kalman` finds, for step d + 1 on, with d the number of steps that differencing takes."""

    innovations: Tensor  # (T - d, 1 + K, N) of the series and of each regressor, NaN where missing
    variances: Tensor  # (T - d, N) of the innovations, in units of the noise variance
    ahead: Tensor  # (horizon, N) mean forecast of the series
    ahead_variances: Tensor  # (horizon, N) of its error, in units of the noise variance
    logdet: Tensor  # (N,) log determinant that belongs to unknown first values
    observed: Tensor  # (N,) innovations that count: the observed values less d


def kalman(
    y: Tensor, regressors: Tensor, ar: Tensor, ma: Tensor, weights: list[int], *, horizon: int = 0, causal: bool = False
) -> Filtered:
    r"""Innovations, their variances and forecasts of :math:`y_t = w_t + \sum_i \delta_i y_{t-i}`, w an ARMA process.

    The first d values, d the number of ``weights`` :math:`\delta`, are given, not modelled; where one of them is
    missing it has a flat (diffuse) prior and is estimated from the rest, which is exact for everything but the
    innovations: these have seen the future. With ``causal`` the innovations and variances of the series are what was
    known at their time, NaN where that did not suffice. A value that is missing later is skipped.

    Shapes: y ``(T, N)`` with NaN where missing, regressors ``(T, K)``, ar ``(N, p)``, ma ``(N, q)``. A series whose
    first values cannot be told has the log determinant NaN.
    Source: Jones (1980), doi:10.1080/00401706.1980.10486171, for missing values; de Jong (1991),
    doi:10.1214/aos/1176348139, for unknown first values.
    """
    (length, number), d, k = y.shape, len(weights), regressors.shape[1]
    missing = y.isnan()
    unknown = missing[:d].any(1).nonzero()[:, 0].tolist()  # of the first values, in any of the series
    r = max(ar.shape[1], ma.shape[1] + 1)
    phi = F.pad(ar, (0, r - ar.shape[1])).T.contiguous()  # (r, N)
    theta = F.pad(F.pad(ma, (1, 0), value=1.0), (0, r - 1 - ma.shape[1])).T.contiguous()

    data = torch.cat([y.nan_to_num()[:, None], regressors[..., None].expand(-1, -1, number)], 1)
    data = F.pad(data, (0, 0, 0, len(unknown)))  # (T, 1 + K + unknown, N)
    mean = y.new_zeros(r + d, data.shape[1], number)  # the state ends with the last d values, the latest first
    for i in range(d):
        mean[r + i] = data[d - 1 - i]
    for column, step in enumerate(unknown):
        mean[r + d - 1 - step, 1 + k + column] = missing[step].to(y.dtype)
    noise_cover = F.pad(theta[:, None] * theta, (0, 0, 0, d, 0, d))
    cover = noise_cover.clone()
    before = initial_covariance(ar, ma).movedim(0, -1)
    cover[: len(before), : len(before)] += before

    values, variances, innovations = [], [], []
    for t in range(d, length + horizon):
        value, spread = _seen(mean, r, weights), _seen(cover, r, weights)  # (columns, N) and (R, N)
        variance = _seen(spread, r, weights)
        if t < length:
            innovation = data[t] - value
            gain = spread * torch.where(missing[t], 0.0, 1 / variance)
            mean = mean + gain[:, None] * innovation
            cover = cover - gain[:, None] * spread
            innovations.append(innovation)
        else:
            values.append(value)
        variances.append(variance)
        mean = _advanced(mean, phi, weights)
        cover = _advanced(_advanced(cover, phi, weights).transpose(0, 1), phi, weights) + noise_cover

    empty = y.new_zeros(0, data.shape[1], number)
    innovations, values = (torch.stack(x) if x else empty for x in (innovations, values))
    variances = torch.stack(variances) if variances else y.new_zeros(0, number)
    variances, ahead_variances = variances[: max(0, length - d)], variances[max(0, length - d) :]
    seen = ~missing[d:]
    logdet, ahead = torch.zeros_like(y[0]), values[:, 0]
    innovations, flat = innovations[:, : 1 + k], innovations[:, 1 + k :]
    if unknown:
        weighted = flat * (seen / variances)[:, None]
        precision = torch.einsum("tin,tjn->nij", weighted, flat)
        precision = precision + torch.diag_embed((~missing[unknown]).T.to(y.dtype))
        lower, failed = torch.linalg.cholesky_ex(precision)
        pivot = lower.diagonal(dim1=-2, dim2=-1)
        logdet = torch.where((failed == 0) & (pivot > 1e-6).all(-1), 2 * pivot.log().sum(-1), torch.nan)
        inverse = torch.cholesky_inverse(
            torch.where(logdet.isnan()[:, None, None], torch.eye(len(unknown)).to(y), lower)
        )
        moments = torch.einsum("tin,tjn->nij", weighted, innovations)
        if causal:
            known = (~missing[unknown]).T.to(y.dtype)
            past, variances = _from_the_past(flat, innovations[:, 0], variances, seen, known)
        found = -inverse @ moments  # (N, unknown, 1 + K)
        innovations = past[:, None] if causal else innovations + torch.einsum("tin,nij->tjn", flat, found)
        beyond = values[:, 1 + k :]
        ahead = ahead + torch.einsum("hin,ni->hn", beyond, found[..., 0])
        ahead_variances = ahead_variances + torch.einsum("hin,nij,hjn->hn", beyond, inverse, beyond)
        ahead = torch.where(logdet.isnan(), torch.nan, ahead)
    innovations = torch.where(seen[:, None], innovations, torch.nan)
    observed = seen.sum(0) - missing[:d].sum(0)
    return Filtered(innovations, variances, ahead, ahead_variances, logdet, observed)


def _from_the_past(
    flat: Tensor, innovations: Tensor, variances: Tensor, seen: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Innovations ``(T, N)`` and variances with unknown first values as estimated from the steps before each.

    flat ``(T, U, N)`` is how they depend on the unknown values; known ``(N, U)`` is 1 for those of other series only.
    """
    precision, moment = torch.diag_embed(known + FLAT), torch.zeros_like(known)
    values, spreads = [], []
    for by_first, value, variance, here in zip(flat.mT, innovations, variances, seen, strict=True):
        back = torch.linalg.solve_ex(precision, by_first).result
        doubt = (back * by_first).sum(1)
        values.append(torch.where(doubt < DOUBTFUL, value - (back * moment).sum(1), torch.nan))
        spreads.append(variance + doubt)
        weight = torch.where(here, by_first.T / variance, 0.0).T
        precision = precision + weight[:, :, None] * by_first[:, None]
        moment = moment + weight * value[:, None]
    return torch.stack(values), torch.stack(spreads)


def _seen(state: Tensor, r: int, weights: list[int]) -> Tensor:
    """The value that a state ``(R, ..., N)`` predicts."""
    value = state[0].clone()
    for i, weight in enumerate(weights):
        if weight:
            value.add_(state[r + i], alpha=weight)
    return value


def _advanced(state: Tensor, phi: Tensor, weights: list[int]) -> Tensor:
    """The state one step later, without new noise; the first dim is that of the state."""
    r = len(phi)
    moved = phi[:, None] * state[0]
    moved[:-1] += state[1:r]
    if not weights:
        return moved
    return torch.cat([moved, _seen(state, r, weights)[None], state[r:-1]])
