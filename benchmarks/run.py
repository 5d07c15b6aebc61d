"""Run the comparisons and store what they found: ``python -m benchmarks.run [name ...]``, or ``make bench``.

Each comparison is a module with ``compare() -> list of rows``. Its result is benchmarks/results/<name>.json:
``{"provenance": {...}, "work": the module's docstring, "columns": {column: meaning}, "rows": [{column: value}, ...]}``.
A column that says nothing about a row is null or left out of it.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch
from threadpoolctl import threadpool_info

HERE = Path(__file__).parent
COMPARISONS = ("windows", "nlinear_ett", "preprocessing", "var", "garch", "arima", "advection", "recurrent", "convlstm")
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
VERSIONS = (
    *("stlib-book", "torch", "numpy", "pandas", "xarray", "scikit-learn", "statsmodels", "pytorch-forecasting"),
    *("lightning", "hampel", "xarray-regrid", "arch", "statsforecast", "pysteps"),
)
COLUMNS = {
    "work": "which of the comparison's tasks",
    "model": "who did it",
    "dataset": "name in stlib.data.datasets",
    "past": "steps a forecast sees",
    "horizon": "steps it forecasts",
    "mse": "mean squared error of all test windows, z units",
    "mae": "mean absolute error of all test windows, z units",
    "fit_cpu_seconds": "median CPU seconds of the fit, one thread",
    "source": 'the publication; or "measured", "timed once", "computed", "not installed", "data set not available"',
    "note": "what to know when comparing a published row",
    "package": "distribution that did the work",
    "version": "its version",
    "peak_memory_mib": "peak resident memory of a process that does only this, libraries included, MiB",
    "prepare_seconds": "wall seconds of reading and construction, once, libraries already imported",
    **{
        f"{clock}_seconds_{name}": f"{name} {meaning} seconds of the work (windows: of one batch)"
        for clock, meaning in (("wall", "wall"), ("cpu", "CPU"))
        for name in ("min", "median", "max")
    },
    "repetitions": "how often the work was measured, the contestants in turn, after one unmeasured time",
    "times_ours": "median wall seconds over those of the first row of the same task",
    "series_windows": "windows of one series in a batch",
    "max_abs_difference": "largest difference from the panel's own values, in the last batch",
    "difference_share": "largest difference from the first row's answer, as a share of the field's standard deviation",
    "largest_difference": "largest absolute difference from the first row's answer",
    "missing_in_one": "values that are missing in one of the two answers only",
    "series": "number of series that were fitted; in arima times are for one of them",
    "gain_least": "least of our log-likelihood less theirs, over the series",
    "gain_median": "median of the same",
    "gain_most": "largest of the same",
    "share_lower": "share of the series where ours is lower by more than 0.001",
    "share_higher": "share of the series where ours is higher by more than 0.001",
    **{f"rmse_lead_{lead}": f"RMSE of a pixel {lead} steps ahead, brightness from 0 to 1" for lead in (1, 2, 3, 4)},
    "parameters": "numbers that training changes: those with a gradient",
    "dead_parameters": "numbers that no forecast depends on",
    "test_windows": "number of test windows",
    "validation_mse": "mean squared error of all validation windows, z units",
    "penalty": "ridge penalty, in units of NLinear.fit",
    "within_share": "share of the series whose log likelihood is less than 0.01 below the best of the others",
    "far_share": "share of the series whose log likelihood is more than 0.5 below the best of the others",
    "largest_shortfall": "largest amount that a log likelihood is below the best of the others; negative if nowhere",
    "smape": "mean symmetric absolute percentage error of the 13 weeks, per cent",
    "mase": "mean absolute error of the 13 weeks, in units of the mean absolute step of the training part",
    "mse_difference": "mse less that of the closed form at the same past and horizon",
}


def main(names: list[str]) -> None:
    if unknown := set(names) - set(COMPARISONS):
        sys.exit(f"name: no comparison {', '.join(sorted(unknown))}; there are {', '.join(COMPARISONS)}")
    if loose := [name for name in ONE_THREAD if os.environ.get(name) != "1"]:
        sys.exit(f"times are compared on one thread: set {'=1 '.join(loose)}=1, as make bench does")
    torch.set_num_threads(1)
    for name in names or COMPARISONS:
        module = importlib.import_module(f"benchmarks.{name}")
        begun = provenance()
        rows = module.compare()
        result = {
            "provenance": begun | {"load_average_after": _load(), "threads": _threads()},
            "work": module.__doc__,
            "columns": {column: COLUMNS[column] for column in COLUMNS if any(column in row for row in rows)},
            "rows": rows,
        }
        store(name, result)
        show(name, result)


def provenance() -> dict:
    """Where and when: nothing that names a person, a host or a folder."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _said_by("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
        "load_average_before": _load(),
    }


def store(name: str, result: dict) -> None:
    target = HERE / "results" / f"{name}.json"
    part = target.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(target)


def show(name: str, result: dict) -> None:
    table = pd.DataFrame([_line(row) for row in result["rows"]]).dropna(axis="columns", how="all")
    print(f"\n{name}\n{'=' * len(name)}\n{result['work']}")
    print("\n".join(f"{key}: {value}" for key, value in result["provenance"].items()), end="\n\n")
    print(table.to_string(index=False, na_rep="", float_format="{:.4g}".format))


def _line(row: dict) -> dict:
    """A row for the screen: the spread of each clock in one column, and no note."""
    line = {name: value for name, value in row.items() if name != "note" and "_seconds_" not in name}
    for clock in ("wall", "cpu"):
        if f"{clock}_seconds_median" in row:
            low, middle, high = (row[f"{clock}_seconds_{name}"] for name in ("min", "median", "max"))
            line[f"{clock} seconds"] = f"{middle:.3g} ({low:.3g} to {high:.3g})"
    return line


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _load() -> list[float]:
    return [round(value, 2) for value in os.getloadavg()]


def _threads() -> dict[str, int]:
    return {"torch": torch.get_num_threads()} | {pool["prefix"]: pool["num_threads"] for pool in threadpool_info()}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return _said_by("sysctl", "-n", "machdep.cpu.brand_string")
    names = (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name"))
    return next(names, "unknown")


def _said_by(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help=f"which of {', '.join(COMPARISONS)} (default: all)")
    main(parser.parse_args().name)
