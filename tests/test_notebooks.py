r"""House rules of a chapter, each a function `rule(notebook) -> list of faults`, proved here on good and bad notebooks.

The head of a chapter, that is its markdown cells before the first code cell, has this form:

    # Title

    By the end you will be able to:

    - three to five objectives, one list item each

    **Prerequisites:** links, or "none"

    **Time:** 20 minutes to read, 45 seconds to run on two CPU cores

    **Modules:** `stlib.metrics`, ...

    **Data:** which sets, with links

The sentence may be bold and the labels may be list items (`- **Time:** ...`). The first code cell is the set-up cell,
tagged `setup`. A solution is a code cell that starts with `# @title Solution`, tagged `hide-cell`, with
`"cellView": "form"` in its metadata. Alt text is `"mystnb": {"image": {"alt": "..."}}` in the metadata of the cell that
draws. In prose a decimal is an input and stands in `$...$` or in a code span; a measured number is printed by a cell.
"""

import copy
import importlib.util
import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("notebook_tool", ROOT / "tools" / "notebook.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

MARKDOWN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin).use(amsmath_plugin)
LABELS = ("Prerequisites", "Time", "Modules", "Data")
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?:\s?%)?")
ADDRESS_IN_TEXT = re.compile(r"https?://\S+|\b10\.\d{4,9}/\S+")
MYST = re.compile(r"\{[\w:+.-]+\}`|^\s*(?::{3,}|`{3,}\s*\{|~{3,}\s*\{)|^\([\w-]+\)=\s*$|\{\{.*?\}\}", re.MULTILINE)
ABSOLUTE_PATH = re.compile(r"(?<![\w./:<~$}\\-])/[A-Za-z][\w.-]*/[\w.-]+|\bfile://|\b[A-Z]:\\\w")
PACKAGE_INDEX = re.compile(r"--(?:extra-)?index-url|--trusted-host|--find-links|\bpypi\b|pythonhosted", re.IGNORECASE)
BARE_INSTALL = re.compile(r"\bpip3?\b[^\n;`]*\binstall\b[^\n;`]*?(?<![\w./@-])stlib(?![\w/-])")
NBVAL_MARKER = re.compile(r"nbval[-_](?:ignore|skip)", re.IGNORECASE)
MEGABYTE = 1_000_000


def cells_of(notebook, cell_type):
    return [cell for cell in notebook.cells if cell.cell_type == cell_type]


def numbered_code(notebook):
    return enumerate(cells_of(notebook, "code"), start=1)


def head_of(notebook):
    """The markdown cells before the first code cell."""
    kinds = [cell.cell_type for cell in notebook.cells]
    first_code = kinds.index("code") if "code" in kinds else len(kinds)
    return [cell for cell in notebook.cells[:first_code] if cell.cell_type == "markdown"]


def has_picture(output):
    return any(mime.startswith("image/") for mime in output.get("data", {}))


def readable(notebook):
    """Every text in the notebook, sources and outputs, without the pictures."""
    for n, cell in enumerate(notebook.cells, start=1):
        yield n, cell.source
        for output in cell.get("outputs", []):
            yield n, output.get("text", "")
            for mime, content in output.get("data", {}).items():
                if not mime.startswith("image/") and isinstance(content, str):
                    yield n, re.sub(r"data:[\w.+/-]+;base64,[\w+/=\\\n]*", "", content)


def found_anywhere(notebook, pattern, what):
    return [f"cell {n}: {what}: {hit[0]!r}" for n, text in readable(notebook) if (hit := pattern.search(text))]


def executed_cleanly(notebook):
    return tool.faults(notebook)


def short_cells(notebook):
    sizes = [(n, len(cell.source.splitlines())) for n, cell in numbered_code(notebook)]
    return [f"code cell {n} has {lines} lines, 25 are allowed" for n, lines in sizes if lines > 25]


def starts_with_setup(notebook):
    code = cells_of(notebook, "code")
    return [] if code and "setup" in code[0].metadata.get("tags", []) else ["the first code cell is not tagged setup"]


