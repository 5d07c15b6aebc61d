import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from test_windows import ramp

from stlib.data import datasets
from stlib.data.preprocessing.imputation import (
    ClimatologyFill,
    EOFFill,
    Imputed,
    NeighbourFill,
    TimeInterpolation,
    gaps_like_real,
    impute,
)
from stlib.data.scaling import Scaled, Scaler
from stlib.data.windows import split
from stlib.models.baselines import CYCLES, Climatology, Persistence, carry_forward
from stlib.models.linear import NLinear


def gappy(shape=(60, 2, 3, 4), share=0.3, seed=0, rank=2, noise=1.0):
    """A field of a few patterns and noise, with a share of its values missing: (field with gaps, complete field)."""
    generator = np.random.default_rng(seed)
    cells = int(np.prod(shape[1:]))
    values = generator.normal(size=(shape[0], rank)) @ generator.normal(size=(rank, cells))
    values = (5 + values + noise * generator.normal(size=values.shape)).reshape(shape)
    like = ramp(shape[0], shape[2:])
    full = xr.DataArray(values, dims=like.dims, coords={"time": like.time, "channel": range(shape[1])})
    return full.where(generator.random(shape) >= share), full


def ring(places):
    return torch.eye(places).roll(1, 0) + torch.eye(places).roll(-1, 0)


def imputers(places=12):
    return [
        TimeInterpolation(),
        TimeInterpolation(limit=1),
        ClimatologyFill(cycle=None),
        ClimatologyFill(cycle="weekday"),
        NeighbourFill(adjacency=ring(places)),
        EOFFill(modes=2),
    ]


def parts(dtype=torch.float32, seed=0, **options):
    return split(gappy(seed=seed, **options)[0], past=5, horizon=2, dtype=dtype)


def dates(part):
    return part.calendar[None]


# ---- all imputers


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.8), which=st.integers(0, 5), wide=st.booleans())
def test_an_observed_value_is_never_changed(seed, share, which, wide):
    dtype = torch.float64 if wide else torch.float32
    p = parts(dtype, seed, share=share)
    imputer = imputers()[which].fit(p.train)
    series = p.test.series[None]
    before = series.clone()
    filled = imputer(series, dates(p.test))
    assert torch.equal(filled[~series.isnan()], series[~series.isnan()])
    torch.testing.assert_close(series, before, rtol=0, atol=0, equal_nan=True)  # the input is left alone too
    assert filled.dtype == dtype and filled.shape == series.shape


