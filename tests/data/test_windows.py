import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from stlib.data.windows import CALENDAR, Windows, split
from stlib.models.baselines import CYCLES, Climatology, Persistence


def ramp(steps, shape=(), start="2001-01-01", freq="D"):
    """A field whose value is its own time step, so that every window shows where it was cut."""
    values = np.arange(steps, dtype="float32").reshape(-1, 1, *[1] * len(shape)) * np.ones((1, 1, *shape), "float32")
    dims = ("time", "channel", *("y", "x")[: len(shape)])
    return xr.DataArray(
        values, dims=dims, coords={"time": pd.date_range(start, periods=steps, freq=freq), "channel": ["a"]}
    )


def test_windows_are_the_steps_they_claim_to_be():
    parts = split(ramp(20), past=3, horizon=2, train=10, validation=4)
    past, future, *_ = parts.train[:]
    assert past[:, :, 0].tolist() == [[t - 3, t - 2, t - 1] for t in range(3, 9)]
    assert future[:, :, 0].tolist() == [[t, t + 1] for t in range(3, 9)]
    assert parts.validation[:].future[:, 0, 0].tolist() == [10, 11, 12]
    assert parts.test[:].future[:, -1, 0].tolist() == [15, 16, 17, 18, 19]
    assert parts.test[0].past[0, :, 0].tolist() == [11, 12, 13]  # reaches back into validation: known by then
    assert list(parts.test.origins.strftime("%d")) == ["14", "15", "16", "17", "18"]


@given(
    steps=st.integers(34, 60),
    past=st.integers(1, 6),
    horizon=st.integers(1, 4),
    gap=st.integers(0, 4),
    train=st.integers(12, 15),
    validation=st.integers(5, 7),
)
def test_no_target_belongs_to_two_parts_and_the_gap_to_none(steps, past, horizon, gap, train, validation):
    parts = split(ramp(steps), past=past, horizon=horizon, train=train, validation=validation, gap=gap)
    targets = [set(part[:].future.flatten().long().tolist()) for part in parts]
    assert max(targets[0]) == train - 1 and max(parts.train.series.flatten()) == train - 1
    assert min(targets[1]) == train + gap and max(targets[1]) == train + gap + validation - 1
    assert min(targets[2]) == train + validation + 2 * gap and max(targets[2]) == steps - 1


def test_series_holds_what_the_windows_touch():
    parts = split(ramp(20), past=3, horizon=2, train=10, validation=4)
    for part in parts:
        batch = part[:]
        touched = torch.cat([batch.past, batch.future], 1).unique()
        assert part.series.flatten().tolist() == touched.tolist()
        assert len(part.calendar) == len(part.series)


def test_batches_cover_every_window_once_and_drop_none():
    part = split(ramp(40), past=3, horizon=2).train
    assert [len(batch.past) for batch in part.batches(8)] == [8, 8, 4]
    shuffled = torch.cat(
        [b.future[:, 0, 0] for b in part.batches(8, shuffle=True, generator=torch.Generator().manual_seed(0))]
    )
    assert shuffled.tolist() != sorted(shuffled.tolist())
    assert sorted(shuffled.tolist()) == part[:].future[:, 0, 0].tolist()


def test_windows_are_gathered_from_one_tensor():
    part = split(ramp(40, (4, 5)), past=30, horizon=2, train=36, validation=2).train
    assert part.series.untyped_storage().data_ptr() == part.field.untyped_storage().data_ptr()
    assert part.every(2).field is part.field and len(part.every(2)) == 3


def test_map_changes_values_not_windows():
    part = split(ramp(20), past=3, horizon=2).validation
    assert torch.equal(part.map(lambda x: 2 * x)[:].future, 2 * part[:].future)
    assert part[:].future.max() == 15 and part.map(torch.neg).series.min() == -15


def test_the_calendar_is_that_of_the_steps():
    batch = split(ramp(800, start="2003-12-30 18:00", freq="6h"), past=4, horizon=3).train[5]
    when = pd.date_range("2003-12-30 18:00", periods=800, freq="6h")[5:12]
    expected = {
        "month": when.month - 1,
        "weekday": when.day_of_week,
        "hour": when.hour,
        "day_of_year": when.day_of_year - 1,
    }
    for column, name in enumerate(CALENDAR):
        assert batch.calendar[0, :, column].tolist() == list(expected[name])
    assert tuple(CYCLES) == CALENDAR


def test_a_model_gets_the_calendar_only_if_it_asks():
    batch = split(ramp(20), past=3, horizon=2).train[:]
    assert len(batch.inputs(Persistence(horizon=2))) == 1
    assert len(batch.inputs(Climatology(horizon=2, cycle="month"))) == 2