def complete_head(notebook):
    text = "\n\n".join(cell.source for cell in head_of(notebook))
    faults = [] if re.match(r"# \S", text) else ["the head does not start with '# Title'"]
    _, promise, rest = text.partition("you will be able to")
    before_labels = re.split(rf"^(?:[-*] )?\*\*(?:{'|'.join(LABELS)}):", rest, flags=re.M)[0]
    objectives = re.findall(r"^[-*] \S", before_labels, re.M)
    if not promise or not 3 <= len(objectives) <= 5:
        faults.append(f"the head lists {len(objectives)} objectives after 'you will be able to', 3 to 5 are needed")
    for label in LABELS:
        line = re.search(rf"^(?:[-*] )?\*\*{label}:\*\* +(\S.*)$", text, re.M)
        if not line:
            faults.append(f"the head has no '**{label}:** ...'")
        elif label == "Time" and not re.search(r"\d+ minutes?\b.*\b\d+ seconds?\b", line[1]):
            faults.append("the head's Time does not say '... minutes to read, ... seconds to run'")
    return faults


def alt_text(notebook):
    faults = []
    for n, cell in numbered_code(notebook):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if any(has_picture(output) for output in cell.outputs) and len(alt.strip()) < 30:
            faults.append(f"code cell {n} draws, but mystnb.image.alt has {len(alt.strip())} characters, 30 are needed")
    return faults


def prose(source):
    """The running text: no code, no math, no links, no HTML."""
    for token in MARKDOWN.parse(source):
        depth = 0
        for child in token.children or []:
            depth += {"link_open": 1, "link_close": -1}.get(child.type, 0)
            if child.type == "text" and depth == 0:
                yield ADDRESS_IN_TEXT.sub("", child.content)


def no_measured_decimals(notebook):
    head = head_of(notebook)
    faults = []
    for n, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown" and not any(cell is other for other in head):
            hits = [hit for text in prose(cell.source) for hit in DECIMAL.findall(text)]
            faults += [f"cell {n}: the decimal {hit} stands in prose; print it, or write $...$" for hit in hits]
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        faults += [f"cell {n}: the decimal {hit} stands in alt text" for hit in DECIMAL.findall(alt)]
    return faults


def three_claims(notebook):
    count = sum(len(re.findall(r"\bclaim\(", cell.source)) for _, cell in numbered_code(notebook))
    return [] if count >= 3 else [f"the chapter makes {count} claims, at least 3 are needed"]


def folded_solutions(notebook):
    faults = []
    for n, cell in numbered_code(notebook):
        signs = {
            "the tag hide-cell": "hide-cell" in cell.metadata.get("tags", []),
            "cellView form": cell.metadata.get("cellView") == "form",
            "a first line '# @title Solution'": cell.source.startswith("# @title Solution"),
        }
        if any(signs.values()):
            faults += [f"code cell {n} is a solution without {sign}" for sign, there in signs.items() if not there]
    return faults


def small(notebook):
    size = len(tool.dumps(notebook).encode())
    faults = [f"the notebook has {size} bytes, 2 MB are allowed"] if size > 2 * MEGABYTE else []
    for n, cell in numbered_code(notebook):
        largest = max((len(json.dumps(output)) for output in cell.outputs), default=0)
        if largest > MEGABYTE:
            faults.append(f"code cell {n} has an output of {largest} bytes, 1 MB is allowed")
    return faults


def no_absolute_paths(notebook):
    return found_anywhere(notebook, ABSOLUTE_PATH, "an absolute path")


def no_package_index(notebook):
    return found_anywhere(notebook, PACKAGE_INDEX, "a package index")


def no_bare_install(notebook):
    return found_anywhere(notebook, BARE_INSTALL, "that name belongs to another package; ours is stlib-book")