@pytest.mark.parametrize("which", range(6))
def test_later_parts_do_not_move_the_estimates_and_other_parts_are_refused(which):
    p, changed = parts(), parts()
    changed.test.field[36:] *= -9
    fitted, again = imputers()[which].fit(p.train), imputers()[which].fit(changed.train)
    for one, other in zip(fitted.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    for part in (p.validation, p.test):
        with pytest.raises(ValueError, match="fitted on the training part only, got the (validation|test) part"):
            imputers()[which].fit(part)


@pytest.mark.parametrize("which", range(6))
def test_state_survives_a_round_trip_and_non_contiguous_input_is_the_same(which):
    p = parts()
    imputer, copy = imputers()[which].fit(p.train), imputers()[which]
    batch = p.test[:]
    past, calendar = batch.past, batch.calendar[:, :5]
    if which >= 2:
        with pytest.raises(ValueError, match="not fitted yet: call fit"):
            copy(past, calendar)
    copy.load_state_dict(imputer.state_dict(), assign=True)
    expected = imputer(past, calendar)
    torch.testing.assert_close(copy(past, calendar), expected, rtol=0, atol=0, equal_nan=True)
    strided = past.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(imputer(strided, calendar), expected, equal_nan=True)
    assert imputer(past[:0], calendar[:0]).shape == (0, *past.shape[1:])
    complete = torch.ones_like(past)
    assert torch.equal(imputer(complete, calendar), complete)


@pytest.mark.parametrize("which", range(6))
def test_all_missing_and_never_observed(which):
    field = gappy()[0]
    field[:, 1, 1, 2] = np.nan
    field[40:, 0, 0, 0] = np.nan
    p = split(field, past=5, horizon=2, train=36, validation=10)
    imputer = imputers()[which].fit(p.train)
    filled = imputer(p.test.series[None], dates(p.test))
    assert filled[:, :, 1, 1, 2].isnan().all()  # never observed in training
    if which not in (0, 1, 4):
        assert filled.isnan().sum() == filled.shape[1]  # and everything else is filled
    later = p.test.series[None].clone()
    later[:, :, 1, 1, 2] = 3.0  # observed now, but unknown to what was fitted: nothing else moves, nothing breaks
    now = imputer(later, dates(p.test))
    assert (now[:, :, 1, 1, 2] == 3).all()
    others = torch.ones(now.shape[2:], dtype=torch.bool)
    others[1, 1, 2] = False
    if which != 4:
        torch.testing.assert_close(now[:, :, others], filled[:, :, others], rtol=0, atol=0, equal_nan=True)
    nothing = imputer(torch.full_like(later, torch.nan), dates(p.test))
    if which in (0, 1, 4):
        assert nothing.isnan().all()
    elif which in (2, 5):  # the posterior mean of a step with nothing observed is the climatological mean
        mean = imputer.mean[0] if which == 2 else imputer.scaler.mean
        torch.testing.assert_close(nothing, mean.expand_as(nothing), equal_nan=True)


@pytest.mark.parametrize("shape", [(40, 3), (40, 1, 5), (41, 2, 3, 7)])
@pytest.mark.parametrize("which", range(6))
def test_any_space_and_one_step(shape, which):
    p = split(gappy(shape)[0], past=5, horizon=2)
    imputer = imputers(int(np.prod(shape[2:])))[which]
    if which == 4 and shape == (40, 3):
        imputer = NeighbourFill(adjacency=torch.zeros(1, 1))
    imputer.fit(p.train)
    assert imputer(p.test.series[None], dates(p.test)).shape == p.test.series[None].shape
    one = imputer(p.test.series[None, :1], dates(p.test)[:, :1])
    assert one.shape == p.test.series[None, :1].shape
    with pytest.raises(ValueError, match="series must be .*got shape"):
        imputer(p.test.series[0, 0])
    if which >= 2:
        with pytest.raises(ValueError, match="series must be .*got shape"):
            imputer(p.test.series[None, :, :0], dates(p.test))


@pytest.mark.parametrize("which", [2, 3, 4, 5])
def test_a_step_is_filled_from_that_step_alone(which):
    p = parts()
    imputer = imputers()[which].fit(p.train)
    series, calendar = p.test.series[None], dates(p.test)
    filled, changed = imputer(series, calendar), series.clone()
    changed[:, :4], changed[:, 5:] = 77.0, -1e6
    torch.testing.assert_close(imputer(changed, calendar)[:, 4], filled[:, 4], equal_nan=True)
    torch.testing.assert_close(imputer(series[:, 4:5], calendar[:, 4:5]), filled[:, 4:5], equal_nan=True)


@pytest.mark.parametrize("which", range(6))
def test_infinite_values_are_refused_and_not_averaged(which):
    field = gappy(share=0.1)[0]
    p = split(field, past=5, horizon=2)
    imputer = imputers()[which].fit(p.train)
    series = p.test.series[None].clone()
    series[0, 3, 1, 1, 2], series[0, 4, 0, 0, 0] = torch.inf, -torch.inf
    with pytest.raises(ValueError, match="the series holds 2 infinite values: make them missing first"):
        imputer(series, dates(p.test))
    spoilt = field.copy()
    spoilt[3, 1, 1, 2] = -np.inf
    with pytest.raises(ValueError, match="the series holds 1 infinite values: make them missing first"):
        imputers()[which].fit(split(spoilt, past=5, horizon=2).train)
    spoilt[3, 1, 1, 2], spoilt[50, 0, 0, 0] = 0, np.inf  # the training part alone is looked at for a fit
    imputers()[which].fit(split(spoilt, past=5, horizon=2).train)


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize(("fitted", "given"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_a_series_of_another_type_than_the_fit_keeps_its_own(which, fitted, given):
    one, other = parts(fitted), parts(given)
    series = other.test.series[None]
    filled = imputers()[which].fit(one.train)(series, dates(other.test))
    assert filled.dtype == given and torch.equal(filled[~series.isnan()], series[~series.isnan()])
    same = imputers()[which].fit(other.train)(series, dates(other.test))
    torch.testing.assert_close(filled, same, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_sparse_neighbours_of_another_type_than_the_series():
    one, other = parts(torch.float32), parts(torch.float64)
    series = other.test.series[None]
    filled = NeighbourFill(adjacency=ring(12).to_sparse()).fit(one.train)(series)
    dense = NeighbourFill(adjacency=ring(12)).fit(one.train)(series)
    torch.testing.assert_close(filled, dense, rtol=1e-12, atol=1e-12, equal_nan=True)


# ---- time


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 30), share=st.floats(0, 1))
def test_time_interpolation_is_pandas(seed, steps, share):
    generator = np.random.default_rng(seed)
    table = np.where(generator.random((steps, 4)) < share, np.nan, generator.normal(size=(steps, 4)))
    expected = pd.DataFrame(table).interpolate(limit_direction="both").to_numpy()
    ours = TimeInterpolation()(torch.tensor(table)[None])[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_long_gaps_stay_missing_as_a_whole(limit):
    field, _ = gappy((80, 1, 6), share=0.6)
    # xarray's max_gap is the distance between the observed neighbours, one step more than what is missing between.
    expected = field.assign_coords(time=np.arange(80)).interpolate_na("time", max_gap=limit + 1)
    ours = TimeInterpolation(limit=limit)(torch.tensor(field.values)[None])[0].numpy()
    inside = field.ffill("time").notnull().values & field.bfill("time").notnull().values
    assert np.isnan(expected.values[inside]).any()
    np.testing.assert_allclose(ours[inside], expected.values[inside])


def test_the_ends_are_limited_too_and_are_persistence():
    x = torch.tensor([[torch.nan, torch.nan, 2.0, torch.nan, 5.0, torch.nan, torch.nan, torch.nan]]).reshape(1, 8, 1)
    assert TimeInterpolation(limit=3)(x).flatten().tolist() == [2, 2, 2, 3.5, 5, 5, 5, 5]
    assert TimeInterpolation(limit=2)(x).isnan().flatten().tolist() == [False] * 5 + [True] * 3
    assert TimeInterpolation(limit=1)(x).isnan().flatten().tolist() == [True] * 2 + [False] * 3 + [True] * 3
    assert torch.equal(TimeInterpolation()(x)[:, -1], carry_forward(x)[:, -1])
    with pytest.raises(ValueError, match="limit must be None or a number of steps of at least 1, got 0"):
        TimeInterpolation(limit=0)


# ---- climatology


@pytest.mark.parametrize("cycle", [None, *CYCLES])
def test_climatology_is_pandas_groupby(cycle):
    field = gappy((200, 2, 3))[0].assign_coords(time=pd.date_range("2003-12-25", periods=200, freq="7h"))
    p = split(field, past=5, horizon=2, train=120, validation=40, dtype=torch.float64)
    table = pd.DataFrame(field.values.reshape(200, -1), index=field.indexes["time"])
    index = table.index
    phase = {
        None: np.zeros(200),
        "month": index.month,
        "weekday": index.day_of_week,
        "hour": index.hour,
        "day_of_year": index.day_of_year,
    }[cycle]
    usual = table[:120].groupby(phase[:120]).mean().reindex(phase).to_numpy()
    expected = table.fillna(pd.DataFrame(usual, index=index)).to_numpy()[155:]
    filled = ClimatologyFill(cycle=cycle).fit(p.train)(p.test.series[None], dates(p.test))[0]
    np.testing.assert_allclose(filled.flatten(1), expected)
    assert bool(filled.isnan().any()) == (cycle in ("month", "day_of_year"))  # phases that training did not see


def test_climatology_needs_a_known_cycle_and_its_calendar():
    p = parts()
    with pytest.raises(ValueError, match="cycle must be None or one of month, weekday, hour, day_of_year, got 'year'"):
        ClimatologyFill(cycle="year")
    fill = ClimatologyFill(cycle="month").fit(p.train)
    with pytest.raises(ValueError, match="'month' needs a calendar .1, 17, 4., got none"):
        fill(p.test.series[None])
    with pytest.raises(ValueError, match="got one of shape .1, 3, 4."):
        fill(p.test.series[None], dates(p.test)[:, :3])
    assert not ClimatologyFill(cycle=None).fit(p.train)(p.test.series[None]).isnan().any()


# ---- neighbours


def three_places():
    """Means 0, 10, -1 and spreads 1, 2, 4, and one more step to fill."""
    sign = np.array([1.0, -1, 1, -1, 1, -1, 1, -1])
    values = np.stack([sign, 10 + 2 * sign, -1 + 4 * sign], 1)[:, None]
    field = ramp(8).expand_dims({"place": 3}, axis=2).copy(data=values)
    return split(field, past=1, horizon=1, train=4, validation=2, dtype=torch.float64).train


def test_neighbours_by_hand():
    adjacency = [[0, 3, 1], [1, 0, 1], [0, 2, 0]]  # 0 hears 1 and 2, 2 hears 1 only
    fill = NeighbourFill(adjacency=np.array(adjacency)).fit(three_places())
    nan = torch.nan
    given = torch.tensor([[nan, 14, 7], [nan, nan, 7], [nan, 14, nan], [3, 14, nan], [5, nan, nan], [nan, nan, nan]])
    # z: 14 is 2 spreads above, 7 is 2 spreads above
    expected = torch.tensor(
        [[2, 14, 7], [2, 14, 7], [2, 14, 7], [3, 14, 7], [5, 20, nan], [nan, nan, nan]], dtype=torch.float64
    )
    filled = fill(given.double()[None, :, None])[0, :, 0]
    torch.testing.assert_close(filled, expected, equal_nan=True)
    unequal = torch.tensor([[nan, 12, 15.0]], dtype=torch.float64)  # z = 1 and 4, weights 3 and 1
    assert fill(unequal[None, :, None])[0, 0, 0, 0].item() == pytest.approx((3 * 1 + 1 * 4) / 4)
    middle = torch.tensor([[2.0, nan, -13.0]], dtype=torch.float64)  # z = 2 and -3, weights 1 and 1
    assert fill(middle[None, :, None])[0, 0, 0, 1].item() == pytest.approx(10 + 2 * (2 - 3) / 2)


def test_neighbours_against_a_loop_dense_and_sparse():
    p = parts(torch.float64)
    adjacency = np.random.default_rng(1).random((12, 12)) * (np.random.default_rng(2).random((12, 12)) < 0.3)
    series = p.test.series
    train = p.train.series.flatten(2).numpy()
    mean, spread = np.nanmean(train, 0), np.nanstd(train, 0)
    x = series.flatten(2).numpy()
    expected = x.copy()
    for t, c, i in np.argwhere(np.isnan(x)):
        others = [j for j in range(12) if adjacency[i, j] > 0 and not np.isnan(x[t, c, j])]
        if others:
            z = [(x[t, c, j] - mean[c, j]) / spread[c, j] for j in others]
            expected[t, c, i] = mean[c, i] + spread[c, i] * np.average(z, weights=adjacency[i, others])
    for form in (adjacency, torch.tensor(adjacency).to_sparse(), xr.DataArray(adjacency), adjacency.tolist()):
        filled = NeighbourFill(adjacency=form).fit(p.train)(series[None])[0]
        np.testing.assert_allclose(filled.flatten(2), expected)
    assert np.isnan(expected).any()


def test_unfit_adjacencies_are_refused():
    with pytest.raises(ValueError, match=r"adjacency must be \(N, N\), got shape \(2, 3\)"):
        NeighbourFill(adjacency=torch.zeros(2, 3))
    for wrong, said in ((-1.0, "0 missing or infinite and 1 neg"), (torch.nan, "1 missing"), (torch.inf, "1 missing")):
        adjacency = torch.tensor([[0.0, wrong], [1.0, 0.0]])
        for form in (adjacency, adjacency.to_sparse(), xr.DataArray(adjacency.numpy())):
            with pytest.raises(ValueError, match=f"adjacency must have finite weights of 0 or more, got {said}"):
                NeighbourFill(adjacency=form)
    with pytest.raises(ValueError, match="adjacency is for 5 places, the training part has 12"):
        NeighbourFill(adjacency=ring(5)).fit(parts().train)


# ---- EOFs


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-5), (torch.float32, 1e-2)])
def test_two_patterns_without_noise_are_recovered_exactly(dtype, within):
    field, full = gappy((80, 2, 5, 6), share=0.4, noise=0.0)
    p = split(field, past=5, horizon=2, dtype=dtype)
    fill = EOFFill(modes=2).fit(p.train)
    filled = fill(p.test.series[None])[0]
    truth = torch.tensor(full.values[-len(filled) :])
    assert p.test.series.isnan().float().mean() > 0.3
    assert (filled - truth).abs().max() / truth.std() < within
    # The noise does not reach zero, where a step with fewer than two observed values could not be solved.
    assert fill.noise.item() == pytest.approx(60 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(100, 2, 3, 4), (40, 1, 12, 5)])  # more steps than cells, and fewer
