"""The stored benchmark results are complete and say where they come from; the runner reports what is missing."""

import json
import operator
import re
import sys
from importlib import metadata
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from packaging.requirements import Requirement

from benchmarks import garch, measure, nlinear_ett, run, windows
from stlib.data import datasets
from stlib.data.windows import split

ROOT = Path(__file__).parents[1]
RESULTS = {name: json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text()) for name in run.COMPARISONS}
TIMES = [f"{clock}_seconds_{name}" for clock in ("wall", "cpu") for name in ("min", "median", "max")]


def table(name: str) -> pd.DataFrame:
    return pd.DataFrame(RESULTS[name]["rows"])


def test_every_comparison_is_run():
    assert set(run.COMPARISONS) == {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"run", "measure"}


@pytest.mark.parametrize("name", run.COMPARISONS)
def test_stored_result_says_where_it_comes_from(name):
    result = RESULTS[name]
    assert list(result) == ["provenance", "work", "columns", "rows"]
    provenance = result["provenance"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", provenance["git_commit"])
    assert pd.Timestamp(provenance["date"]).tzinfo is not None
    assert provenance["cpu"] not in ("", "unknown")
    assert provenance["cores"] >= 1
    assert set(provenance["threads"].values()) == {1}
    assert {len(provenance[f"load_average_{when}"]) for when in ("before", "after")} == {3}
    did_it = {row["package"] for row in result["rows"] if row.get("source") == "measured"}
    assert did_it | {"torch", "numpy", "pandas", "xarray"} <= set(provenance["versions"]) <= set(run.VERSIONS)
    assert "not installed" not in {provenance["versions"][package] for package in did_it if package in run.VERSIONS}
    used = {column for row in result["rows"] for column in row}
    assert used == set(result["columns"]) <= set(run.COLUMNS)


@pytest.mark.parametrize("name", run.COMPARISONS)
def test_stored_result_has_no_machine_path(name):
    text = (ROOT / "benchmarks/results" / f"{name}.json").read_text()
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|opt|var|work|Users|private)\b|[A-Z]:\\|https?://", text)


@pytest.mark.parametrize("name", run.COMPARISONS)
def test_measured_rows_are_complete(name):
    measured = table(name).query("source == 'measured'")
    assert len(measured) > 0
    assert measured[["version", "peak_memory_mib", "prepare_seconds", "times_ours", *TIMES]].notna().all(axis=None)
    assert (measured["repetitions"] >= 5).all()
    for clock in ("wall", "cpu"):
        low, middle, high = (measured[f"{clock}_seconds_{name}"] for name in ("min", "median", "max"))
        assert ((low <= middle) & (middle <= high) & (low > 0)).all()


def test_stored_advection_agrees_with_pysteps():
    rows = table("advection")
    assert {"difference_share", "missing_in_one"} <= set(rows)
    theirs = rows[rows["package"] == "pysteps"]
    assert len(theirs) > 0
    assert (theirs["difference_share"] < 1e-3).all()
    assert (theirs["missing_in_one"] < 0.005 * 256 * 256 * 12).all()  # at the edge, where one of them has no value


def test_stored_steps_of_recurrent_networks_agree_with_torch():
    rows = table("recurrent")
    same = rows[rows["work"].str.startswith("training step, ")]
    assert sorted(same["work"].unique()) == ["training step, GRU", "training step, LSTM"]
    assert (same["largest_difference"] < 1e-5).all()
    by_length = rows[rows["work"] == "training step by length"]
    assert set(map(tuple, by_length[["past", "model"]].values)) == set(product((16, 64, 256, 1024), ("LSTM", "TCN")))


def test_stored_convlstm_agrees_with_the_common_cell_and_has_no_dead_parameters():
    rows = table("convlstm")
    layer = rows[rows["work"] == "layer"].set_index("model")
    assert layer.loc["common cell", "largest_difference"] < 1e-5
    assert layer.loc["one convolution", "dead_parameters"] == 0 < layer.loc["common cell", "dead_parameters"]
    assert layer["parameters"].nunique() == 1
    digits = rows[rows["work"] == "moving digits"].set_index("model")
    assert {"persistence", "Lagrangian persistence", "ConvLSTM", "LSTM per place", "CNN", "ST-CNN"} <= set(digits.index)
    assert digits[[f"rmse_lead_{lead}" for lead in (1, 2, 3, 4)]].notna().all(axis=None)
    steps = rows[rows["work"] == "training step"]
    assert {"ConvLSTM", "ConvGRU", "STCNN", "CNN", "U-Net", "CNN3d"} == set(steps["model"])


