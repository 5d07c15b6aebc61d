r"""Metrics: losses and scores of a forecast against the truth, as pure functions of tensors.

What holds for all of them:

- Shapes: forecast and truth have one shape, any at all, for instance ``(B, T, C, *S)``; nothing is broadcast between
  the two, and a difference raises ValueError. ``dim`` (a dim, several, or None for all) is averaged over; an empty
  tuple averages over nothing.
- NaN in the truth means "not observed": it enters neither the sum nor the count, and it leaves gradients finite.
  Where nothing is observed, the score is NaN.
- NaN in a forecast of an observed truth makes the score NaN: no model gains by staying silent on the hard cases.
- ``weights`` (for instance the cosine of latitude) broadcast to that shape and count some places more than others.
- The result lies on the device of its inputs and has their dtype, or float32 if they have half precision.
"""

from math import pi, sqrt

import torch
from torch import Tensor

Dim = int | tuple[int, ...] | None


def mae(forecast: Tensor, truth: Tensor, *, dim: Dim = None, weights: Tensor | None = None) -> Tensor:
    r"""Mean absolute error: the mean of :math:`|\hat x - x|`, in the units of the data. The median minimises it.

    Source: Hodson (2022), doi:10.5194/gmd-15-5481-2022.

    >>> mae(torch.tensor([1.0, 4.0, 5.0]), torch.tensor([0.0, 1.0, torch.nan])).item()
    2.0
    """
    forecast, truth, observed = _pair(forecast, truth)
    return _mean((forecast - truth).abs(), observed, dim, weights)


def mse(forecast: Tensor, truth: Tensor, *, dim: Dim = None, weights: Tensor | None = None) -> Tensor:
    r"""Mean squared error: the mean of :math:`(\hat x - x)^2`, in squared units. The mean minimises it.

    Source: Hodson (2022), doi:10.5194/gmd-15-5481-2022.

    >>> mse(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 1.0])).item()
    5.0
    """
    forecast, truth, observed = _pair(forecast, truth)
    return _mean((forecast - truth).square(), observed, dim, weights)


def rmse(forecast: Tensor, truth: Tensor, *, dim: Dim = None, weights: Tensor | None = None) -> Tensor:
    r"""Root mean squared error: :math:`\sqrt{\mathrm{MSE}}`, in the units of the data; the root is taken last.

    Its gradient at a perfect forecast does not exist: train on `mse`.
    Source: Hodson (2022), doi:10.5194/gmd-15-5481-2022.

    >>> rmse(torch.tensor([1.0, 7.0]), torch.tensor([0.0, 0.0])).item()
    5.0
    """
    return mse(forecast, truth, dim=dim, weights=weights).sqrt()


def bias(forecast: Tensor, truth: Tensor, *, dim: Dim = None, weights: Tensor | None = None) -> Tensor:
    r"""Mean error: the mean of :math:`\hat x - x`, in the units of the data; positive when the forecast is too high.

    Source: Murphy (1988), doi:10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2.

    >>> bias(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 1.0])).item()
    2.0
    """
    forecast, truth, observed = _pair(forecast, truth)
    return _mean(forecast - truth, observed, dim, weights)


def mape(forecast: Tensor, truth: Tensor, *, dim: Dim = None) -> Tensor:
    r"""Mean absolute percentage error: the mean of :math:`100\,|\hat x - x| / |x|`, in per cent.

    It is for quantities with a natural zero that stay away from it, and it favours forecasts that are too low.
    Raises ValueError for an observed truth of 0, where the error is infinite. Leaving such steps out would score the
    forecast on the easy ones alone; a small constant in the denominator would let that constant decide the score.
    Source: Hyndman and Koehler (2006), doi:10.1016/j.ijforecast.2006.03.001, section 2.2.

    >>> mape(torch.tensor([110.0, 40.0]), torch.tensor([100.0, 50.0])).item()
    15.0
    """
    forecast, truth, observed = _pair(forecast, truth)
    zeros = int((observed & (truth == 0)).sum())
    if zeros:
        raise ValueError(f"mape needs a truth without zeros, {zeros} of {int(observed.sum())} are 0: use mae or mase")
    return _mean(100 * (forecast - truth).abs() / torch.where(observed, truth, 1).abs(), observed, dim)