def with_holidays(steps=20):
    """A field, and two columns: the step's own number, and whether it divides by three."""
    field = ramp(steps)
    number = np.arange(steps)
    columns = np.stack([number, number % 3 == 0], 1).astype(float)
    return field, xr.DataArray(columns, dims=("time", "column"), coords={"time": field["time"]})


def test_regressors_come_with_the_window_and_reach_into_the_future():
    field, columns = with_holidays()
    parts = split(field, past=3, horizon=2, regressors=columns)
    for part in parts:
        batch = part[:]
        assert batch.regressors.shape == (len(part), 5, 2)
        last = [field.indexes["time"].get_loc(origin) for origin in part.origins]
        assert batch.regressors[:, 2, 0].tolist() == last
        torch.testing.assert_close(batch.regressors[:, :, 1], (batch.regressors[:, :, 0] % 3 == 0).float())
        assert part.regressors.shape == (len(part.series), 2)
    assert parts.test.every(2)[:].regressors.shape[0] == len(parts.test.every(2))


def test_a_model_gets_what_it_asks_for_by_name_in_its_own_order():
    class Both(torch.nn.Module):
        def forward(self, past, regressors=None, calendar=None, truth=None): ...

    class Known(torch.nn.Module):
        def forward(self, past, regressors=None): ...

    field, columns = with_holidays()
    batch = split(field, past=3, horizon=2, regressors=columns).train[:]
    past, regressors, calendar = batch.inputs(Both())
    assert past is batch.past and regressors is batch.regressors and calendar is batch.calendar
    assert [x is y for x, y in zip(batch.inputs(Known()), (batch.past, batch.regressors), strict=True)] == [True, True]
    bare = batch._replace(regressors=None)
    assert bare.inputs(Known()) == (batch.past,)
    assert bare.inputs(Both())[1] is None and bare.inputs(Both())[2] is batch.calendar


def test_regressors_of_other_times_or_with_gaps_are_refused():
    field, columns = with_holidays()
    with pytest.raises(ValueError, match="regressors need the 20 times of the field, got 19 steps"):
        split(field, past=3, horizon=2, regressors=columns[1:])
    with pytest.raises(ValueError, match="regressors need the 20 times of the field"):
        split(field, past=3, horizon=2, regressors=columns.drop_vars("time"))
    with pytest.raises(ValueError, match="known at every step, got 1 missing"):
        split(field, past=3, horizon=2, regressors=columns.where(columns != 7))
    with pytest.raises(ValueError, match="regressors need dims"):
        split(field, past=3, horizon=2, regressors=columns[:, 0])


@pytest.mark.parametrize("name", ["regressors", "calendar"])
def test_a_model_that_would_not_get_what_it_asks_for_is_refused(name):
    class Later(torch.nn.Module): ...

    class Keyword(torch.nn.Module): ...

    for kind, signature in ((Later, f"past, truth=None, {name}=None"), (Keyword, f"past, *, {name}=None")):
        kind.forward = eval(f"lambda self, {signature}: past")
        with pytest.raises(ValueError, match=f"must stand directly after the past.*{kind.__name__}.forward.*{name}"):
            split(ramp(20), past=3, horizon=2).train[:].inputs(kind())


def test_regressors_are_numbers_of_the_fields_type():
    field, columns = with_holidays()
    cut = {"past": 3, "horizon": 2}
    for same in (columns.astype(int), columns.astype(object), columns.astype("float32")):
        known = split(field, **cut, regressors=same).train.regressors
        assert known.dtype == torch.float32 and known[:, 0].tolist() == list(range(12))
    assert split(field, **cut, regressors=columns > 3, dtype=torch.float64).train.regressors.sum() == 8
    dates = columns.copy(data=np.broadcast_to(field.time.values[:, None], (20, 2)))
    for other in (columns + 1j, dates):
        with pytest.raises(ValueError, match="regressors must be real numbers, got (complex128|datetime64)"):
            split(field, **cut, regressors=other)
    with pytest.raises(ValueError, match="known at every step, got 19 missing or infinite values in torch.float32"):
        split(field, **cut, regressors=columns.copy(data=columns.values * [1e39, 1]))
    for other in (columns.values, columns.to_pandas()):
        with pytest.raises(ValueError, match="regressors must be an xarray array with dims"):
            split(field, **cut, regressors=other)