def test_stored_window_batches_agree_exactly():
    rows = table("windows")
    assert (rows["source"] == "measured").all()
    assert (rows["max_abs_difference"] == 0).all()
    for _, same in rows.groupby("work"):
        assert list(same["model"]) == ["stlib windows", "Dataset of slices", "TimeSeriesDataSet"]
        assert same["series_windows"].nunique() == 1
        ratio = same["wall_seconds_median"] / same["wall_seconds_median"].iloc[0]
        np.testing.assert_allclose(same["times_ours"], ratio, rtol=1e-12)


def test_stored_nlinear_has_every_horizon_and_every_window():
    ours = table("nlinear_ett").query("model == 'NLinear, closed form'").set_index(["dataset", "past", "horizon"])
    assert set(ours.index) == {
        (dataset, past, horizon)
        for dataset in nlinear_ett.DATASETS
        for past in nlinear_ett.PASTS
        for horizon in nlinear_ett.HORIZONS
    }
    assert set(ours["source"]) <= {"measured", "data set not available"}
    measured = ours.query("source == 'measured'")
    assert measured.loc["etth1"].shape[0] == 8
    assert measured[["mse", "mae", "validation_mse", "penalty", "fit_cpu_seconds"]].notna().all(axis=None)
    assert (measured["test_windows"] == 2880 - measured.index.get_level_values("horizon") + 1).all()
    assert (measured["fit_cpu_seconds"] == measured["cpu_seconds_median"]).all()


def test_stored_nlinear_is_below_patchtst_at_every_horizon():
    rows = table("nlinear_ett").query("dataset == 'etth1' and past == 512").set_index(["model", "horizon"])
    ours, theirs = rows.loc["NLinear, closed form"], rows.loc["PatchTST/64"]
    assert len(ours) == len(theirs) == 4
    assert (ours["mse"] < theirs["mse"]).all()
    assert (ours["mae"] < theirs["mae"]).all()


def test_stored_nlinear_agrees_with_scikit_learn():
    peer = table("nlinear_ett").query("package == 'scikit-learn'").iloc[0]
    dataset, past, horizon = nlinear_ett.CHECKED
    assert (peer["dataset"], peer["past"], peer["horizon"]) == (dataset, past, horizon)
    assert abs(peer["mse_difference"]) < 1e-4


def test_stored_preprocessing_agrees_with_its_peers():
    rows = table("preprocessing")
    peers = rows[rows["difference_share"].notna()].set_index("work")
    assert len(peers) == 9
    assert (peers["difference_share"] < 1e-5).all()
    # The package's filter has shorter windows at the ends of a series; a month of 13 days is missing in ours.
    shares = peers["missing_in_one"].drop(["the same, 25 places only", "days to months"])
    assert (shares == 0).all()
    assert peers.loc["the same, 25 places only", "missing_in_one"] < 25
    assert peers.loc["days to months", "missing_in_one"] == 2500


def test_each_stored_preparation_of_ten_million_values_took_seconds_and_less_than_a_gibibyte():
    ours = table("preprocessing").query("model == 'stlib'").set_index("work")
    assert (ours["wall_seconds_median"] < 10).all()
    assert (ours["peak_memory_mib"] - ours.loc["nothing", "peak_memory_mib"] < 1024).all()


def test_stored_garch_fits_are_at_least_five_times_as_fast_as_arch_at_the_same_likelihood():
    rows = table("garch")
    theirs = rows.query("package == 'arch'").set_index("work")
    assert list(theirs.index) == list(garch.TASKS)
    assert theirs.loc["GARCH(1,1), normal noise", "series"] == 1000
    assert theirs.loc["GARCH(1,1), normal noise", "times_ours"] > 5
    assert (theirs["gain_median"].abs() < 1e-3).all()
    assert (theirs["share_lower"] < 0.02).all()


def test_stored_var_fits_are_at_least_three_times_as_fast_as_statsmodels_with_the_same_answers():
    theirs = table("var").query("package == 'statsmodels'").set_index("work")
    assert theirs.loc["fit", "times_ours"] > 3
    assert (theirs["largest_difference"] < 1e-10).all()