def smape(forecast: Tensor, truth: Tensor, *, dim: Dim = None) -> Tensor:
    r"""Symmetric MAPE of the M4 competition: the mean of :math:`200\,|\hat x - x| / (|\hat x| + |x|)`, 0 to 200.

    In per cent. Any forecast of a truth of 0 costs the full 200, except 0 itself, which costs 0 here (the published
    formula is 0/0).
    Source: Makridakis, Spiliotis and Assimakopoulos (2020), doi:10.1016/j.ijforecast.2019.04.014.

    >>> smape(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])).item()
    50.0
    """
    forecast, truth, observed = _pair(forecast, truth)
    size = forecast.abs() + truth.abs()
    return _mean(200 * (forecast - truth).abs() / torch.where(size == 0, 1, size), observed, dim)


def mase_scale(training_series: Tensor, *, season: int = 1, dim: int = 0) -> Tensor:
    r"""What `mase` divides by: the mean of :math:`|x_t - x_{t-m}|` over the training series, in the units of the data.

    It is the one-step error of (seasonal) persistence, ``m = season``, over the pairs of which both are observed.

    Shapes: ``(T, C, *S)`` to ``(C, *S)``, for ``dim=0``.
    Raises ValueError for a series not longer than one season.
    Source: Hyndman and Koehler (2006), doi:10.1016/j.ijforecast.2006.03.001, section 3.

    >>> mase_scale(torch.tensor([1.0, 2.0, 4.0])).item()
    1.5
    """
    steps = training_series.shape[dim]
    if not 1 <= season < steps:
        raise ValueError(f"season must be at least 1 and below the {steps} steps of training_series, got {season}")
    earlier, later = (training_series.narrow(dim, start, steps - season) for start in (0, season))
    return mae(later, earlier.where(~later.isnan(), torch.nan), dim=dim)


def mase(forecast: Tensor, truth: Tensor, scale: Tensor, *, dim: Dim = None) -> Tensor:
    r"""Mean absolute scaled error: the mean of :math:`|\hat x - x| / q` with :math:`q` from `mase_scale`; no units.

    Below 1 it beats what (seasonal) persistence did one step (season) ahead on the training part.

    Shapes: ``scale`` broadcasts to the shape of the truth, so ``(C, *S)`` serves ``(B, T, C, *S)``.
    Raises ValueError where a truth is observed but its scale is 0 (a constant training series) or missing.
    Source: Hyndman and Koehler (2006), doi:10.1016/j.ijforecast.2006.03.001, section 3.

    >>> mase(torch.tensor([3.0, 6.0]), torch.tensor([0.0, 0.0]), torch.tensor(1.5)).item()
    3.0
    """
    forecast, truth, observed = _pair(forecast, truth)
    scale = _expand("scale", scale, truth)
    unusable = int((observed & ~(scale > 0)).sum())
    if unusable:
        raise ValueError(f"scale must be positive, it is 0 or missing for {unusable} of {int(observed.sum())} truths")
    return _mean((forecast - truth).abs() / scale.where(observed, 1), observed, dim)


def r2(forecast: Tensor, truth: Tensor, *, dim: Dim = None) -> Tensor:
    r"""Coefficient of determination: :math:`1 - \sum(\hat x - x)^2 / \sum(x - \bar x)^2`, no units, at most 1.

    The reference :math:`\bar x` is the mean of the observed truth over ``dim``. For one series that mean, known only
    afterwards, is harder to beat than a climatology from the training part. Over places or seasons that differ it is an
    easy reference: knowing the place is then enough for a high score. A constant truth gives -inf or NaN.
    Source: Nash and Sutcliffe (1970), doi:10.1016/0022-1694(70)90255-6.

    >>> r2(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])).item()
    0.875
    """
    forecast, truth, observed = _pair(forecast, truth)
    mean = _mean(truth, observed, dim, keepdim=True)
    return 1 - _mean((forecast - truth).square(), observed, dim) / _mean((truth - mean).square(), observed, dim)


