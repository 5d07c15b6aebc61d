"""Backtest: any forecaster on every window of a part, in the units of the data, by lead and by place."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.distributions import Distribution

from stlib import metrics
from stlib.data.windows import Windows

METRICS = {"mae": metrics.mae, "mse": metrics.mse, "rmse": metrics.rmse, "bias": metrics.bias}


@torch.no_grad()
def backtest(model: nn.Module, windows: Windows, *, batch_size: int = 256) -> xr.Dataset:
    """Forecast every window of a part, none dropped, and keep each forecast beside what came.

    Returns a Dataset with ``forecast`` and ``truth``, dims ``("origin", "lead", "channel", ...space)``: the origin is
    the time of the last observed step, the lead counts steps from 1. A forecaster that returns a distribution gives its
    mean as ``forecast`` and a sample of 100 members as ``sample`` (extra dim ``"member"``).

    Shapes: the model maps ``(B, T, C, *S)`` to ``(B, horizon, C, *S)``, in physical units (see
    `stlib.data.scaling.Scaled`).
    Raises ValueError for a forecast of another shape, and for a forecast that is missing where the truth is known:
    a model must not look better by staying silent on the hard cases.
    Source: Tashman (2000), doi:10.1016/S0169-2070(00)00065-0, on rolling-origin evaluation.

    >>> from stlib.data import windows, worlds
    >>> from stlib.models.baselines import Persistence
    >>> test = windows.split(worlds.AdvectionDiffusion(size=4).simulate(60, seed=0), past=2, horizon=3).test
    >>> dict(backtest(Persistence(horizon=3), test).sizes)
    {'origin': 10, 'lead': 3, 'channel': 1, 'y': 4, 'x': 4}
    """
    was_training = model.training
    forecasts, truths, samples = [], [], []
    model.eval()
    try:
        for batch in windows.batches(batch_size):
            forecast = model(*batch.inputs(model))
            if isinstance(forecast, Distribution):
                samples.append(forecast.sample((100,)).cpu())
                forecast = forecast.mean
            if forecast.shape != batch.future.shape:
                raise ValueError(
                    f"{type(model).__name__} returned a forecast of shape {tuple(forecast.shape)}, "
                    f"the windows need {tuple(batch.future.shape)}"
                )
            forecasts.append(forecast.to("cpu", batch.future.dtype))
            truths.append(batch.future.cpu())
    finally:
        model.train(was_training)
    forecast, truth = torch.cat(forecasts), torch.cat(truths)
    silent = int((forecast.isnan() & ~truth.isnan()).sum())
    if silent:
        raise ValueError(
            f"{type(model).__name__} gave no forecast (NaN) for {silent} of {int((~truth.isnan()).sum())} observed "
            "targets; every forecaster must answer for all of them"
        )
    labels = windows.labels
    dims = ("origin", "lead", *labels.dims[1:])
    coords = {name: value for name, value in labels.coords.items() if "time" not in value.dims}
    result = xr.Dataset(
        {"forecast": (dims, forecast.numpy()), "truth": (dims, truth.numpy())},
        coords=coords | {"origin": windows.origins.to_numpy(), "lead": np.arange(1, windows.horizon + 1)},
        attrs=labels.attrs,
    )
    if samples:
        result["sample"] = ("member", *dims), torch.cat(samples, 1).numpy()
    return result


def over_seeds(train: Callable[[int], nn.Module], windows: Windows, *, seeds: Sequence[int]) -> xr.Dataset:
    """Train with each seed, backtest each model, and stack the results along a dim ``"seed"``.

    ``train`` takes a seed and returns a fitted forecaster.
    """
    results = [backtest(train(seed), windows) for seed in seeds]
    dim = xr.Variable("seed", list(seeds))
    several = {name: xr.concat([result[name] for result in results], dim=dim) for name in results[0] if name != "truth"}
    return results[0].assign(several)


def score(
    result: xr.Dataset,
    *,
    metric: str = "rmse",
    by: str | Sequence[str] = "lead",
    weights: xr.DataArray | None = None,
) -> xr.DataArray:
    """A metric of a backtest for each value of ``by``, over all its other dims; NaN truth is left out.

    Seeds are never averaged: a dim "seed" stays, in front.

    ``metric`` is "mae", "mse", "rmse" or "bias". Several channels have several units, so ``by`` must name "channel"
    unless there is one. ``weights`` (for instance `area_weights`) count some places more than others.
    Raises ValueError for an unknown metric or dim, and for an average over channels of different units.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    by = [by] if isinstance(by, str) else list(by)
    if "seed" in result["forecast"].dims and "seed" not in by:
        by = ["seed", *by]
    if unknown := [dim for dim in by if dim not in result["forecast"].dims]:
        raise ValueError(f"by names {unknown}, the backtest has dims {result['forecast'].dims}")
    if "channel" not in result.dims:
        raise ValueError('the backtest has no dim "channel": select one with .sel(channel=[...]), in brackets')
    if result.sizes["channel"] > 1 and "channel" not in by:
        raise ValueError(
            'several channels may have different units: add "channel" to by, or select one with .sel(channel=[...])'
        )
    forecast, truth = xr.broadcast(result["forecast"], result["truth"])
    dims = forecast.dims
    over = tuple(i for i, dim in enumerate(dims) if dim not in by)
    options = {}
    if weights is not None:
        options["weights"] = torch.from_numpy(weights.broadcast_like(truth).transpose(*dims).values.copy())
    values = METRICS[metric](
        torch.from_numpy(forecast.values), torch.from_numpy(truth.values.copy()), dim=over, **options
    )
    kept = [dim for dim in dims if dim in by]
    scored = xr.DataArray(values.numpy(), dims=kept, coords={dim: forecast[dim] for dim in kept}, name=metric)
    return scored.transpose(*by)


def skill(
    result: xr.Dataset, baseline: xr.Dataset, *, metric: str = "mse", by: str | Sequence[str] = "lead"
) -> xr.DataArray:
    r"""The share of the baseline's error that a forecaster removes: :math:`1 - \mathrm{E} / \mathrm{E}_\mathrm{base}`.

    1 is a perfect forecast, 0 no better than the baseline, negative worse.
    Raises ValueError unless both backtests hold the same windows and the same truth.
    Source: Murphy (1988), doi:10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2, eq. 4, for the mean squared error.
    """
    same_windows(result, baseline)
    return (1 - score(result, metric=metric, by=by) / score(baseline, metric=metric, by=by)).rename("skill")


def same_windows(result: xr.Dataset, baseline: xr.Dataset) -> None:
    """Raise ValueError unless two backtests forecast the same targets."""
    if not result["truth"].equals(baseline["truth"]):
        raise ValueError(
            "the two backtests do not share their windows: "
            f"{dict(result['truth'].sizes)} from {result.origin.values[0]} and "
            f"{dict(baseline['truth'].sizes)} from {baseline.origin.values[0]}, or their truths differ"
        )


def area_weights(field: xr.DataArray | xr.Dataset) -> xr.DataArray:
    r"""The area of a cell of a latitude–longitude grid, up to a constant: :math:`\cos(\mathrm{latitude})`."""
    return np.cos(np.deg2rad(field["lat"])).rename("area")