def test_stored_arima_fits_are_fast_small_and_nearly_always_at_the_optimum():
    rows = table("arima")
    timed = rows[rows["work"].str.startswith("fit")].set_index(["work", "model"])
    for _, one in timed.groupby(level="work"):
        times = one.droplevel("work")["cpu_seconds_median"]
        assert times["statsmodels"] > 80 * times["stlib-book"]
        assert times["statsforecast"] > 35 * times["stlib-book"]
        assert times["stlib-book"] > 1.3 * times["stlib-book, one start"]
    assert timed["peak_memory_mib"].max() < 1024
    optimum = rows[rows["work"].str.startswith("optimum")].set_index(["work", "model"])
    ours = optimum.xs("stlib-book", level="model")
    assert ours["within_share"].min() >= 0.985 and ours["far_share"].max() <= 0.005
    for work, share in ours["within_share"].items():
        assert share == optimum.loc[work, "within_share"].max()


def test_stored_garch_time_and_memory_grow_no_faster_than_the_number_of_series():
    grown = table("garch").query("work.str.startswith('growth')").set_index("series")
    few, many = grown.loc[min(garch.GROWTH)], grown.loc[max(garch.GROWTH)]
    factor = max(garch.GROWTH) / min(garch.GROWTH)
    assert many["wall_seconds_median"] < 1.5 * factor * few["wall_seconds_median"]
    assert many["peak_memory_mib"] - few["peak_memory_mib"] < 600


def test_returns_of_the_garch_benchmark_are_those_of_their_model():
    x = garch.returns("garch", "normal", 1000)
    assert x.shape == (1000, 1000)
    assert x.square().mean().item() == pytest.approx(0.05 / (1 - 0.08 - 0.87), rel=0.03)
    assert garch.likelihoods(np.array([-0.1, 0.0, 0.2, 0.0])) == {
        "gain_least": -0.1,
        "gain_median": 0.0,
        "gain_most": 0.2,
        "share_lower": 0.25,
        "share_higher": 0.25,
    }


def test_published_rows_are_as_printed():
    rows = pd.DataFrame(nlinear_ett._published("etth1")).set_index(["model", "horizon"])
    assert len(rows) == 16
    assert tuple(rows.loc[("DLinear", 96), ["mse", "mae"]]) == (0.375, 0.399)
    assert tuple(rows.loc[("NLinear", 720), ["mse", "mae"]]) == (0.440, 0.453)
    assert tuple(rows.loc[("PatchTST/42", 336), ["mse", "mae"]]) == (0.431, 0.436)
    assert tuple(rows.loc[("PatchTST/64", 192), ["mse", "mae"]]) == (0.413, 0.429)
    assert rows["source"].str.contains("doi:10.").all()
    dropped = rows["note"].str.contains("drops the last partial batch", na=False)
    assert set(rows.index[dropped]) == {(f"PatchTST/{kind}", h) for kind in (42, 64) for h in (96, 192, 336, 720)}


def test_ridge_of_scikit_learn_is_the_closed_form():
    time = np.arange(14400)
    values = np.stack([np.sin(time / 5), np.cos(time / 7)], 1) + np.random.default_rng(0).normal(0, 0.3, (14400, 2))
    field = xr.DataArray(values[:600].astype("float32"), dims=("time", "channel"))
    field = field.assign_coords(time=pd.date_range("2000", periods=600, freq="h"), channel=["a", "b"])
    parts = split(field, past=24, horizon=6, train=360, validation=120)
    model = nlinear_ett.fit(parts)
    ridge = nlinear_ett.fit_by_scikit_learn(parts, penalty=model.penalty[0])
    np.testing.assert_allclose(ridge.coef_, model.map.weight[0, 0].detach(), atol=2e-5)
    np.testing.assert_allclose(ridge.intercept_, model.map.bias[0, 0].detach(), atol=2e-5)
    past, future = nlinear_ett.rows_of(parts.test)
    mse, mae = nlinear_ett.errors(model, parts.test)
    assert mse == pytest.approx(np.square(ridge.predict(past) - future).mean(), abs=1e-6)
    assert mae == pytest.approx(np.abs(ridge.predict(past) - future).mean(), abs=1e-6)