def test_with_nothing_missing_it_is_pca(shape):
    p = split(gappy(shape, share=0)[0], past=5, horizon=2, dtype=torch.float64)
    fill = EOFFill(modes=3).fit(p.train)
    z = Scaler(per="place").fit(p.train)(p.train.series).flatten(1).numpy()
    pca = PCA(3, svd_solver="full").fit(z)
    steps, cells = z.shape
    np.testing.assert_allclose(fill.variance, pca.explained_variance_ * (steps - 1) / steps)
    overlap = fill.patterns.flatten(1).numpy() @ pca.components_.T
    np.testing.assert_allclose(np.abs(overlap), np.eye(3), atol=1e-8)
    rest = PCA(svd_solver="full").fit(z).explained_variance_[3:].sum() * (steps - 1) / steps
    assert fill.noise.item() == pytest.approx(rest / (cells - 3))


def test_the_fill_is_the_mean_of_the_conditional_gaussian():
    p = parts(torch.float64)
    fill = EOFFill(modes=2).fit(p.train)
    patterns = fill.patterns.flatten(1)
    covariance = patterns.T @ torch.diag(fill.variance - fill.noise) @ patterns + fill.noise * torch.eye(24)
    series = p.test.series
    z = fill.scaler(series).flatten(1)
    for step in z:
        unseen = step.isnan()
        gain = torch.linalg.solve(covariance[~unseen][:, ~unseen], covariance[~unseen][:, unseen]).T
        step[unseen] = gain @ step[~unseen]
    torch.testing.assert_close(fill(series[None])[0], fill.scaler.inverse(z.reshape(series.shape)))


