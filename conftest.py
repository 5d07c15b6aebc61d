r"""What `pytest --nbval` means by "the same output": text exactly, floats within a tolerance.

Two printed floats a and b agree when

    |a - b| <= u/2 + rtol * max(|a|, |b|),

with u one unit in the last printed place (of the finer of the two), or when both are below `ZERO`. Everything else is
text: integers, dates, clock times, versions, identifiers, nan and inf. Spaces and line breaks only separate, since they
move when a column grows by a digit. A picture must be there, but its bytes are not compared. stderr is ignored.

Half a unit is less than a legitimate rounding can move a number with few digits: 1.2349 and 1.2351 print as 1.23 and
1.24, which is also what a fault of 1 % looks like. The fault is the one to catch, so that pair fails. From 250 units on
(2.50, or 1.234) the rtol term covers such a step, hence print four digits where the first is a 1 or a 2. Where the
tolerance was widened on purpose, by a cell tag such as `rtol=0.02` or by the environment variable `STLIB_RTOL`, a whole
unit is allowed.
"""

import json
import math
import os
import re
from collections import defaultdict

import pytest

RTOL = 2e-3
ZERO = 1e-6  # float32 residue of something that is zero

FLOAT = re.compile(
    r"""(?<![\w.])(?<!\d:)        # not inside a word, a version or a clock time
        [-+]?(?: \d+\.\d*(?:[eE][-+]?\d+)? | \.\d+(?:[eE][-+]?\d+)? | \d[eE][-+]\d{2,3} )
        (?!\d|\.\d)               # not the start of a version""",
    re.VERBOSE,
)
DATA_URI = re.compile(r"(data:(?:image|video|audio|font|application)/[\w.+-]+)[;,](?:[^\"'\s)<>\\]|\\\n)*")
INLINE_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
RANDOM_ID = re.compile(  # of xarray's and matplotlib's HTML (UUID, with and without dashes) and of pandas' Styler
    r"(?<![0-9a-f])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})(?![0-9a-f])|(?<=T_)[0-9a-f]{5}(?![0-9a-z])"
)


def last_place(printed):
    """One unit in the last printed place: 0.01 for '3.70', 0.1 for '1.2e+00', 1 for '3.'."""
    mantissa, _, exponent = printed.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def same_number(stored, fresh, rtol):
    a, b = float(stored), float(fresh)
    if a == b or max(abs(a), abs(b)) < ZERO:
        return True
    if stored.endswith(".") and fresh.endswith("."):  # the integer that ends a sentence
        return False
    units = 1.0 if rtol > RTOL else 0.5
    allowed = units * min(last_place(stored), last_place(fresh)) + rtol * max(abs(a), abs(b))
    return abs(a - b) <= allowed * (1 + 1e-9)


def text_differences(stored, fresh, rtol):
    """What differs between two printed texts, one line each; empty when they agree."""
    before, now = FLOAT.findall(stored), FLOAT.findall(fresh)
    if len(before) != len(now) or FLOAT.sub("\0", stored).split() != FLOAT.sub("\0", fresh).split():
        return ["stored:", *stored.splitlines(), "now:", *fresh.splitlines()]
    return [
        f"{a} became {b}, off by {abs(float(a) - float(b)) / max(abs(float(a)), abs(float(b))):.2%} (rtol {rtol:g})"
        for a, b in zip(before, now, strict=True)
        if not same_number(a, b, rtol)
    ]


def shown(outputs):
    """What a reader sees, as lists of texts by kind (stdout, text/html, image/png, ...)."""
    kinds = defaultdict(list)
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] != "stderr":
                kinds[output["name"]].append(output["text"])
        elif output["output_type"] == "error":
            kinds["error"].append(f"{output['ename']}: {output['evalue']}")
        else:
            for mime, content in output["data"].items():
                if mime.startswith("image/"):
                    content = "a picture"
                elif not isinstance(content, str):
                    content = json.dumps(content, sort_keys=True)
                elif mime == "text/html":
                    content = INLINE_SVG.sub("<svg>", DATA_URI.sub(r"\1", content))
                    content = RANDOM_ID.sub("id", content)
                kinds[mime].append(content)
    return kinds


def output_differences(stored, fresh, rtol):
    """What differs between two lists of notebook outputs, one line each; empty when they agree."""
    stored, fresh = shown(stored), shown(fresh)
    lines = []
    for kind in sorted(stored.keys() | fresh.keys()):
        before, now = stored[kind], fresh[kind]
        if len(before) != len(now):
            lines.append(f"{kind}: {len(before)} stored, {len(now)} now")
            continue
        for old, new in zip(before, now, strict=True):
            lines += [f"{kind}: {line}" for line in text_differences(old, new, rtol)]
    return lines


def positive(text, where):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{where} is {text!r}, but a tolerance is a positive number such as 0.02")
    return value


def cell_tolerance(cell):
    """The default (or `STLIB_RTOL`), widened by the cell's tag."""
    tags = [tag.partition("=")[2] for tag in cell.metadata.get("tags", []) if tag.startswith("rtol=")]
    default = positive(os.environ.get("STLIB_RTOL", str(RTOL)), "STLIB_RTOL")
    return max([default, *(positive(tag, "the cell tag rtol") for tag in tags)])


def unexecuted(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [n for n, cell in enumerate(code) if cell.execution_count is None and cell.source.strip()]


def pytest_configure(config):
    if not config.getoption("nbval", default=False):
        return
    try:
        positive(os.environ.get("STLIB_RTOL", str(RTOL)), "STLIB_RTOL")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None

    from nbval.kernel import RunningKernel
    from nbval.plugin import IPyNbCell

    run_cell = IPyNbCell.runtest

    def runtest(item):
        missing = unexecuted(item.parent.nb)
        if missing:  # nbval itself would run such a cell, compare nothing and pass
            item.raise_cell_error(f"The notebook is refused: code cells {missing} were never executed")
        run_cell(item)

    def compare_outputs(item, test, ref, skip_compare=None):
        item.comparison_traceback = output_differences(ref, test, cell_tolerance(item.cell))
        return not item.comparison_traceback

    def execute_cell_input(kernel, source, allow_stdin=None):
        # Without history, IPython does not see the trailing semicolon and keeps no `_`.
        return kernel.kc.execute(source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)

    IPyNbCell.runtest = runtest
    IPyNbCell.compare_outputs = compare_outputs
    RunningKernel.execute_cell_input = execute_cell_input
