"""Source beside use: each name of the package in a chapter leads to its page and its source, and from there back."""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import docstrings
import nbformat
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
HTML = BOOK / "_build" / "html"
PAGES = {path.stem for path in (BOOK / "api").glob("*.md")}
CHAPTERS = sorted(path.stem for path in BOOK.glob("*.ipynb"))
FILES = [path for path in (ROOT / "stlib").rglob("*.py") if not path.stem.startswith("_")]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES)

pytestmark = pytest.mark.usefixtures("built")


def page_of(module: str) -> str:
    """The page that documents a module: its own, or that of the package whose names it holds."""
    return module if module in PAGES else module.rpartition(".")[0]


def public(module: str) -> set[str]:
    """Functions and classes that a module defines for others."""
    values = vars(importlib.import_module(module)).items()
    return {
        name
        for name, value in values
        if not name.startswith("_") and inspect.isroutine(value) | inspect.isclass(value) and value.__module__ == module
    }


def code(chapter: str) -> str:
    cells = nbformat.read(BOOK / f"{chapter}.ipynb", 4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub(r"^[ \t]*[%!].*", "", source, flags=re.MULTILINE)


def imported(chapter: str) -> dict[str, str]:
    """What a chapter's code imports from the package: the name it uses, and the full name where that is defined."""
    full = {}
    for node in ast.walk(ast.parse(code(chapter))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "stlib":
            for alias in node.names:
                try:
                    importlib.import_module(f"{node.module}.{alias.name}")
                    module = node.module
                except ModuleNotFoundError:
                    value = getattr(importlib.import_module(node.module), alias.name)
                    module = getattr(value, "__module__", node.module)
                full[alias.asname or alias.name] = f"{module}.{alias.name}"
    return full


@cache
def parse(page: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / page).read_text(), "html.parser")


def linked(chapter: str) -> set[str]:
    """The names that the code of a chapter's page links to, as they stand on the pages of the package."""
    links = parse(f"{chapter}.html").select("a.sphinx-codeautolink-a[href^='api/']")
    return {urlsplit(link["href"]).fragment.removeprefix("module-") for link in links}


def chapters_of(page: str) -> set[str]:
    """The chapters that a page of the package leads to, folded lists included."""
    links = [urlsplit(link["href"]).path for link in parse(f"api/{page}.html").select("article a[href^='../']")]
    return {Path(link).stem for link in links} & set(CHAPTERS)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_page_with_every_public_name_and_its_source(module):
    page = page_of(module)
    assert page in PAGES, f"{module} has no page: write book/api/{module}.md and name it in book/_toc.yml"
    assert (HTML / "api" / f"{page}.html").exists(), f"book/_toc.yml does not name api/{page}"
    entries = {entry["id"]: entry for entry in parse(f"api/{page}.html").select("dl.py > dt[id]")}
    for name in public(module):
        (source,) = entries[f"{module}.{name}"].select("a.reference[href*='_modules/']")
        address = urlsplit(source["href"])
        assert parse(f"api/{address.path}").find(id=address.fragment)["id"] == name


def test_the_list_of_the_package_names_every_page():
    links = parse("api.html").select("table.autosummary a.reference")
    listed = {urlsplit(link["href"]).path.removeprefix("api/").removesuffix(".html") for link in links}
    assert listed == PAGES, "book/api.md lists other modules than those with a page in book/api/"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_imported_name_in_a_chapter_leads_to_its_page_and_back(chapter):
    names = set(imported(chapter).values())
    assert names - linked(chapter) == set()
    for name in names:
        page = next(page for page in (name, page_of(name), page_of(page_of(name))) if page in PAGES)
        assert chapter in chapters_of(page), f"the page of {page} does not lead back to {chapter}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_nearly_every_use_of_a_name_in_a_chapter_is_a_link(chapter):
    # The extension misses a few calls inside functions.
    names = imported(chapter)
    modules = {name for name, full in names.items() if page_of(full) == full}
    uses, unlinked = 0, []
    for block in parse(f"{chapter}.html").select("div.cell_input pre"):
        words = [word for word in block.select("span") if word.text.strip()]
        for before, word, after in zip([None, None, *words], [None, *words, None], [*words, None, None], strict=True):
            if word is None or (after is not None and after.text == "="):
                continue
            attribute = before is not None and before.text == "."
            owner = words[words.index(word) - 2].text if attribute and words.index(word) >= 2 else ""
            if (word.text in names and not attribute) or (attribute and owner in modules):
                uses += 1
                unlinked += [] if word.find_parent("a") else [word.text]
    assert uses >= 30, f"{chapter} uses names of the package {uses} times only"
    assert len(unlinked) <= 0.03 * uses, unlinked


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_names_the_chapter_that_explains_it_and_that_chapter_uses_it(page):
    explained = re.search(r".*[Ee]xplained in [^`]*", (BOOK / "api" / f"{page}.md").read_text(), re.MULTILINE)
    users = {chapter for chapter in CHAPTERS if any(name == page or page_of(name) == page for name in linked(chapter))}
    named = set(re.findall(r"\.\./([\w-]+)\.ipynb", explained[0])) if explained else set()
    assert named <= users, f"book/api/{page}.md names a chapter that does not use the module"
    assert named or not users, f"book/api/{page}.md names no chapter that explains it, and {users} use it"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_docstrings_are_laid_out_as_meant(page):
    article = parse(f"api/{page}.html").select_one("article")
    assert [quote.text[:60] for quote in article.select("blockquote")] == [], "write :: before a table or code"
    assert {summary.text for summary in article.select("summary")} <= {"In the chapters"}
    assert article.select("summary a") == []
    text = "".join(text for text in article.find_all(string=True) if not text.find_parent(["a", "pre"]))
    assert re.findall(r"doi:10\.\S+|``|:math:", text) == []
    inline = [
        paragraph.text[:80] for paragraph in article.select("p") if re.search(r"\. (Raises |Source:)", paragraph.text)
    ]
    assert inline == [], "these belong to a paragraph of their own"


def test_a_doi_in_a_docstring_becomes_a_link_whole_and_alone():
    dois = ["10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2", "10.2307/1913643", "10.1609/aaai.v37i9.26317"]
    for doi in dois:
        for text in (
            f"Source: doi:{doi}.",
            f"doi:{doi}; more",
            f"(doi:{doi}).",
            f"[doi:{doi}]: more",
            f"``doi:{doi}``",
        ):
            lines = [text]
            docstrings.lay_out(None, "function", "name", None, {}, lines)
            (line,) = [line for line in lines if line]
            found = re.search(r"`doi:(\S+) <https://doi\.org/(\S+)>`__", line)
            assert found[1] == unquote(found[2]) == doi
