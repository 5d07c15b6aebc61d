import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.preprocessing import StandardScaler

from stlib.data.leakage import check_leakage
from stlib.data.scaling import Scaler
from stlib.data.windows import split
from stlib.models.baselines import Climatology

PAST, HORIZON, STEPS = 4, 3, 120
POSSIBLE = np.arange(PAST - 1, STEPS - HORIZON)  # every origin


def noise(steps=STEPS, shape=(3,), seed=0, missing=0.0):
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((steps, 2, *shape)).astype("float32") * 3 + 10
    values[generator.random(values.shape) < missing] = np.nan
    time = pd.date_range("2001-01-01", periods=steps, freq="D")
    dims = ("time", "channel", "y", "x")[: values.ndim]
    return xr.DataArray(values, dims=dims, coords={"time": time, "channel": ["a", "b"]})


FIELD = noise()
PARTS = split(FIELD, past=PAST, horizon=HORIZON, train=70, validation=20)


def check(field=FIELD, train=PARTS.train, test=PARTS.test, **options):
    return check_leakage(field, train=train, test=test, past=PAST, horizon=HORIZON, **options)


def row(report, name):
    return bool(report.loc[name, "leaks"]), report.loc[name, "finding"]


# The split


@settings(deadline=None, max_examples=40)
@given(past=st.integers(1, 8), horizon=st.integers(1, 6), gap=st.integers(0, 5), train=st.integers(30, 60))
def test_our_own_split_is_clean(past, horizon, gap, train):
    parts = split(FIELD, past=past, horizon=horizon, train=train, validation=20, gap=gap)
    report = check_leakage(
        FIELD, train=parts.train, validation=parts.validation, test=parts.test, past=past, horizon=horizon
    )
    assert not report["leaks"].any()
    assert "are tested" in report.loc["untested windows", "finding"]
    assert f"; {20 + 2 * gap} steps lie" in report.loc["memory", "finding"]


def test_the_report_is_a_table_of_one_row_a_check():
    report = check(validation=PARTS.validation)
    assert report.columns.tolist() == ["leaks", "finding"] and report["leaks"].dtype == bool
    assert report.index.name == "check" and report.index.is_unique
    assert report["finding"].str.len().min() > 10


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, pd.Index])
def test_origins_may_be_numbers_of_any_kind_and_order(kind):
    ours = check(validation=PARTS.validation)
    origins = [[FIELD.get_index("time").get_loc(time) for time in part.origins][::-1] for part in PARTS]
    train, validation, test = (kind(part) for part in origins)
    pd.testing.assert_frame_equal(check(train=train, validation=validation, test=test), ours)


def test_a_random_split_is_found_and_counted_as_a_naive_loop_counts():
    shuffled = np.random.default_rng(0).permutation(POSSIBLE)
    train, test = shuffled[:70], shuffled[70:]
    report = check(train=train, test=test)
    known = {t + h for t in train for h in range(1, HORIZON + 1)}
    new = {t + h for t in test for h in range(1, HORIZON + 1)}
    seen = {t - k for t in train for k in range(PAST)}
    assert row(report, "windows in two parts") == (False, "no window is in two parts")
    assert row(report, "targets in two parts") == (
        True,
        f"{len(new & known)} of {len(new)} test targets are also training targets",
    )
    assert row(report, "targets in an earlier past") == (
        True,
        f"{len(new & seen)} of {len(new)} test targets stand in the past of training windows",
    )
    later = len([t for t in known if t > test.min() + 1])
    assert row(report, "time order") == (
        True,
        f"{later} of {len(known)} training targets are later than the first test target",
    )


def test_each_count_is_exact_at_its_edge():
    train = np.arange(3, 60)  # targets 4 to 62
    for first, shared in [(62, 0), (61, 1), (60, 2)]:
        report = check(train=train, test=np.arange(first, 117))
        finding = f"{shared} of {119 - first} test targets are also training targets"
        clean = (False, "no step is the target of two parts")
        assert row(report, "targets in two parts") == ((True, finding) if shared else clean)
        # Of shared targets the first is the first test target itself: not later than it.
        assert row(report, "time order")[0] == (shared > 1)
        assert not row(report, "targets in an earlier past")[0]  # the training pasts end at 59
    assert row(check(train=train, test=np.arange(59, 117)), "time order")[1].startswith("2 of 59 training targets")
    assert row(check(train=train, test=np.arange(58, 117)), "targets in an earlier past") == (
        True,
        "1 of 61 test targets stand in the past of training windows",
    )


