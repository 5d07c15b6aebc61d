"""What `pytest --nbval` accepts as the same output, and what it must not accept."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
tolerance = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tolerance)


def same(stored, fresh, rtol=tolerance.RTOL):
    return not tolerance.text_differences(stored, fresh, rtol)


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ("0.5000", "0.5009"),  # 0.18 %
        ("rmse 12.34 hPa", "rmse 12.36 hPa"),
        ("-3.141e-05", "-3.145e-05"),
        ("3.742 %", "3.745 %"),
        ("loss=0.5000", "loss=0.5009"),
        ("12.34hPa", "12.36hPa"),
        ("[0.1234 1.    ]", "[0.1235 1.    ]"),
        ("[1.0001 2.5]", "[1. 2.5]"),
        ("0.37", "0.3700001"),
        ("4.99", "5.00"),  # one step of the last digit is 0.2 % here
        ("2.50", "2.51"),  # the rule's edge: 0.005 + 0.002 * 2.51 > 0.01
        ("9.999", "10.00"),
        ("-0.000", "0.000"),
        ("1.2e-17", "-5.0e-08"),  # zero up to rounding
        ("0.000e+00", "1.19e-07"),
        ("nan inf -inf", "nan inf -inf"),
        ("a  1.000\nb 10.004", "a  1.000\nb  9.996"),  # columns move
        ("range 0.5000-0.6000", "range 0.5005-0.6005"),
    ],
)
def test_texts_that_agree(stored, fresh):
    assert same(stored, fresh)
    assert same(fresh, stored)


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ("0.5000", "0.5013"),  # 0.26 %
        ("0.37", "0.38"),
        ("1.00", "1.01"),
        ("2.48", "2.49"),  # just below 250 units the last digit must hold
        ("0.012", "0.013"),
        ("3.2e-05", "3.3e-05"),  # small, but no rounding residue
        ("2e-06", "3e-06"),
        ("0.4", "0.36"),  # the finer of the two counts: 0.4 may be a trimmed 0.400, not anything from 0.35 to 0.45
        ("17", "18"),
        ("1000000", "1000001"),
        ("12 %", "13 %"),
        ("We saw 5000.", "We saw 5001."),
        ("17", "17.0"),
        ("0.5", "-0.5"),
        ("0.5", "nan"),
        ("inf", "1.8e+308"),
        ("nan", "inf"),
        ("2020-01-01", "2020-01-02"),
        ("2020-01-01 00:00:59.500", "2020-01-01 00:00:59.501"),
        ("torch 2.130.0", "torch 2.130.1"),
        ("192.168.0.1", "192.168.0.2"),
        ("v0.5000", "v0.5001"),
        ("x0.5000", "x0.5001"),
        ("0.5 K", "0.5 C"),
        ("0.5 K", "0.5K"),
        ("0.5 0.6", "0.5"),
        ("0.5", "\0"),
        ("better", "worse"),
    ],
)
def test_texts_that_differ(stored, fresh):
    assert not same(stored, fresh)
    assert not same(fresh, stored)


@pytest.mark.parametrize("form", [".2f", ".2e"])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_percent_off_is_seen_in_every_number_of_three_digits(form, sign):
    for hundredths in range(100, 1000):
        number = sign * hundredths / 100
        for off in (number * 1.01, number / 1.01):
            assert not same(format(number, form), format(off, form)), (number, off)


def test_widened_tolerance_allows_a_step_of_the_last_digit():
    assert same("0.012", "0.013", rtol=0.02)
    assert not same("0.012", "0.014", rtol=0.02)


def test_html_without_its_random_and_binary_parts():
    table = '<table id="T_{}"><tr><td>0.5000</td><td><img src="data:image/png;base64,{}"></td></tr></table><i id="{}"/>'
    uuids = ("0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7")
    first, second = table.format("0a1b2", "iVBORw0KGgo=", uuids[0]), table.format("c3d4e", "AAAA", uuids[1])

    def html(text):
        return [new_output("display_data", {"text/html": text})]

    assert tolerance.output_differences(html(first), html(second), 2e-3) == []
    assert tolerance.output_differences(html(first), html(second.replace("image/png", "image/jpeg")), 2e-3)
    assert tolerance.output_differences(html(first), html(re.sub("<img.*?>", "", second)), 2e-3)
    (line,) = tolerance.output_differences(html(first), html(second.replace("0.5000", "0.5050")), 2e-3)
    assert line == "text/html: 0.5000 became 0.5050, off by 0.99% (rtol 0.002)"


def test_stlib_rtol_widens_and_never_narrows_a_tag(monkeypatch):
    cell = new_code_cell(metadata={"tags": ["setup", "rtol=0.02"]})
    assert tolerance.cell_tolerance(new_code_cell()) == 2e-3
    assert tolerance.cell_tolerance(cell) == 0.02
    monkeypatch.setenv("STLIB_RTOL", "0.05")
    assert tolerance.cell_tolerance(new_code_cell()) == 0.05
    assert tolerance.cell_tolerance(cell) == 0.05
    monkeypatch.setenv("STLIB_RTOL", "5 %")
    with pytest.raises(ValueError, match="STLIB_RTOL is '5 %'"):
        tolerance.cell_tolerance(cell)


# What follows runs the real thing. Every cell is executed once; then each case edits the stored outputs of its cell.
PLOT = "import matplotlib.pyplot as plt\nlines = plt.plot([1, 2])\nplt.show()"
TABLE = "import pandas as pd\npd.DataFrame({'rmse': [9.998, 0.5], 'n': [3, 4], 't': [pd.Timestamp('1996-01-06')] * 2})"


def replace(old, new):
    """An edit of everything stored as text."""

    def edit(cell):
        for output in cell.outputs:
            texts = output if output.output_type == "stream" else output.data
            for key in {"text", "text/plain", "text/html"} & texts.keys():
                assert old in texts[key]
                texts[key] = texts[key].replace(old, new)

    return edit


def forget_execution(cell):
    cell.execution_count, cell.outputs = None, []


def drop_picture(cell):
    cell.outputs = []


def drop_picture_bytes(cell):
    del cell.outputs[-1].data["image/png"]


def other_bytes(cell):
    assert cell.outputs[-1].data["image/png"]
    cell.outputs[-1].data["image/png"] = "AAAA"


def other_stderr(cell):
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def unchanged(cell):
    pass


NAN = "print(float('nan'), 1 / 3)"
CASES = {  # name: (source, tags, edit, passes)
    "identical": ("print('rmse', 0.5000)", [], unchanged, True),
    "off by 0.1 %": ("print(0.5000)", [], replace("0.5", "0.5005"), True),
    "off by 1 %": ("print(0.5000)", [], replace("0.5", "0.505"), False),
    "three digits off by 1 %": ("print(f'{1:.2f}')", [], replace("1.00", "1.01"), False),
    "last digit": ("print(f'{5:.2f}')", [], replace("5.00", "4.99"), True),
    "integer": ("print(12345)", [], replace("12345", "12346"), False),
    "text": ("print('better')", [], replace("better", "worse"), False),
    "nan is nan": (NAN, [], replace("0.3333333333333333", "0.3333333333333"), True),
    "nan is no number": (NAN, [], replace("nan", "0.333"), False),
    "a picture's bytes": (PLOT, [], other_bytes, True),
    "no picture stored": (PLOT, [], drop_picture, False),
    "no picture stored, but its text": (PLOT, [], drop_picture_bytes, False),
    "no picture now": ("print('no picture')", [], lambda cell: cell.outputs.append(
        new_output("display_data", {"image/png": "AAAA"})), False),
    "tag, off by 1 %": ("print(0.5000)", ["rtol=0.02"], replace("0.5", "0.505"), True),
    "tag, off by 5 %": ("print(0.5000)", ["rtol=0.02"], replace("0.5", "0.525"), False),
    "tag without number": ("print(0.5000)", ["rtol=wide"], unchanged, False),
    "stderr": ("import sys\nprint('noise', file=sys.stderr)\nprint('signal')", [], other_stderr, True),
    "trailing semicolon": ("1 + 1;", [], unchanged, True),
    "history": ("6 * 7", [], unchanged, True),
    "history, used": ("print(_ + 1, In[-2])", [], unchanged, True),
    "table": (TABLE, [], replace("9.998", "10.004"), True),
    "table off by 1 %": (TABLE, [], replace("9.998", "10.098"), False),
    "table's date": (TABLE, [], replace("1996-01-06", "1996-01-07"), False),
}  # fmt: skip


def notebook(cases):
    cells = [new_code_cell(source, metadata={"tags": tags}) for source, tags, _, _ in cases]
    made = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    return NotebookClient(made, kernel_name="python3", record_timing=False).execute()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcome of each cell, by notebook and cell number, of one run of nbval in a folder with the root conftest."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    cases = notebook(CASES.values())
    for cell, (_, _, edit, _) in zip(cases.cells, CASES.values(), strict=True):
        edit(cell)
    nbformat.write(cases, folder / "cases.ipynb")
    refused = notebook([("print(0.5)", [], None, None)] * 3)
    forget_execution(refused.cells[1])
    nbformat.write(refused, folder / "refused.ipynb")
    environment = {key: value for key, value in os.environ.items() if key not in ("STLIB_RTOL", "PYTEST_ADDOPTS")}
    command = [sys.executable, "-m", "pytest", "--nbval", "-rA", "-p", "no:cacheprovider", "--color=no", "."]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found = re.findall(r"^(PASSED|FAILED|ERROR) (\w+)\.ipynb::Cell (\d+)", ran.stdout, flags=re.MULTILINE)
    assert len(found) == len(CASES) + 3, ran.stdout + ran.stderr
    return {(name, int(n)): outcome for outcome, name, n in found} | {"report": ran.stdout}


@pytest.mark.parametrize("case", CASES)
def test_nbval(case, outcomes):
    passes = CASES[case][-1]
    outcome = outcomes["cases", list(CASES).index(case)]
    assert outcome == ("PASSED" if passes else "FAILED"), outcomes["report"]


def test_nbval_refuses_the_whole_notebook_for_one_unexecuted_cell(outcomes):
    assert [outcomes["refused", n] for n in range(3)] == ["FAILED"] * 3
    assert "refused: code cells [1] were never executed" in outcomes["report"]


def test_nbval_says_which_number_is_off(outcomes):
    assert "stdout: 0.505 became 0.5, off by 0.99% (rtol 0.002)" in outcomes["report"]
    assert "the cell tag rtol is 'wide', but a tolerance is a positive number" in outcomes["report"]


@pytest.mark.parametrize("options", [[], ["-p", "no:nbval"]])
def test_an_ordinary_run_is_not_disturbed(options, tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_a_bad_default_is_one_line(tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider"],
        cwd=tmp_path, env=os.environ | {"STLIB_RTOL": "-1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 4
    assert ran.stderr.strip() == "ERROR: STLIB_RTOL is '-1', but a tolerance is a positive number such as 0.02"