def test_with_gaps_it_finds_the_model_that_made_the_data():
    generator = np.random.default_rng(3)
    weights = generator.normal(size=(10, 2)) * [1.0, 0.6]
    weights *= np.sqrt(0.75) / np.linalg.norm(weights, axis=1, keepdims=True)
    values = generator.normal(size=(6000, 2)) @ weights.T + 0.5 * generator.normal(size=(6000, 10))
    # Missing more often where the first place is high: the mean of what is observed is wrong.
    missing = (generator.random((6000, 10)) < 0.3) | ((values[:, :1] > 0.5) & (generator.random((6000, 10)) < 0.6))
    missing[:, 0] = False
    values[missing] = np.nan
    labels = {"time": np.arange(6000), "channel": range(10)}
    train = split(
        xr.DataArray(values, dims=("time", "channel"), coords=labels),
        past=1,
        horizon=1,
        train=5990,
        validation=5,
        dtype=torch.float64,
    ).train
    fill = EOFFill(modes=2, tolerance=1e-6, iterations=300).fit(train)
    assert np.abs(np.nanmean(values[:5990], 0)).max() > 0.15 and fill.scaler.mean.abs().max() < 0.06
    torch.testing.assert_close(fill.patterns @ fill.patterns.T, torch.eye(2, dtype=torch.float64))
    found = fill.scaler.spread[:, None] * fill.patterns.T * (fill.variance - fill.noise).sqrt()
    np.testing.assert_allclose(found @ found.T, weights @ weights.T, atol=0.06)
    assert fill.noise.item() == pytest.approx(0.25, abs=0.02)
    once = EOFFill(modes=2, iterations=1).fit(train)
    assert once.noise > 1.1 * fill.noise  # the rounds do the work