def no_widgets(notebook):
    faults = []
    for n, cell in numbered_code(notebook):
        mimes = [mime for output in cell.outputs for mime in output.get("data", {})]
        text = "".join(output.get("text", "") for output in cell.outputs)
        if any("jupyter.widget" in mime for mime in mimes) or re.search(r"\bipywidgets\b", cell.source):
            faults.append(f"code cell {n} has a widget")
        if "\r" in text or re.search(r"\d+%\|", text) or re.search(r"\btqdm\b", cell.source):
            faults.append(f"code cell {n} has a progress bar")
    return faults


def commonmark_only(notebook):
    hits = [(n, MYST.search(cell.source)) for n, cell in enumerate(notebook.cells, 1) if cell.cell_type == "markdown"]
    return [f"cell {n}: MyST syntax: {hit[0].strip()!r}" for n, hit in hits if hit]


def headings_in_order(notebook):
    sources = [cell.source for cell in cells_of(notebook, "markdown")]
    levels = [int(t.tag[1]) for source in sources for t in MARKDOWN.parse(source) if t.type == "heading_open"]
    faults = [] if levels[:1] == [1] and levels.count(1) == 1 else ["one '# Title' is needed, as the first heading"]
    jumps = [(a, b) for a, b in pairwise(levels) if b > a + 1]
    return faults + [f"a heading of level {b} follows one of level {a}" for a, b in jumps]


def outputs_are_compared(notebook):
    cells = [(n, " ".join([cell.source, *cell.metadata.get("tags", [])])) for n, cell in numbered_code(notebook)]
    return [f"code cell {n} keeps nbval from comparing it" for n, text in cells if NBVAL_MARKER.search(text)]


RULES = [executed_cleanly, short_cells, starts_with_setup, complete_head, alt_text, no_measured_decimals, three_claims,
         folded_solutions, small, no_absolute_paths, no_package_index, no_bare_install, no_widgets, commonmark_only,
         headings_in_order, outputs_are_compared]  # fmt: skip


def same_setup(notebooks):
    """The names of the notebooks whose first code cell is not that of the first notebook, byte for byte."""
    first = {name: cells_of(notebook, "code")[0].source for name, notebook in notebooks.items()}
    return [name for name, source in first.items() if source != next(iter(first.values()))]


