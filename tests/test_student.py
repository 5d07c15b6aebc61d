"""Student versions: nothing of a solution is left, everything else is there, and every exercise can be done."""

import copy
import json
import re
import symtable
from functools import cache
from pathlib import Path

import nbformat
import notebook as tool
import pytest
import student
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from stlib import reporting

ROOT = Path(__file__).parents[1]

BOOK = ROOT / "book"
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
ADDRESS = f"{REPOSITORY}/blob/main/book"
CHAPTERS = sorted(BOOK.glob("*.ipynb"))
EXERCISES = json.loads((Path(reporting.__file__).parent / "exercises.json").read_text())
MISTAKES = [(name, hint) for name, exercise in EXERCISES.items() for hint in exercise["mistakes"]]
TITLE = "# @title Solution"

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@cache
def chapter(path):
    return tool.read(path)[0]


@cache
def written(path, folder):
    """The student version, read back from its file."""
    return tool.read(student.write(path, folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("versions") / "student"


def code(cells):
    return [cell for cell in cells if cell.cell_type == "code"]


def solutions(path):
    return [cell for cell in chapter(path).cells if cell.source.startswith(TITLE)]


def others(path):
    return [cell for cell in chapter(path).cells if not cell.source.startswith(TITLE)]


def lines(cells):
    return {line.strip() for cell in cells for line in cell.source.splitlines()} - {""}


def shown(cell):
    return "".join(output.get("text", "") for output in cell.outputs).splitlines()


def checked(cell):
    """The exercises that a cell checks."""
    return re.findall(r'\bcheck\([^"]*"([^"]+)"\s*,?\s*\)', cell.source)


# What is left, and what is not


@each_chapter
def test_no_solution_is_left(path, folder):
    notebook, text = written(path, folder)
    secret = lines(solutions(path)) - lines(others(path))
    assert len(solutions(path)) >= 3, f"{path.name} needs three exercises with solutions"
    assert len(secret) > 12, f"the solutions of {path.name} have only {len(secret)} lines that stand nowhere else"
    assert sorted(secret & lines(notebook.cells)) == []
    assert TITLE not in text and "hide-cell" not in text and "✓ right" not in text and "✗" not in text


@each_chapter
def test_everything_else_is_there_in_order_and_was_not_run(path, folder):
    notebook, _ = written(path, folder)
    sources = [cell.source.replace(f"]({ADDRESS}/", "](") for cell in notebook.cells]
    kept = [(cell.cell_type, text, cell.metadata) for cell, text in zip(notebook.cells, sources, strict=True)]
    assert kept == [(cell.cell_type, cell.source, cell.metadata) for cell in others(path)]
    assert code(notebook.cells)[0].metadata["tags"] == ["setup", "hide-input"]
    assert [(cell.outputs, cell.execution_count) for cell in code(notebook.cells)] == [([], None)] * len(
        code(others(path))
    )


@each_chapter
def test_links_lead_to_chapters_beside_it_and_to_pages_of_the_repository(path, folder):
    text = "\n".join(cell.source for cell in written(path, folder)[0].cells if cell.cell_type == "markdown")
    links = set(re.findall(r"\]\(((?!https?://(?!github)|#)[^)#]+)", text))
    pages = {link for link in links if link.startswith(f"{ADDRESS}/")}
    assert pages and {(BOOK / link.removeprefix(f"{ADDRESS}/")).is_file() for link in pages} == {True}
    assert [link for link in links - pages if not (link.endswith(".ipynb") and (BOOK / link).is_file())] == []


@each_chapter
def test_a_student_version_is_valid_and_normalised(path, folder):
    notebook, text = written(path, folder)
    nbformat.validate(notebook)
    assert notebook.metadata == tool.NOTEBOOK_METADATA
    assert text == tool.dumps(tool.normalise(notebook))
    assert {key for cell in notebook.cells for key in cell.metadata} <= set(tool.KEPT_CELL_METADATA)


@each_chapter
def test_every_exercise_waits_for_an_answer(path, folder):
    notebook, _ = written(path, folder)
    names = [name for name in EXERCISES if name.startswith(f"{path.stem}: ")]
    waiting = [cell for cell in notebook.cells if re.search(r"^my_\w+ = \.\.\.  # your answer", cell.source, re.M)]
    assert [checked(cell) for cell in waiting] == [[name] for name in names]
    statements = re.findall(r"^### (\d)\. ", "\n\n".join(cell.source for cell in notebook.cells), re.M)
    assert [int(number) for number in statements[-len(names) :]] == list(range(1, len(names) + 1))
    for cell in waiting:
        before = notebook.cells[notebook.cells.index(cell) - 1]
        assert before.cell_type == "markdown" and re.search(r"^### \d\. ", before.source, re.M), (
            "a statement is missing"
        )


@each_chapter
def test_nothing_needs_a_name_that_a_solution_defines(path):
    """Without its solutions a chapter still runs: whatever a remaining cell uses, a remaining cell defines."""
    of_solutions, of_others = defined(solutions(path)), defined(others(path))
    assert len(of_solutions) >= 3, f"the solutions of {path.name} define only {sorted(of_solutions)}"
    assert sorted((of_solutions - of_others) & used(others(path))) == []


def global_names(cells, wanted):
    """The global names of which `wanted(symbol)` is true, at the top of the cells or inside their functions."""
    tables = [symtable.symtable("\n".join(cell.source for cell in code(cells)), "cells", "exec")]
    names = set()
    for table in tables:
        top = table.get_type() == "module"
        names |= {symbol.get_name() for symbol in table.get_symbols() if (top or symbol.is_global()) and wanted(symbol)}
        tables += table.get_children()
    return names


def defined(cells):
    return global_names(cells, lambda symbol: symbol.is_assigned() or symbol.is_imported())


def used(cells):
    return global_names(cells, lambda symbol: symbol.is_referenced())


# The checks fail until solved, and pass with the solution


def says(answer, name, capsys):
    reporting.check(answer, name)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_passes_with_the_right_answer_only(name, capsys):
    right = EXERCISES[name]["right"]
    assert says(..., name, capsys) == "… not answered yet\n"
    assert says(right, name, capsys) == "✓ right\n"
    assert [says(right * factor, name, capsys)[0] for factor in (0.998, 1.002, -1.0)] == ["✗"] * 3


@pytest.mark.parametrize(("name", "hint"), MISTAKES)
def test_a_check_names_each_mistake(name, hint, capsys):
    assert says(EXERCISES[name]["mistakes"][hint], name, capsys) == f"✗ not yet: {hint}\n"


@each_chapter
def test_the_solutions_were_right_and_showed_every_mistake(path):
    """The outputs that `make test` reproduces hold the answers to the chapter's exercises."""
    names = [name for name in EXERCISES if name.startswith(f"{path.stem}: ")]
    assert [sorted(set(checked(cell))) for cell in solutions(path)] == [[name] for name in names]
    for cell, name in zip(solutions(path), names, strict=True):
        marks = [line for line in shown(cell) if line.startswith(("✓ right", "✗", "…"))]
        assert marks[0] == "✓ right" and len(marks) == len(checked(cell))
        assert set(marks[1:]) - {"✓ right"} == {f"✗ not yet: {hint}" for hint in EXERCISES[name]["mistakes"]}
    for cell in code(others(path)):
        if checked(cell):
            assert shown(cell) == ["… not answered yet"]


# A made-up notebook, executed


def made_up(answer="..."):
    """A chapter with one exercise; the check is the first of the book's."""
    name, exercise = next(iter(EXERCISES.items()))
    return new_notebook(cells=[
        new_code_cell("from stlib.reporting import check", metadata={"tags": ["setup"]}),
        new_markdown_cell("### 1. An exercise\n\nGive the number. *Hint:* it is known."),
        new_code_cell(f'my_answer = {answer}  # your answer\ncheck(my_answer, "{name}")'),
        new_code_cell(
            f'{TITLE}\ncheck({exercise["right"]}, "{name}")',
            metadata={"tags": ["hide-cell"], "cellView": "form", "scrolled": True},
        ),
        new_markdown_cell("## Further reading"),
    ])  # fmt: skip


def printed(notebook, folder):
    notebook = copy.deepcopy(notebook)
    tool.execute(notebook, folder)
    assert tool.faults(notebook) == []
    return [line for cell in code(notebook.cells) for line in shown(cell)]


def test_a_made_up_chapter_runs_in_both_versions(tmp_path):
    assert printed(made_up(), tmp_path) == ["… not answered yet", "✓ right"]
    version = student.without_solutions(made_up())
    solved = copy.deepcopy(version.cells[2])
    first, second = solved.source.splitlines()
    solved.source = f"{first}\nmy_answer = {next(iter(EXERCISES.values()))['right']}\n{second}"
    version.cells.append(solved)
    assert printed(version, tmp_path) == ["… not answered yet", "✓ right"]


def test_only_solutions_go_also_those_with_one_sign_only():
    notebook = made_up()
    exercise, solution = notebook.cells[2:4]
    notebook.cells[4:4] = [exercise, new_code_cell(solution.source), new_code_cell("1 / 3", metadata=solution.metadata)]
    before = copy.deepcopy(notebook)
    version = student.without_solutions(notebook)
    assert notebook == before
    assert [cell.source for cell in version.cells] == [notebook.cells[n].source for n in (0, 1, 2, 4, 7)]
    assert len({cell.id for cell in version.cells}) == 5
    assert student.without_solutions(version) == version


# The command


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "STUDENT", tmp_path / "student")
    path = tmp_path / "x.ipynb"
    path.write_text(tool.dumps(tool.normalise(made_up())))
    return path


def test_the_command_says_where_they_are_and_writes_them_anew(book, capsys):
    for right in ("...", "None"):  # the chapter changes, nobody touched the student version
        book.write_text(tool.dumps(tool.normalise(made_up(right))))
        assert student.main([str(book)]) == 0
        assert capsys.readouterr().out == f"{book.parent / 'student' / 'x.ipynb'}\n"
        assert f"my_answer = {right}" in (book.parent / "student" / "x.ipynb").read_text()


def answered(notebook):
    notebook.cells[2].source = notebook.cells[2].source.replace("...", "1")


def ran(notebook):
    notebook.cells[0].execution_count = 1


def noted(notebook):
    notebook.cells.append(new_markdown_cell("My notes."))


@pytest.mark.parametrize("work", [answered, ran, noted])
def test_work_of_a_student_is_left_as_it_is(work, book, capsys):
    assert student.main([str(book)]) == 0
    path = book.parent / "student" / "x.ipynb"
    notebook = tool.read(path)[0]
    work(notebook)
    path.write_text(tool.dumps(notebook))
    before = path.read_bytes()
    capsys.readouterr()
    assert student.main([str(book)]) == 1
    out, err = capsys.readouterr()
    assert path.read_bytes() == before and out == ""
    assert err == f"{book}: left as it is, because somebody worked on {path}\n"


def test_what_is_no_chapter_is_one_line_and_the_others_are_written(book, capsys):
    bad = book.with_name("y.ipynb")
    bad.write_text("plain text")
    assert student.main([str(bad), str(book)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{book.parent / 'student' / 'x.ipynb'}\n"
    assert re.fullmatch(r".*y\.ipynb: not a notebook: .*\n", err) and not (book.parent / "student" / "y.ipynb").exists()
    assert student.main([str(book.with_name("none.ipynb"))]) == 1
    assert "No such file" in capsys.readouterr().err