def test_regressors_are_copied_and_stay_when_the_field_is_mapped():
    field, columns = with_holidays()
    part = split(field, past=3, horizon=2, regressors=columns, dtype=torch.float64).validation
    columns[:] = -1
    assert part.regressors[:, 0].tolist() == part.series.flatten().tolist() == list(range(9, 16))
    assert torch.equal(part.map(torch.neg)[:].regressors, part[:].regressors)
    assert part.map(torch.neg).regressors[:, 0].tolist() == list(range(9, 16))


def test_missing_values_stay_missing():
    field = ramp(20)
    field[4] = np.nan
    assert split(field, past=3, horizon=2, train=12).train[1].future.isnan().flatten().tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(channel="variable"), r'needs dims \("time", "channel"'),
        (lambda f: f.isel(time=[0, 1, 1, *range(2, 30)]), "strictly increasing"),
        (lambda f: f.isel(time=slice(None, None, -1)), "strictly increasing"),
        (lambda f: f.isel(time=[*range(10), *range(12, 40)]), "resample it to one step"),
        (lambda f: f.where(f > 35), "channel a has no observed value in the training part"),
    ],
)
def test_unfit_fields_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        split(change(ramp(40)), past=3, horizon=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"past": 0, "horizon": 2}, "past and horizon must be at least 1"),
        ({"past": 3, "horizon": 30}, "the train part has 24 steps, too few"),
        ({"past": 3, "horizon": 2, "train": 30, "validation": 10}, "leave no test part of 40"),
        ({"past": 3, "horizon": 2, "train": 30, "validation": 6, "gap": 2}, "leave no test part of 40"),
    ],
)
def test_impossible_splits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        split(ramp(40), **options)


def test_monthly_time_is_regular_and_worlds_need_no_dates():
    assert len(split(ramp(60, freq="MS"), past=3, horizon=2).train) == 32
    assert len(split(ramp(60, freq="YS"), past=3, horizon=2).train) == 32
    steps = ramp(40).assign_coords(time=np.arange(40))
    batch = split(steps, past=3, horizon=2).train[:]
    assert batch.calendar is None
    with pytest.raises(ValueError, match="month climatology needs a calendar"):
        Climatology(horizon=2, cycle="month").fit(split(steps, past=3, horizon=2).train.series)


def test_the_class_is_not_needed_to_make_windows_of_a_float64_field():
    parts = split(ramp(40), past=3, horizon=2, dtype=torch.float64)
    assert isinstance(parts.train, Windows) and parts.train[0].past.dtype == torch.float64


def test_calendar_and_series_are_of_the_same_steps():
    for part in split(ramp(40, start="2001-01-20"), past=3, horizon=2):
        when = pd.Timestamp("2001-01-20") + pd.to_timedelta(part.series.flatten().numpy(), unit="D")
        assert part.calendar[:, CALENDAR.index("day_of_year")].tolist() == list(when.day_of_year - 1)


def test_the_field_is_copied():
    field = ramp(40)
    parts = split(field, past=3, horizon=2)
    field[:] = -1
    assert parts.train.series.max() == 23


def test_the_generator_decides_the_order():
    part = split(ramp(60), past=3, horizon=2).train
    orders = [
        [b.future[0, 0, 0].item() for b in part.batches(1, shuffle=True, generator=torch.manual_seed(s))]
        for s in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_a_mapped_field_is_mapped_as_a_whole():
    part = split(ramp(40), past=3, horizon=2).validation.map(lambda x: x - x.mean())
    assert part.series[:3].flatten().tolist() == part[0].past.flatten().tolist() == [1.5, 2.5, 3.5]


def test_ends_of_months_are_regular_and_a_missing_month_is_not():
    assert len(split(ramp(60, freq="ME"), past=3, horizon=2).train) == 32
    assert len(split(ramp(60, freq="QE"), past=3, horizon=2).train) == 32
    for change in ([*range(10), *range(11, 40)], [*range(39)]):
        field = ramp(40, freq="MS").isel(time=change)
        if len(change) == 39 and change[-1] == 38:
            field = field.assign_coords(
                time=field.time.where(field.time != field.time[20], field.time[20] + np.timedelta64(3, "D"))
            )
        with pytest.raises(ValueError, match="resample it to one step"):
            split(field, past=3, horizon=2)


def test_a_wrapped_model_is_asked_for_its_own_arguments():
    batch = split(ramp(20), past=3, horizon=2).train[:]
    assert len(batch.inputs(torch.compile(Climatology(horizon=2, cycle="month"), backend="eager"))) == 2
    assert len(batch.inputs(torch.nn.DataParallel(Climatology(horizon=2, cycle="month")))) == 2


def test_time_needs_a_coordinate():
    with pytest.raises(ValueError, match="the dim time needs a coordinate"):
        split(ramp(40).drop_vars("time"), past=3, horizon=2)