def test_etth1_row_is_recomputed():
    if datasets.available().loc["etth1", "where"] != "cached":
        pytest.skip("ETTh1 is not on this machine")
    parts = nlinear_ett.scaled_parts("etth1", 336, 96)
    model = nlinear_ett.fit(parts)
    rows = table("nlinear_ett").query("model == 'NLinear, closed form'").set_index(["dataset", "past", "horizon"])
    stored = rows.loc[("etth1", 336, 96)]
    assert model.penalty == [stored["penalty"]]
    assert nlinear_ett.errors(model, parts.test) == pytest.approx((stored["mse"], stored["mae"]), abs=1e-4)


@pytest.mark.parametrize("together", [False, True])
def test_window_batches_of_stlib_and_of_slices_are_the_panel(together):
    for source in (windows.from_stlib, windows.from_slices):
        found = windows.single_windows(next(source(together)()))
        assert found.shape == (1024 if together else 128, 432)
        assert windows.largest_difference(found) == 0
        found[5, 300] += 1
        assert windows.largest_difference(found) == 1


def test_an_epoch_of_stlib_and_of_slices_has_every_window_once():
    for source in (windows.from_stlib, windows.from_slices):
        first = np.concatenate([windows.single_windows(batch)[:, 0] for batch in source(False)()])
        np.testing.assert_array_equal(np.sort(first), np.sort(windows.panel()[: 12_000 - 432 + 1].ravel()))


def test_a_missing_peer_is_a_row():
    present = measure.Contestant("present", "torch", int, operator.not_)
    absent = measure.Contestant("absent", "no-such-distribution", int, operator.not_)
    rows, answers = measure.contest([present, absent], repetitions=5)
    assert answers == [True, None]
    assert rows[1] == {
        "model": "absent",
        "package": "no-such-distribution",
        "version": None,
        "source": "not installed",
    }
    assert rows[0]["source"] == "measured"
    assert rows[0]["version"] == metadata.version("torch")
    assert rows[0]["times_ours"] == 1
    assert rows[0]["peak_memory_mib"] > 20


def test_the_runner_stores_and_prints_a_missing_peer(monkeypatch, tmp_path, capsys):
    rows = [{"model": "absent", "package": "no-such-distribution", "version": None, "source": "not installed"}]
    fake = SimpleNamespace(compare=lambda: rows, __doc__="A comparison.")
    monkeypatch.setitem(sys.modules, "benchmarks.windows", fake)
    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    for name in run.ONE_THREAD:
        monkeypatch.setenv(name, "1")
    threads = torch.get_num_threads()
    try:
        run.main(["windows"])
    finally:
        torch.set_num_threads(threads)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["windows.json"]
    stored = json.loads((tmp_path / "results/windows.json").read_text())
    assert stored["rows"] == rows
    assert stored["columns"]["source"] == run.COLUMNS["source"]
    assert re.search(r"absent\s+no-such-distribution\s+not installed", capsys.readouterr().out)


def test_a_missing_data_set_is_a_row(monkeypatch):
    def missing(name):
        raise OSError(f"no {name}")

    monkeypatch.setattr(nlinear_ett.datasets, "load", missing)
    rows = nlinear_ett._measured("etth2")
    assert [(row["past"], row["horizon"]) for row in rows] == [(p, h) for p in (336, 512) for h in (96, 192, 336, 720)]
    assert {row["source"] for row in rows} == {"data set not available"}
    assert {row["mse"] for row in rows} == {None}


def test_the_runner_refuses_unknown_names_and_more_threads(monkeypatch):
    with pytest.raises(SystemExit, match="no comparison nosuch; there are " + ", ".join(run.COMPARISONS)):
        run.main(["nosuch"])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(SystemExit, match="set OMP_NUM_THREADS=1"):
        run.main(["windows"])


def test_peers_are_pinned_and_the_compromised_ones_excluded():
    lines = (ROOT / "benchmarks/requirements.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(any(part.operator == "==" for part in pin.specifier) for pin in pins)
    by_name = {pin.name: pin for pin in pins}
    assert {"pytorch-forecasting", "scikit-learn", "threadpoolctl"} <= set(by_name)
    for name in ("lightning", "pytorch-lightning"):
        excluded = {part.version for part in by_name[name].specifier if part.operator == "!="}
        assert excluded == {"2.6.2", "2.6.3"}
    assert not [name for name in by_name if name.startswith(("nvidia", "cuda", "triton"))]
    assert str(by_name["torch"]) in (ROOT / "requirements.txt").read_text().splitlines()