def test_windows_in_both_parts_are_counted_for_every_pair():
    report = check(train=np.arange(3, 60), validation=np.arange(58, 80), test=np.arange(75, 117))
    assert row(report, "windows in two parts") == (
        True,
        "2 of 22 validation windows are also training windows; 5 of 42 test windows are also validation windows",
    )


def test_training_on_the_later_half_is_found():
    report = check(train=np.arange(70, 117), test=np.arange(3, 40))
    assert row(report, "time order") == (True, "49 of 49 training targets are later than the first test target")
    assert not row(report, "targets in two parts")[0]
    assert "no gap lies" in row(report, "memory")[1]


def test_dropped_windows_are_told_and_are_no_leak():
    train, test = POSSIBLE[:60], POSSIBLE[70:]
    assert row(check(train=train, test=test), "untested windows")[1].startswith(f"all {len(test)} windows")
    assert row(check(train=train, test=test[: len(test) // 16 * 16]), "untested windows") == (
        False,
        f"{len(test) % 16} of {len(test)} windows from the first test window on are not tested; "
        f"the last {len(test) % 16} among them",
    )
    holes = np.delete(test, [3, 7])
    assert row(check(train=train, test=holes), "untested windows")[1].endswith("not tested; the last one is tested")


def test_memory_is_that_of_a_known_autoregression():
    generator, x = np.random.default_rng(0), np.zeros((4000, 1, 80))
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + generator.standard_normal(x.shape[1:])
    field = xr.DataArray(x, dims=("time", "channel", "node"))
    for start, easy in [(3002, False), (3001, True)]:
        report = check(field, train=np.arange(3, 2990), test=np.arange(start, 3990))
        leaks, finding = row(report, "memory")
        assert not leaks and "below 1/e at a lag of 10;" in finding  # 0.9 ** 9 = 0.39, 0.9 ** 10 = 0.35
        assert f"{start - 2992} steps lie" in finding and ("easier" in finding) == easy


# What was fitted


def leaky_and_clean():
    last = 70  # steps in the training part
    train = PARTS.train

    def correlation(field):
        return np.corrcoef(field.values.reshape(len(field), -1).T) > 0.1

    yield "scaler", lambda f: vars(StandardScaler().fit(f.values.reshape(-1, 1))), False
    yield "scaler", lambda f: StandardScaler().fit(f.values[:last].reshape(-1, 1)).mean_, True
    yield "scaler", lambda f: Scaler().fit(split(f, past=PAST, horizon=HORIZON, train=70, validation=20).train), True
    yield "graph", correlation, False
    yield "graph", lambda f: correlation(f[:last]), True
    yield "sparse graph", lambda f: csr_array(correlation(f)), False
    yield "climatology", lambda f: f.groupby("time.month").mean(), False
    yield "climatology", lambda f: [f[:last].groupby("time.month").mean(), 1.0], True
    series = lambda f: torch.from_numpy(f.values)  # noqa: E731
    yield "climatology", lambda f: Climatology(horizon=1, cycle=None).fit(series(f)), False
    yield "climatology", lambda f: Climatology(horizon=1, cycle=None).fit(series(f)[: len(train.series)]), True
    yield "features", lambda f: [str(n) for n in np.argsort(f.values.std(0).ravel())[:2]], False
    yield "one step too many", lambda f: {"mean": f[: last + 1].mean("time"), "units": "K"}, False
    yield "shape", lambda f: f.values[f.values > 12], False
    yield "names", lambda f: {f"best {int(f.values[-9:].mean())}": 1.0}, False


@pytest.mark.parametrize(("name", "function", "clean"), list(leaky_and_clean()))
def test_what_was_fitted_is_found_by_changing_what_it_should_not_know(name, function, clean):
    leaks, finding = row(check(fitted={name: function}), f"fitted: {name}")
    assert leaks != clean
    assert finding.startswith("nothing changes") == clean


def test_the_finding_says_how_much_of_what_changes():
    def half(field):
        return {"mean": [field[:70].mean(), 1.0], "spread": np.array([field.std(), 1.0, 2.0])}

    finding = row(check(fitted={"x": half}), "fitted: x")[1]
    assert finding.startswith("1 of 3 values of spread change, by up to")


def test_choosing_places_by_their_later_gaps_is_found():
    field = FIELD.copy(deep=True)
    field[100:, :, 1] = np.nan
    kept = {"kept": lambda f: np.flatnonzero(f.notnull().all(("time", "channel")))}
    clean = {"kept": lambda f: np.flatnonzero(f[:70].notnull().all(("time", "channel")))}
    assert row(check(field, fitted=kept), "fitted: kept")[0]
    assert not row(check(field, fitted=clean), "fitted: kept")[0]


def test_land_is_no_leak_and_a_missing_part_is_no_crash():
    field = FIELD.copy(deep=True)
    field[:, :, 0] = np.nan
    field[:, 1, 2] = np.nan
    sea = {"sea": lambda f: f.notnull().any("time")}
    assert not row(check(field, fitted=sea), "fitted: sea")[0]
    empty = field.where(field["time"] < field["time"][80])
    assert row(check(empty, fitted={"mean": lambda f: f.mean("time")}), "fitted: mean")[0]


def test_whole_numbers_and_positive_values_stay_so():
    counts = xr.DataArray(np.random.default_rng(0).poisson(3, (STEPS, 1, 4)), dims=("time", "channel", "node"))

    def fit(field):
        assert field.dtype == counts.dtype and field.min() >= 0
        return np.log1p(field[:70]).mean()

    assert not row(check(counts, fitted={"x": fit}), "fitted: x")[0]


def test_the_field_is_left_alone_and_functions_are_called_as_often_as_said():
    field, calls = noise(missing=0.1), []
    before = field.copy(deep=True)

    def vandal(f):
        calls.append(1)
        f -= f[:70].mean()
        return f[:70].mean().values + f[:70].std().values

    check(field, fitted={"x": vandal})
    assert len(calls) == 3 and field.identical(before)
    calls.clear()
    check(field, transforms={"x": lambda f: calls.append(1) or f})
    assert 4 <= len(calls) <= 8


def test_nothing_later_nothing_to_check():
    report = check(train=np.arange(3, 117), test=[50], fitted={"x": lambda f: f.mean()})
    assert row(report, "fitted: x") == (False, "not checked: no step is later than the last training target")


# What was filled and smoothed


def test_a_centred_mean_reaches_its_half_width_and_a_causal_one_nothing():
    for half in (1, 3, 7):
        smooth = {
            "centred": lambda f, half=half: f.rolling(time=2 * half + 1, center=True, min_periods=1).mean(),
            "causal": lambda f, half=half: f.rolling(time=2 * half + 1, min_periods=1).mean(),
        }
        report = check(transforms=smooth)
        steps = "step" if half == 1 else "steps"
        assert row(report, "transform: centred") == (True, f"reaches {half} {steps} into the future")
        assert row(report, "transform: causal") == (False, "no value depends on later steps")


@pytest.mark.parametrize("start", [20, 95])
def test_interpolation_reaches_as_far_as_the_longest_gap(start):
    field = FIELD.copy(deep=True)
    field[start : start + 9, 0, 1] = np.nan
    field[50:54, 1, 1] = np.nan
    fill = {
        "linear": lambda f: f.interpolate_na("time", use_coordinate=False),
        "forward": lambda f: f.copy(data=pd.DataFrame(f.values.reshape(STEPS, -1)).ffill().values.reshape(f.shape)),
    }
    report = check(field, transforms=fill)
    leaks, finding = row(report, "transform: linear")
    assert leaks and finding.startswith("reaches 9 steps into the future")
    assert ("within the training part only" in finding) == (start == 20)
    assert row(report, "transform: forward") == (False, "no value depends on later steps")


def test_filling_the_beginning_backwards_is_found_beside_longer_gaps():
    field = FIELD.copy(deep=True)
    field[40:60, 0, 1], field[:6, 1, 2] = np.nan, np.nan

    def both_ways(f):
        table = pd.DataFrame(f.values.reshape(STEPS, -1))
        return table.ffill().bfill().values

    assert row(check(field, transforms={"x": both_ways}), "transform: x") == (
        True,
        "reaches at least 6 steps into the future; seen within the training part only, "
        "which is no leak if it was fitted there",
    )


def test_anomalies_of_a_whole_record_reach_back_to_its_beginning():
    def minus_mean(steps):
        return lambda f: f - f[:steps].mean("time")

    report = check(transforms={"all": minus_mean(STEPS), "train": minus_mean(70), "more": minus_mean(71)})
    note = "; seen within the training part only, which is no leak if it was fitted there"
    assert row(report, "transform: all") == (True, "reaches at least 95 steps into the future")
    assert row(report, "transform: train") == (True, f"reaches at least 31 steps into the future{note}")
    assert row(report, "transform: more") == (True, "reaches at least 70 steps into the future")


def test_a_reach_seen_in_full_is_not_called_at_least():
    field = FIELD.copy(deep=True)
    field[:2, 0, 0] = np.nan  # the end of this gap is a place to look, with two steps before it
    assert row(check(field, transforms={"x": lambda f: f.shift(time=-2)}), "transform: x") == (
        True,
        "reaches 2 steps into the future",
    )


def test_a_leak_in_a_small_channel_is_not_hidden_by_a_large_one():
    field = FIELD * xr.DataArray([1e5, 1e-3], dims="channel")
    smooth = {"x": lambda f: xr.concat([f[:, :1], f[:, 1:].shift(time=-2)], "channel")}
    assert row(check(field, transforms=smooth), "transform: x") == (True, "reaches 2 steps into the future")


def test_the_order_of_dims_does_not_matter():
    field = FIELD.transpose("y", "channel", "time")
    report = check(
        field, fitted={"m": lambda f: f.mean()}, transforms={"x": lambda f: f.shift(time=-3), "y": lambda f: f}
    )
    assert row(report, "fitted: m")[0] and not row(report, "transform: y")[0]
    assert row(report, "transform: x") == (True, "reaches 3 steps into the future")


# Places


def test_neighbouring_places_are_counted_as_a_naive_loop_counts():
    field, generator = noise(shape=(4, 5)), np.random.default_rng(1)
    adjacency = generator.random((20, 20)) * (generator.random((20, 20)) < 0.05)
    train, test = np.arange(10), np.arange(10, 20)
    expected = sum(any(adjacency[i, j] or adjacency[j, i] for j in train) for i in test)
    assert 0 < expected < 10
    for kind in (np.array, torch.tensor, csr_array):
        report = check(field, train_places=train, test_places=test, adjacency=kind(adjacency))
        sentence = f"{expected} of 10 test places ({expected}0%) have a training place next to them"
        assert row(report, "neighbouring places") == (True, sentence)
        assert row(report, "places in two parts") == (False, "no place is in two parts")
    apart = np.zeros((20, 20))
    apart[:10, :10] = apart[10:, 10:] = 1
    assert not row(check(field, train_places=train, test_places=test, adjacency=apart), "neighbouring places")[0]
    report = check(field, train_places=train, test_places=[8, 9, 10])
    assert row(report, "places in two parts") == (True, "2 of 3 test places are also training places")
    assert "neighbouring places" not in report.index


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": FIELD.rename(time="t")}, "field needs a dim time"),
        ({"field": FIELD[::-1]}, "must be increasing"),
        ({"train": []}, "train must be origins, a list of whole numbers, at least one"),
        ({"train": [0.5]}, "train must be origins, a list of whole numbers"),
        ({"test": np.ones(5, bool)}, "test must be origins, a list of whole numbers"),
        ({"validation": [2]}, "validation must be origins from 3 to 116 for past=4, horizon=3 and 120 steps, got 2"),
        ({"test": [117]}, "test must be origins from 3 to 116"),
        ({"test": split(FIELD, past=5, horizon=3).test}, "test holds windows of past=5 and horizon=3, got past=4"),
        ({"fitted": {"x": lambda f: np.random.default_rng().random()}}, r"fitted\['x'\] gives other numbers when call"),
        ({"fitted": {"x": lambda f: StandardScaler()}}, r"fitted\['x'\] must return numbers .*, got StandardScaler"),
        ({"transforms": {"x": lambda f: f[3:]}}, r"transforms\['x'\] must return an array whose first axis is the 120"),
        ({"transforms": {"x": lambda f: {"a": f}}}, "first axis is the 120 steps, got shape None"),
        ({"train_places": [0]}, "are needed together"),
        ({"train_places": [0], "test_places": [3]}, "test_places must be whole numbers from 0 to 2"),
        ({"train_places": [0], "test_places": [1], "adjacency": np.eye(2)}, r"adjacency must be 3 x 3.*got \(2, 2\)"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check(**options)