def anomaly_correlation(
    forecast: Tensor, truth: Tensor, climatology: Tensor, *, dim: Dim, weights: Tensor | None = None
) -> Tensor:
    r"""Anomaly correlation: with anomalies :math:`a = \hat x - c` and :math:`b = x - c` from the climatology :math:`c`,
    :math:`\sum w a b / \sqrt{\sum w a^2 \sum w b^2}`, from -1 to 1.

    By custom ``dim`` is the space of one forecast, and the correlations are averaged over forecasts afterwards. It is
    uncentred, as in WeatherBench 2: a mean anomaly over the area counts. The definition of WMO-No. 485 is centred, it
    subtracts that mean. Scaling the anomalies changes nothing, so the score must stand beside an error.

    Shapes: ``climatology`` broadcasts to the shape of the truth; where it is NaN, the truth counts as not observed.
    Source: Rasp et al. (2024), doi:10.1029/2023MS004019; Murphy and Epstein (1989),
    doi:10.1175/1520-0493(1989)117<0572:SSACCA>2.0.CO;2.

    >>> acc = anomaly_correlation(torch.tensor([4.0, 5.0]), torch.tensor([5.0, 4.0]), torch.tensor(1.0), dim=0)
    >>> round(acc.item(), 2)
    0.96
    """
    climatology = _expand("climatology", climatology, truth)
    forecast, truth, observed = _pair(forecast, truth.where(~climatology.isnan(), torch.nan))
    climatology = climatology.where(observed, 0)
    a, b = forecast - climatology, truth - climatology
    product, a_square, b_square = (_mean(x, observed, dim, weights) for x in (a * b, a.square(), b.square()))
    return product / (a_square.sqrt() * b_square.sqrt())


def crps_gaussian(mean: Tensor, std: Tensor, truth: Tensor, *, dim: Dim = None) -> Tensor:
    r"""Continuous ranked probability score of a normal distribution, in the units of the data.

    .. math:: \sigma\left[z\,(2\Phi(z) - 1) + 2\varphi(z) - 1/\sqrt\pi\right], \quad z = (x - \mu) / \sigma

    :math:`\mu` and :math:`\sigma` are the distribution's mean and standard deviation, :math:`\Phi` and
    :math:`\varphi` the distribution function and the density of the standard normal. The score is proper: on average no
    other forecast does better than the distribution the truth comes from. For a spread of nearly 0 it is the absolute
    error.
    Raises ValueError for an ``std`` that is not positive where the truth is observed.
    Source: Gneiting, Raftery, Westveld and Goldman (2005), doi:10.1175/MWR2904.1.

    >>> round(crps_gaussian(torch.zeros(1), torch.ones(1), torch.zeros(1)).item(), 4)
    0.2337
    """
    mean, observed_truth, observed = _pair(mean, truth, name="mean")
    std, _, _ = _pair(std, truth, name="std")
    std = std.where(observed, 1)
    if (std <= 0).any():
        raise ValueError(f"std must be positive, got {std.min().item():g}")
    z = (observed_truth - mean) / std
    density = torch.exp(-z.square() / 2) / sqrt(2 * pi)
    return _mean(std * (z * torch.erf(z / sqrt(2)) + 2 * density - 1 / sqrt(pi)), observed, dim)


def crps_sample(samples: Tensor, truth: Tensor, *, sample_dim: int = 0, fair: bool = True, dim: Dim = None) -> Tensor:
    r"""Continuous ranked probability score of an ensemble of :math:`M` members, in the units of the data.

    .. math:: \frac1M\sum_i |x_i - x| - \frac1{2 M (M - 1)}\sum_{i,j} |x_i - x_j|

    ``fair=True`` estimates the score of the distribution that the members were drawn from, without bias, so ensembles
    of different sizes compare; it may be below 0. ``fair=False`` divides by :math:`2 M^2` and scores the members
    themselves, as an empirical distribution; a small ensemble then looks worse. The double sum is taken over sorted
    members, :math:`2\sum_i (2i - M - 1)\,x_{(i)}`, in :math:`O(M \log M)`.

    Shapes: ``samples`` has the truth's shape with the members on an extra ``sample_dim``; ``dim`` counts the dims of
    the truth.
    Raises ValueError for other shapes, and for one member with ``fair=True``.
    Source: Ferro (2014), doi:10.1002/qj.2270 (fair); Zamo and Naveau (2018), doi:10.1007/s11004-017-9709-7 (sorted).

    >>> crps_sample(torch.tensor([1.0, 3.0]), torch.tensor(2.0), fair=False).item()
    0.5
    """
    samples = samples.movedim(sample_dim, 0)
    members = samples.shape[0]
    if members < 2 and fair:
        raise ValueError(f"fair=True needs at least 2 members, samples have {members} on sample_dim={sample_dim}")
    if samples.shape[1:] != truth.shape:
        raise ValueError(
            f"samples without sample_dim={sample_dim} need the shape of the truth, "
            f"got {tuple(samples.shape[1:])} and {tuple(truth.shape)}"
        )
    samples, repeated, observed = _pair(samples, truth.expand(samples.shape))
    # Differences are the same for errors as for members, and errors keep more digits when the field is far from 0.
    errors = (samples - repeated).sort(0).values
    rank = 2 * torch.arange(1, members + 1, device=errors.device, dtype=errors.dtype) - members - 1
    spread = torch.tensordot(rank, errors, 1) / (members * (members - 1 if fair else members))
    return _mean(errors.abs().mean(0) - spread, observed[0], dim)