def test_modes_have_bounds_and_the_fit_is_deterministic():
    p = parts()
    state = torch.random.get_rng_state()
    one, other = EOFFill(modes=4).fit(p.train), EOFFill(modes=4).fit(p.train)
    assert torch.equal(one.patterns, other.patterns) and torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(ValueError, match="modes must be below 24, for 36 steps and 24 observed cells"):
        EOFFill(modes=24).fit(p.train)
    with pytest.raises(ValueError, match="modes and iterations must be at least 1, got 0 and 100"):
        EOFFill(modes=0)


def test_a_cell_observed_once_does_not_break_the_fit():
    field, _ = gappy((60, 1, 5, 5))
    field[:, 0, 2, 2] = np.nan
    field[7, 0, 2, 2] = 4.0
    p = split(field, past=5, horizon=2)
    filled = EOFFill(modes=4).fit(p.train)(p.test.series[None])[0]
    assert (filled[:, 0, 2, 2] - 4).abs().max() < 1  # near its only value
    assert not filled.isnan().any()


def test_cells_observed_three_times_get_small_weights():
    field, full = gappy((60, 1, 5, 5))
    field[:, 0, 0] = np.nan
    field[[7, 20, 31], 0, 0] = full[[7, 20, 31], 0, 0]
    fill = EOFFill(modes=4).fit(split(field, past=5, horizon=2).train)
    weights = (fill.patterns * (fill.variance - fill.noise).sqrt().reshape(-1, 1, 1, 1)).norm(dim=0)[0]
    # Without the prior 0.86, more than the cells that are observed in most steps.
    assert weights[0].max() < 0.68 < weights[1:].max()


