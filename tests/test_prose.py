"""Spelling and unfinished words in everything that readers read: chapters, pages, cards, docstrings, messages."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "book" / "glossary.md"
# Right, though codespell's dictionary of misspellings holds them: names, abbreviations, parts of DOIs.
RIGHT = "patter,mape,ot,coo"
FOLDERS = {"book": "*.md", "data": "card.md", "stlib": "*.py", "tools": "*.py", "tests": "*.py", "benchmarks": "*.py"}


def texts():
    for name in ("README.md", "CONTRIBUTING.md"):
        yield name, (ROOT / name).read_text()
    for folder, pattern in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob(pattern)):
            if "_build" not in path.parts and path != Path(__file__):
                yield str(path.relative_to(ROOT)), path.read_text()
    yield "exercises.json", (ROOT / "stlib" / "exercises.json").read_text()
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        images = [cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "") for cell in cells]
        yield path.name, "\n".join(["".join(cell["source"]) for cell in cells] + images)


def test_no_common_misspelling(tmp_path):
    for name, text in texts():
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    (tmp_path / "planted.md").write_text("A forcast is wrong when it seperates them.")
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", RIGHT, "."]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout.splitlines()
    planted = [line for line in found if "planted.md" in line]
    assert len(planted) == 2, "codespell no longer finds what it should"
    assert [line for line in found if line not in planted] == []


def test_nothing_is_left_to_do():
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|TBD|lorem ipsum)\b")
    assert [(name, hit[0]) for name, text in texts() if (hit := unfinished.search(text))] == []


def plain(text):
    """Prose without code, equations, addresses, headings and references."""
    return re.sub(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|^#.*|^- .*doi:.*", "", text, flags=re.MULTILINE)


def test_the_chapters_link_every_word_of_the_glossary_that_they_use_and_it_leads_back():
    entries = re.findall(r"^### (.+)\n\n(.+)", GLOSSARY.read_text(), re.MULTILINE)
    slug = {term: re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-") for term, _ in entries}
    prose = {}
    for path in (ROOT / "book").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        prose[path.name] = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    together = "\n\n".join(prose.values())
    linked = set(re.findall(r"glossary\.md#([\w-]+)", together))
    assert linked <= set(slug.values())
    for term, text in entries:
        word = re.compile(rf"\b{re.escape(term)}s?\b", 0 if term.isupper() else re.IGNORECASE)
        where = [name for name, text in prose.items() if word.search(plain(text))]
        assert slug[term] in linked or not where, f"{term!r} is used in {where}: link it at its first use"
        back = re.search(r"→ \[.+\]\((.+\.ipynb)\)$", text)
        if slug[term] in linked:
            assert back and f"glossary.md#{slug[term]})" in prose[back[1]], (
                f"{term!r} does not lead to a chapter with it"
            )


def test_the_glossary_is_in_order_and_in_two_languages():
    entries = re.findall(r"^(##+) (.+)\n\n(?=(.+))", GLOSSARY.read_text(), re.MULTILINE)
    terms = [term for marks, term, _ in entries if marks == "###"]
    assert terms == sorted(set(terms), key=str.casefold)
    letter = ""
    for marks, term, text in entries:
        assert marks in ("##", "###")
        if marks == "##":
            letter = term
        else:
            assert term[0].upper() == letter
            assert re.match(r"[\w –]*[\u4e00-\u9fff]", text), f"{term} needs its Chinese first"
