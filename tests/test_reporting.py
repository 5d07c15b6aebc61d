import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from stlib import reporting
from stlib.reporting import benchmark, check, claim, score_table, three_digits


def test_a_claim_speaks_only_when_it_holds(capsys):
    claim("it rains", torch.tensor(True))
    assert capsys.readouterr().out == "✓ it rains\n"
    with pytest.raises(AssertionError, match="this claim does not hold: it snows"):
        claim("it snows", np.bool_(False))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (1.0, "1.00"),
        (0.9999, "1.00"),
        (99.95, "100.0"),
        (1013.25, "1013.2"),
        (-0.00012345, "-0.000123"),
        (0.0, "0"),
        (1.5e-7, "1.5e-07"),
        (float("nan"), "–"),
        (float("inf"), "inf"),
    ],
)
def test_three_significant_digits(value, text):
    assert three_digits(value) == text


def test_the_table_shows_each_lead_and_the_spread_over_seeds():
    lead = {"lead": [1, 2]}
    alone = xr.DataArray([0.5, 12.345], dims="lead", coords=lead)
    seeds = xr.DataArray([[1.0, 2.0], [1.2, 2.0]], dims=("seed", "lead"), coords=lead)
    table = score_table({"persistence": alone, "DLinear": seeds})
    assert table.columns.name == "lead" and list(table.columns) == [1, 2]
    assert list(table.loc["persistence"]) == ["0.500", "12.3"]
    assert list(table.loc["DLinear"]) == ["1.10 ± 0.1", "2.00 ± 0"]
    with pytest.raises(ValueError, match="need the same values of lead, those of persistence are others"):
        score_table({"persistence": alone, "drift": alone.assign_coords(lead=[2, 3])})


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "… not answered yet"),
        (..., "… not answered yet"),
        (2.0005, "✓ right"),
        (torch.tensor(2.0, requires_grad=True), "✓ right"),
        (2.05, "✗ not yet: your answer is too large"),
        (np.array([2.0]), "✗ not yet: your answer has shape (1,), a single number is needed"),
        (4.0, "✗ not yet: you forgot the root"),
        (3.0, "✗ not yet: your answer is too large"),
        (1.0, "✗ not yet: your answer is too small"),
    ],
)
def test_check_names_the_mistake(answer, says, capsys, monkeypatch):
    exercises = {"a: b": {"right": 2.0, "mistakes": {"you forgot the root": 4.0}}}
    monkeypatch.setattr(reporting.json, "loads", lambda text: exercises)
    check(answer, "a: b")
    assert capsys.readouterr().out == says + "\n"


def test_a_whole_number_has_to_be_met_exactly(capsys, monkeypatch):
    exercises = {"a: b": {"right": 5086, "mistakes": {"one is missing": 5085}}}
    monkeypatch.setattr(reporting.json, "loads", lambda text: exercises)
    for answer in (5086, 5086.0, 5085, 5087):
        check(answer, "a: b")
    said = capsys.readouterr().out.splitlines()
    assert said == ["✓ right"] * 2 + ["✗ not yet: one is missing", "✗ not yet: your answer is too large"]


def test_every_exercise_belongs_to_a_chapter_and_its_hints_differ():
    exercises = json.loads((Path(reporting.__file__).parent / "exercises.json").read_text())
    for name, exercise in exercises.items():
        chapter = Path(__file__).parents[1] / "book" / f"{name.split(':')[0]}.ipynb"
        assert f'\\"{name}\\"' in chapter.read_text()
        values = sorted([exercise["right"], *exercise["mistakes"].values()])
        whole = all(isinstance(value, int) for value in values)  # then they are compared exactly
        assert all(later > (earlier if whole else 1.002 * earlier) for earlier, later in pairwise(values)), name
    with pytest.raises(
        ValueError, match="no exercise 'a: b' in stlib/exercises.json; there are honest-forecasts: mase"
    ):
        check(1.0, "a: b")


def test_a_benchmark_that_was_never_stored_is_named():
    with pytest.raises(ValueError, match="no stored benchmark result 'nothing'; run `make bench NAME=nothing`"):
        benchmark("nothing")
