"""Source beside use: each name of the package in a chapter leads to its page and its source, and from there back."""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

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


def imported(chapter: str) -> set[str]:
    """The modules, functions and classes of the package that a chapter's code imports, named where they are defined."""
    cells = nbformat.read(BOOK / f"{chapter}.ipynb", 4).cells
    code = "\n".join(re.sub(r"^\s*[%!].*", "", cell.source) for cell in cells if cell.cell_type == "code")
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    pairs = [(node.module, alias.name) for node in imports if node.module.startswith("stlib") for alias in node.names]
    found = [(name, getattr(importlib.import_module(module), name)) for module, name in pairs]
    return {value.__name__ if inspect.ismodule(value) else f"{value.__module__}.{name}" for name, value in found}


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
    names = {entry["id"].rpartition(".")[2]: entry for entry in parse(f"api/{page}.html").select("dl.py > dt[id]")}
    assert public(module) - set(names) == set()
    for name in public(module):
        (source,) = names[name].select("a.reference[href*='_modules/']")
        address = urlsplit(source["href"])
        assert parse(f"api/{address.path}").find(id=address.fragment)["id"].endswith(name)


def test_the_list_of_the_package_names_every_page():
    links = parse("api.html").select("table.autosummary a.reference")
    assert {urlsplit(link["href"]).path.removeprefix("api/") for link in links} == {f"{page}.html" for page in PAGES}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_imported_name_in_a_chapter_leads_to_its_page_and_back(chapter):
    names = imported(chapter)
    assert len(names) >= 5
    assert names - linked(chapter) == set()
    for name in names:
        page = next(page for page in (name, page_of(name), page_of(page_of(name))) if page in PAGES)
        assert chapter in chapters_of(page), f"the page of {page} does not lead back to {chapter}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_names_the_chapter_that_explains_it_and_that_chapter_uses_it(page):
    explained = re.search(r"^Explained in .*", (BOOK / "api" / f"{page}.md").read_text(), re.MULTILINE)
    users = {chapter for chapter in CHAPTERS if any(name == page or page_of(name) == page for name in linked(chapter))}
    named = set(re.findall(r"\.\./([\w-]+)\.ipynb", explained[0])) if explained else set()
    assert named <= users
    assert named or not users