# ---- on real data


def test_neighbours_and_eofs_beat_climatology_on_hidden_blocks():
    field = datasets.load("nasa")  # 7 channels of weather, 72 months, 24 x 24 places
    generator = np.random.default_rng(0)
    hidden = xr.zeros_like(field, dtype=bool)
    for _ in range(120):  # 3 x 6 places, five months each, all channels
        month, lat, lon = (int(generator.integers(n)) for n in (68, 22, 19))
        hidden[month : month + 5, :, lat : lat + 3, lon : lon + 6] = True
    row, column = (index.ravel() for index in np.indices((24, 24)))
    apart = np.hypot(row[:, None] - row, column[:, None] - column)
    near = np.where((apart > 0) & (apart < 6), np.exp(-1.5 * apart), 0)
    spread = field.std("time")
    errors = {}
    for name, imputer in {
        "mean": ClimatologyFill(cycle=None),
        "month": ClimatologyFill(cycle="month"),
        "neighbours": NeighbourFill(adjacency=near),
        "eof": EOFFill(modes=10),
    }.items():
        filled = impute(field.where(~hidden), imputer, train=48).field
        wrong = ((filled - field) / spread.where(spread > 0)).where(hidden)[48:]  # in steps that nothing was fitted on
        errors[name] = float(np.sqrt((wrong**2).mean()))
    # Measured, in spreads: mean 1.07, month 0.88, neighbours 0.71, EOFs 0.76.
    assert errors["month"] < 0.9 * errors["mean"], errors
    assert errors["neighbours"] < 0.85 * errors["month"] and errors["eof"] < 0.9 * errors["month"], errors