def pinball(forecast_quantile: Tensor, truth: Tensor, level: float, *, dim: Dim = None) -> Tensor:
    r"""Pinball (quantile) loss: the mean of :math:`\max(\alpha(x - q), (\alpha - 1)(x - q))`, in the units of the data.

    The quantile of ``level`` :math:`\alpha` minimises it; at 0.5 it is half the absolute error.
    Raises ValueError for a level outside (0, 1).
    Source: Koenker and Bassett (1978), doi:10.2307/1913643.

    >>> round(pinball(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]), 0.9).item(), 3)
    0.5
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    forecast, truth, observed = _pair(forecast_quantile, truth, name="forecast_quantile")
    below = truth - forecast
    return _mean(torch.maximum(level * below, (level - 1) * below), observed, dim)


def coverage(lower: Tensor, upper: Tensor, truth: Tensor, *, dim: Dim = None) -> Tensor:
    r"""Coverage of an interval: the share of truths with :math:`l \le x \le u`, from 0 to 1.

    A 90 % interval should cover 0.9; read it beside `width`, since a wide enough interval covers everything.
    Source: Gneiting, Balabdaoui and Raftery (2007), doi:10.1111/j.1467-9868.2007.00587.x.

    >>> coverage(torch.zeros(3), torch.ones(3), torch.tensor([0.5, 2.0, torch.nan])).item()
    0.5
    """
    lower, upper, observed_truth, observed = _interval(lower, upper, truth)
    inside = ((lower <= observed_truth) & (observed_truth <= upper)).to(lower.dtype)
    return _mean(inside.where(~(lower + upper).isnan(), torch.nan), observed, dim)


def width(lower: Tensor, upper: Tensor, truth: Tensor, *, dim: Dim = None) -> Tensor:
    r"""Width of an interval: the mean of :math:`u - l` over the observed truths, in the units of the data.

    Raises ValueError where ``lower`` is above ``upper``: a negative width would flatter the mean.
    Source: Gneiting, Balabdaoui and Raftery (2007), doi:10.1111/j.1467-9868.2007.00587.x.

    >>> width(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0]), torch.tensor([7.0, 7.0])).item()
    3.0
    """
    lower, upper, _, observed = _interval(lower, upper, truth)
    return _mean(upper - lower, observed, dim)


def _interval(lower: Tensor, upper: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lower, observed_truth, observed = _pair(lower, truth, name="lower")
    upper, _, _ = _pair(upper, truth, name="upper")
    crossed = int((lower > upper).sum())
    if crossed:
        raise ValueError(f"lower must not exceed upper, it does for {crossed} of {int(observed.sum())} observed truths")
    return lower, upper, observed_truth, observed


def _pair(forecast: Tensor, truth: Tensor, *, name: str = "forecast") -> tuple[Tensor, Tensor, Tensor]:
    """Both in at least single precision and 0 where not observed, so that no NaN reaches a gradient; and the mask."""
    if forecast.shape != truth.shape:
        raise ValueError(f"{name} and truth need one shape, got {tuple(forecast.shape)} and {tuple(truth.shape)}")
    dtype = torch.promote_types(torch.promote_types(forecast.dtype, truth.dtype), torch.float32)
    observed = ~truth.isnan()
    return forecast.to(dtype).where(observed, 0), truth.to(dtype).where(observed, 0), observed


def _expand(name: str, values: Tensor, truth: Tensor) -> Tensor:
    try:
        return values.to(truth.device).expand(truth.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} of shape {tuple(values.shape)} does not broadcast to the truth's {tuple(truth.shape)}"
        ) from None


def _mean(
    values: Tensor, observed: Tensor, dim: Dim, weights: Tensor | None = None, *, keepdim: bool = False
) -> Tensor:
    if weights is None:
        weights = observed.to(values.dtype)
    else:
        weights = _expand("weights", weights, values).to(values.dtype).where(observed, 0)
    total = torch.where(observed, values * weights, 0)
    if dim == ():  # torch.sum takes an empty tuple for all dims
        return total / weights
    return total.sum(dim, keepdim=keepdim) / weights.sum(dim, keepdim=keepdim)