@cache
def chapter(path):
    return tool.read(path)[0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_keeps(path, rule):
    assert rule(chapter(path)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_is_normalised(path):
    assert tool.check(path) == []


def test_setup_is_the_same_in_every_chapter():
    assert same_setup({path.stem: chapter(path) for path in CHAPTERS}) == []


# The rules themselves: a notebook that keeps them all, and for each rule the smallest ways to break it.
HEAD = """# Honest forecasts

By the end you will be able to:

- say what a baseline is
- measure skill by lead
- doubt a gain of 3.2 %

**Prerequisites:** [notation](notation.md)

**Time:** 20 minutes to read, 45 seconds to run on two CPU cores

**Modules:** `stlib.metrics`

**Data:** the storm of January 1996
"""
PROSE = r"""## The idea

In 1996 there were 64 frames. With $\phi = 0.9$ and `rtol=0.02`, see [section 2.1](notation.md) and
[Murphy](https://doi.org/10.1175/1520-0493(1988)116%3C2417:SSBOTM%3E2.0.CO;2), or <https://doi.org/10.1000/1.5>.

$$
x = 0.37 \tag{1}
$$

### Detail

    indented_code = 0.37

A rise of 37 % in 12 of 24 places, and/or none. ![A plot](figures/plot-1.5.png)
"""


def good():
    picture = new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 640x480>"})
    alt = {"image": {"alt": "Error by lead: persistence grows, climatology is flat."}}
    claims = 'claim("a", True)\nclaim("b", True)\nclaim("c", True)'
    notebook = new_notebook(cells=[
        new_markdown_cell(HEAD),
        new_code_cell("import stlib", metadata={"tags": ["setup"]}),
        new_markdown_cell(PROSE),
        new_code_cell("_ = plot()", metadata={"mystnb": alt}, outputs=[picture]),
        new_code_cell(claims, outputs=[new_output("stream", name="stdout", text="skill 0.37 at 1/2 day")]),
        new_code_cell("# @title Solution\n1 / 3", metadata={"tags": ["hide-cell"], "cellView": "form"}),
        new_markdown_cell("## Summary\n\n%pip install stlib-book, or from https://github.com/someone/stlib"),
    ])  # fmt: skip
    for n, cell in enumerate(cells_of(notebook, "code"), start=1):
        cell.execution_count = n
    return notebook


def code(n, **changes):
    """An edit of the n-th code cell."""
    return lambda notebook: cells_of(notebook, "code")[n - 1].update(copy.deepcopy(changes))


def text(source):
    """An edit that adds a markdown cell."""
    return lambda notebook: notebook.cells.append(new_markdown_cell(source))


def head(old, new):
    """An edit of the head."""

    def edit(notebook):
        assert old in notebook.cells[0].source
        notebook.cells[0].source = notebook.cells[0].source.replace(old, new)

    return edit


def stream(text, name="stdout"):
    return [new_output("stream", name=name, text=text)]


def data(mime, content):
    return [new_output("display_data", {mime: content})]


BAD = [  # rule, edit, what the fault says
    (executed_cleanly, code(2, execution_count=None), "code cell 2 was never executed"),
    (executed_cleanly, code(2, execution_count=7), "code cell 2 was executed out of order: its count is 7"),
    (executed_cleanly, code(2, source=" "), "code cell 2 is empty"),
    (executed_cleanly, code(2, outputs=stream("UserWarning", "stderr")), "code cell 2 wrote to stderr: UserWarning"),
    (executed_cleanly, code(2, outputs=[new_output("error", ename="E", evalue="no", traceback=[])]), "in an error"),
    (executed_cleanly, code(2, outputs=data("text/plain", "<Line at 0x7fd2c00e5a10>")), "address, 0x7fd2c00e5a10"),
    (short_cells, code(2, source="x\n" * 26), "code cell 2 has 26 lines, 25 are allowed"),
    (starts_with_setup, code(1, metadata={}), "not tagged setup"),
    (complete_head, head("# Honest", "Honest"), "does not start with '# Title'"),
    (complete_head, head("you will be able to", "you know"), "lists 0 objectives"),
    (complete_head, head("- measure skill by lead\n", ""), "lists 2 objectives"),
    (complete_head, head("- measure skill by lead\n", "- a\n" * 4), "lists 6 objectives"),
    (complete_head, head("**Prerequisites:**", "Prerequisites:"), "no '**Prerequisites:** ...'"),
    (complete_head, head("the storm of January 1996", ""), "no '**Data:** ...'"),
    (complete_head, head("`stlib.metrics`", ""), "no '**Modules:** ...'"),
    (complete_head, head(", 45 seconds", ", a little"), "Time does not say"),
    (alt_text, code(2, metadata={}), "alt has 0 characters, 30 are needed"),
    (alt_text, code(2, metadata={"mystnb": {"image": {"alt": "A plot."}}}), "alt has 7 characters"),
    (no_measured_decimals, text("Skill is 0.37 here."), "the decimal 0.37 stands in prose"),
    (no_measured_decimals, text("It gains 3.2 %."), "the decimal 3.2 % stands in prose"),
    (no_measured_decimals, text("| a |\n|---|\n| **1.25** |"), "the decimal 1.25 stands in prose"),
    (
        no_measured_decimals,
        code(2, metadata={"mystnb": {"image": {"alt": "Persistence grows, climatology is flat near 12.5."}}}),
        "the decimal 12.5 stands in alt text",
    ),
    (three_claims, code(3, source="claim('a', True)"), "makes 1 claims"),
    (folded_solutions, code(4, metadata={"tags": ["hide-cell"]}), "code cell 4 is a solution without cellView form"),
    (folded_solutions, code(4, metadata={"cellView": "form"}), "without the tag hide-cell"),
    (folded_solutions, code(4, metadata={}), "without the tag hide-cell"),
    (folded_solutions, code(4, source="1 / 3"), "without a first line '# @title Solution'"),
    (small, text("x" * 2_000_001), "2 MB are allowed"),
    (small, code(2, outputs=data("text/html", "x" * 1_000_001)), "code cell 2 has an output of 1000"),
    (no_absolute_paths, code(2, source="open('/somewhere/else.csv')"), "/somewhere/else.csv"),
    (no_absolute_paths, code(2, outputs=stream("saved to /home/me")), "/home/me"),
    (no_absolute_paths, code(2, source=r"open('C:\data')"), r"C:\\d"),
    (no_package_index, code(1, source="%pip install --index-url https://mirror.example/simple x"), "--index-url"),
    (no_bare_install, code(1, source="%pip install -q stlib"), "ours is stlib-book"),
    (no_bare_install, code(1, source='run(["pip", "install", "stlib"])'), "ours is stlib-book"),
    (no_bare_install, text("Run `pip install stlib[book]`."), "ours is stlib-book"),
    (no_widgets, code(2, outputs=data("application/vnd.jupyter.widget-view+json", {})), "has a widget"),
    (no_widgets, code(2, outputs=stream("50%|#####     | 5/10")), "has a progress bar"),
    (no_widgets, code(2, outputs=stream("1\r2")), "has a progress bar"),
    (no_widgets, code(2, source="from tqdm.auto import tqdm"), "has a progress bar"),
    (commonmark_only, text("See {doc}`notation`."), "MyST syntax: '{doc}`'"),
    (commonmark_only, text("```{note}\nText\n```"), "MyST syntax: '```{'"),
    (commonmark_only, text(":::{note}\nText\n:::"), "MyST syntax: ':::'"),
    (commonmark_only, text("(a-label)=\n## Title"), "MyST syntax: '(a-label)='"),
    (headings_in_order, text("#### Deep"), "a heading of level 4 follows one of level 2"),
    (headings_in_order, text("# A second title"), "one '# Title' is needed"),
    (headings_in_order, head("# Honest forecasts", ""), "one '# Title' is needed"),
    (outputs_are_compared, code(2, source="# NBVAL_IGNORE_OUTPUT\nx"), "keeps nbval from comparing"),
    (outputs_are_compared, code(2, metadata={"tags": ["nbval-skip"]}), "keeps nbval from comparing"),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_good_notebook(rule):
    assert rule(good()) == []


@pytest.mark.parametrize(("rule", "edit", "says"), BAD, ids=[f"{rule.__name__}-{says}" for rule, _, says in BAD])
def test_rule_finds_a_fault(rule, edit, says):
    notebook = good()
    edit(notebook)
    assert [fault for fault in rule(notebook) if says in fault], rule(notebook)


def test_every_rule_has_a_counterexample():
    assert {rule for rule, _, _ in BAD} == set(RULES)


def test_setup_that_differs_by_a_space_is_found():
    changed = good()
    cells_of(changed, "code")[0].source += " "
    assert same_setup({"first": good(), "second": changed, "third": good()}) == ["second"]


def test_a_head_of_list_items_and_a_bold_sentence_is_complete():
    notebook = good()
    head("By the end you will be able to:", "**After this chapter you will be able to**")(notebook)
    for label in LABELS:
        head(f"**{label}:**", f"- **{label}:**")(notebook)
    assert complete_head(notebook) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_work_cited_is_on_the_page_of_references(path):
    cited = re.findall(r"\(https://doi\.org/([^)\s]+)\)", "".join(cell.source for cell in tool.read(path)[0].cells))
    listed = (ROOT / "book" / "references.md").read_text()
    assert cited, "cite at least one work by DOI"
    assert [doi for doi in cited if doi not in listed] == [], "these are not in book/references.md"


def test_every_work_on_the_page_of_references_is_cited():
    listed = re.findall(r"\(https://doi\.org/([^)\s]+)\)", (ROOT / "book" / "references.md").read_text())
    chapters = "".join(cell.source for path in CHAPTERS for cell in tool.read(path)[0].cells)
    page = unquote((ROOT / "book" / "data.md").read_text())
    assert [doi for doi in listed if doi not in chapters and unquote(doi) not in page] == []


# The normaliser.
def noisy():
    html = '<input id="0f8fad5b-d9cb-469f-a165-70867728950e"><label for="0f8fad5b-d9cb-469f-a165-70867728950e">'
    cell = new_code_cell(
        "print('a')\nprint('b')\n",
        metadata={"tags": [], "scrolled": True, "collapsed": False, "cellView": "form", "execution": {"start": "now"}},
        outputs=[*stream("a\n"), *stream("b\n"), *data("text/html", html), new_output("execute_result", {})],
        execution_count=1,
    )
    return new_notebook(
        cells=[cell, new_markdown_cell("same\r\n"), new_markdown_cell("same")],
        metadata={
            "kernelspec": {"name": "mine", "display_name": "Mine"},
            "language_info": {"name": "python", "version": "3.11.9"},
        },
    )


def test_normalise_keeps_what_is_shown_and_nothing_else():
    clean = tool.normalise(noisy())
    cell = clean.cells[0]
    assert clean.metadata == tool.NOTEBOOK_METADATA
    assert cell.metadata == {"cellView": "form"} and cell.source == "print('a')\nprint('b')"
    assert [output.output_type for output in cell.outputs] == ["stream", "display_data", "execute_result"]
    assert cell.outputs[0].text == "a\nb\n" and cell.outputs[2].execution_count == cell.execution_count == 1
    ids = re.findall(r'"(.*?)"', cell.outputs[1].data["text/html"])
    assert ids[0] == ids[1] == str(tool.numbered_id("-", 0))
    assert [c.source for c in clean.cells[1:]] == ["same", "same"]


def test_normalise_is_stable():
    first, again = tool.normalise(noisy()), tool.normalise(tool.normalise(noisy()))
    assert tool.dumps(first) == tool.dumps(again)
    assert len({cell.id for cell in first.cells}) == 3
    shorter = noisy()
    del shorter.cells[0]  # the ids of the other cells do not depend on their place
    assert [cell.id for cell in tool.normalise(shorter).cells] == [cell.id for cell in first.cells[1:]]


def test_normalise_leaves_its_argument_alone():
    given = noisy()
    before = copy.deepcopy(given)
    tool.normalise(given)
    assert given == before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", "code cell 2 failed"),
        ("import sys\nprint('careful', file=sys.stderr)", "code cell 2 wrote to stderr: careful"),
        ("object()", "code cell 2 shows a memory address"),
        ("import os\nos._exit(1)", "code cell 2 failed"),
        ("import time\ntime.sleep(60)", "code cell 2 took too long"),
    ],
)
def test_a_failed_run_leaves_the_file_as_it_was(source, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tool, "SECONDS_A_CELL", 3)
    path = tmp_path / "x.ipynb"
    path.write_text(tool.dumps(new_notebook(cells=[new_code_cell("print(1)"), new_code_cell(source)])))
    before = path.read_bytes()
    assert tool.main([str(path)]) == 1
    assert says in capsys.readouterr().err
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_run_writes_a_normalised_notebook_that_sees_its_own_folder(tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    (tmp_path / "number.txt").write_text("42")
    path.write_text(tool.dumps(new_notebook(cells=[new_code_cell("print(open('number.txt').read())")])))
    assert tool.check(path)[0] == "code cell 1 was never executed"
    assert tool.main([str(path)]) == 0
    assert re.fullmatch(r".*x\.ipynb: \d+\.\d s\n", capsys.readouterr().out)
    assert tool.check(path) == [] and tool.read(path)[0].cells[0].outputs[0].text == "42\n"
    path.write_text(path.read_text() + "\n")
    assert tool.check(path) == ["the file's layout is not normalised"]


def test_what_is_no_notebook_is_one_line(tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    path.write_text("plain text")
    assert tool.main(["--check", str(path)]) == 1
    assert re.fullmatch(r".*x\.ipynb: not a notebook: .*\n", capsys.readouterr().err)