# ---- forecasters


@settings(max_examples=15, deadline=None)
@given(which=st.integers(0, 5), seed=st.integers(0, 1000), mask=st.booleans())
def test_nothing_after_the_origin_reaches_the_forecast(which, seed, mask):
    field, _ = gappy(seed=seed)
    changed = field.copy()
    changed[50:] = np.random.default_rng(seed).normal(99, 9, changed[50:].shape)
    one, other = (split(f, past=5, horizon=2, train=30, validation=10) for f in (field, changed))
    imputer = imputers()[which].fit(one.train)
    model = Imputed(Persistence(horizon=2), imputer, mask=mask)
    batch, after = one.test[10], other.test[10]  # the targets are steps 50 and 51
    assert after.future.min() > 40 > batch.future.nan_to_num().max()
    forecast, again = (model(*b.inputs(model)) for b in (batch, after))
    torch.testing.assert_close(forecast, again, rtol=0, atol=0, equal_nan=True)
    assert forecast.shape == (1, 2, 4 if mask else 2, 3, 4)


def test_the_model_gets_the_filled_past_the_mask_and_the_whole_calendar():
    seen = {}

    class Spy(Persistence):
        def forward(self, past, calendar):
            seen.update(past=past, calendar=calendar)
            return super().forward(past)

    p = parts()
    fill = ClimatologyFill(cycle="weekday").fit(p.train)
    model = Imputed(Spy(horizon=2), fill, mask=True)
    batch = p.test[:]
    model(*batch.inputs(model))
    assert torch.equal(seen["calendar"], batch.calendar)
    assert torch.equal(seen["past"][:, :, :2], fill(batch.past, batch.calendar[:, :5]))
    assert torch.equal(seen["past"][:, :, 2:], batch.past.isnan().logical_not().float())
    Imputed(Spy(horizon=2), fill)(*batch.inputs(model))
    assert seen["past"].shape == batch.past.shape


@pytest.mark.parametrize("which", range(6))
def test_scaling_inside_and_outside_agree(which):
    p = parts(share=0.1)
    scaler = Scaler().fit(p.train)
    torch.manual_seed(0)
    model = NLinear(past=5, horizon=2)
    batch = p.test[:]
    inside = Imputed(Scaled(model, scaler), imputers()[which].fit(p.train))
    outside = Scaled(Imputed(model, imputers()[which].fit(scaler.windows(p.train))), scaler)
    one, other = inside(*batch.inputs(inside)), outside(*batch.inputs(outside))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3, equal_nan=True)
    if which not in (1, 4):
        assert not one.isnan().any()


def test_a_climatology_inside_still_knows_its_dates():
    p = parts()
    usual = Climatology(horizon=2, cycle="weekday").fit(p.train.series, p.train.calendar)
    model = Imputed(usual, TimeInterpolation())
    batch = p.test[:]
    torch.testing.assert_close(model(*batch.inputs(model)), usual(batch.past, batch.calendar), equal_nan=True)


# ---- records


def test_impute_marks_exactly_what_it_filled_and_keeps_the_labels():
    field, _ = gappy()
    field[:, 1, 1, 2] = np.nan
    field.attrs["units"] = "m"
    before = field.copy()
    filled = impute(field, ClimatologyFill(cycle="weekday"), train=60)
    assert filled.field.attrs == field.attrs and filled.field.dtype == field.dtype and field.equals(before)
    assert filled.field.coords.equals(field.coords) and not filled.imputed.attrs and filled.imputed.dims == field.dims
    assert filled.imputed.equals(field.isnull() & filled.field.notnull())
    assert filled.field.where(~filled.imputed).equals(field)
    assert not filled.imputed[:, 1, 1, 2].any() and filled.imputed.sum() == field.isnull().sum() - 60
    usual = field.groupby("time.dayofweek").mean().sel(dayofweek=field.time.dt.dayofweek)
    np.testing.assert_allclose(filled.field.values, field.fillna(usual).values)


