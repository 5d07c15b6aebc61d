"""The repository's address can be changed in one go: proved on a copy of the checkout."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import notebook as tool
import pytest
import yaml

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("address_tool", ROOT / "tools" / "address.py")
address = importlib.util.module_from_spec(spec)
spec.loader.exec_module(address)

OLD = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
# Put together, so that this file does not name them: it is in the copy too. One fits on the line of the set-up cell.
SHORT = "/".join(["https://github.com", "new", "st"])
LONG = "/".join(["https://github.com", "a-long-owner" * 3, "a.long_name" * 5])

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """A copy of this checkout, without its history."""
    copy = tmp_path / "copy"
    for path in address.files(ROOT):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    git(copy, "init", "--quiet")
    git(copy, "add", "--all")
    return copy


def naming(folder, text):
    """The files that hold `text`."""
    return [path.relative_to(folder).as_posix() for path in address.files(folder) if text.encode() in path.read_bytes()]


@pytest.mark.parametrize("new", [SHORT, LONG])
def test_the_old_address_is_nowhere(new, checkout):
    named = naming(checkout, OLD)
    chapters = sorted((checkout / "book").glob("*.ipynb"))
    assert {"_config.yml", "CITATION.cff", *(f"book/{path.name}" for path in chapters)} <= set(named)
    outputs = [[cell.get("outputs") for cell in tool.read(path)[0].cells] for path in chapters]

    changed = address.change(new, checkout)
    assert [path.relative_to(checkout).as_posix() for path in changed] == named
    assert naming(checkout, OLD) == [] and naming(checkout, new) == named
    assert naming(checkout, address.owner_and_name(OLD)) == []
    assert yaml.safe_load((checkout / "_config.yml").read_text())["repository"]["url"] == new
    assert git(checkout, "diff", "--name-only").split() == named

    assert [tool.check(path) for path in chapters] == [[]] * len(chapters)
    assert outputs == [[cell.get("outputs") for cell in tool.read(path)[0].cells] for path in chapters]
    setups = {next(cell.source for cell in tool.read(path)[0].cells if cell.cell_type == "code") for path in chapters}
    assert len(setups) == 1 and f'"git+{new}"' in setups.pop()
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "book"]
        done = subprocess.run(ruff, cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_there_and_back_changes_nothing(checkout):
    address.change(SHORT, checkout)
    address.change(OLD, checkout)
    assert git(checkout, "diff", "--name-only") == ""


@pytest.fixture
def small(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://github.com/me/st\n")
    (tmp_path / ".gitignore").write_text("ignored.md\n")
    return tmp_path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(https://github.com/me/st)", "(https://github.com/you/me-st)"),
        ("See https://github.com/me/st.\n", "See https://github.com/you/me-st.\n"),
        ("git@github.com:me/st.git", "git@github.com:you/me-st.git"),
        ("https://colab.research.google.com/github/me/st/blob/x", "https://colab.research.google.com/github/you/me-st/blob/x"),
        ("https://github.com/me/st#readme", "https://github.com/you/me-st#readme"),
        ("https://github.com/me/sts https://github.com/me/st-2 https://github.com/me/st.py", None),
        ("https://github.com/some/st https://github.com/he.me/st https://github.com/a-me/st", None),
        ("https://github.com/me", None),
    ],
)  # fmt: skip
def test_only_the_address_itself_is_changed(before, after, small):
    (small / "new.md").write_text(before)
    (small / "ignored.md").write_text(before)
    (small / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    address.change("https://github.com/you/me-st", small)
    assert (small / "new.md").read_text() == (after or before)
    assert (small / "ignored.md").read_text() == before
    assert (small / "picture.png").read_bytes() == b"\x89PNG\xff\xfe"


def test_the_command_lists_what_it_changed(small, monkeypatch, capsys):
    monkeypatch.setattr(address, "ROOT", small)
    (small / "new.md").write_text("https://github.com/me/st")
    assert address.main(["https://github.com/you/me-st"]) == 0
    assert capsys.readouterr().out == "_config.yml\nnew.md\n"


@pytest.mark.parametrize(
    "bad",
    ["", "me/st", "http://github.com/me/st", "https://github.com/me", "https://github.com/me/st/", "https://github.com/me/st.git",
     "https://github.com/me/st/tree/main", "https://gitlab.com/me/st", "https://github.com/me/s t", "https://github.com/me/st\n"],
)  # fmt: skip
def test_a_bad_address_is_one_line_and_changes_nothing(bad, small, monkeypatch, capsys):
    monkeypatch.setattr(address, "ROOT", small)
    before = (small / "_config.yml").read_text()
    assert address.main([bad]) == 1
    assert "https://github.com/owner/name" in capsys.readouterr().err
    assert (small / "_config.yml").read_text() == before