def test_a_field_of_whole_numbers_comes_back_as_it_is():
    counts = gappy(share=0)[0].round().astype("int32")
    for imputer in imputers():
        filled = impute(counts, imputer, train=40)
        assert filled.field.identical(counts) and filled.field.dtype == np.int32
        assert filled.imputed.dtype == bool and not filled.imputed.any()


def test_impute_is_fitted_on_the_first_steps_only():
    field, _ = gappy()
    changed = field.copy()
    changed[40:] *= -9
    for imputer in imputers()[2:]:
        one, other = impute(field, imputer, train=40), impute(changed, imputer, train=40)
        assert one.field[:40].equals(other.field[:40])
        assert not impute(field, imputer, train=41).field[:40].equals(one.field[:40])
    for train in (1, 61):
        with pytest.raises(ValueError, match=f"train must be from 2 to the field's 60 steps, got {train}"):
            impute(field, TimeInterpolation(), train=train)
    with pytest.raises(ValueError, match='needs dims ."time", "channel"'):
        impute(field.rename(channel="variable"), TimeInterpolation(), train=40)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), season=st.sampled_from([None, 1, 7, 20]))
def test_hidden_values_are_the_real_gaps_moved(seed, season):
    field, _ = gappy((47, 2, 3), share=0.3, seed=seed)
    hidden = gaps_like_real(field, seed=seed, season=season).values
    missing = field.isnull().values
    whole = 47 // (season or 1) * (season or 1)
    possible = [
        k for k in range(season or 1, whole, season or 1)
        if np.array_equal(hidden[:whole], np.roll(missing[:whole], k, axis=0) & ~missing[:whole])
    ]  # fmt: skip
    assert len(possible) == 1 and not hidden[whole:].any() and not (hidden & missing).any()


@pytest.mark.parametrize("season", [None, 7, 20])
def test_the_gaps_move_alike_with_and_without_a_time_coordinate(season):
    field = gappy((47, 2, 3))[0]  # 47 is no multiple of 7 or 20
    hidden = gaps_like_real(field, seed=1, season=season)
    bare = gaps_like_real(field.drop_vars("time"), seed=1, season=season)
    assert hidden.coords.equals(field.coords) and hidden.dtype == bool and hidden.name == "hidden"
    assert bare.identical(hidden.drop_vars("time")) and bare.any()


def test_summer_gaps_stay_in_summer():
    measles = datasets.load("measles")
    weekly = {season: gaps_like_real(measles, seed=1, season=season).groupby("week").sum(...) for season in (None, 52)}
    real = measles.isnull().groupby("week").sum(...)
    likeness = {season: np.corrcoef(real, count)[0, 1] for season, count in weekly.items()}
    assert likeness[52] > 0.9 > 0.5 > likeness[None], likeness


def test_the_seed_decides_and_impossible_gaps_are_refused():
    field, full = gappy()
    assert gaps_like_real(field, seed=1).equals(gaps_like_real(field, seed=1))
    assert len({gaps_like_real(field, seed=seed).values.tobytes() for seed in range(30)}) > 20
    with pytest.raises(ValueError, match="the field has no missing value"):
        gaps_like_real(full, seed=0)
    with pytest.raises(ValueError, match="season=31 must be at least 1 and fit twice into the 60 time steps"):
        gaps_like_real(field, seed=0, season=31)
    land = full.where(xr.DataArray([False, True, True], dims="y"))
    with pytest.raises(ValueError, match="the gaps fall on what is missing anyway: take another seed"):
        gaps_like_real(land, seed=0)
