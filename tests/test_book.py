"""The built book: what a reader clicks, sees and downloads is there, and nothing is fetched from elsewhere."""

import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import chapter_map
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
HTML = BOOK / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
DOCUMENTS = re.findall(r"(?:root|file): (\S+)", (BOOK / "_toc.yml").read_text())
CHAPTERS = [name for name in DOCUMENTS if (BOOK / f"{name}.ipynb").exists()]
OUTSIDE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
SOURCES = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src", "video": "src",
           "audio": "src", "embed": "src", "object": "data"}  # fmt: skip

pytestmark = pytest.mark.usefixtures("built")


@cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


def references(page: str) -> list[str]:
    """Every address that the page fetches when it opens."""
    return [tag[key] for name, key in SOURCES.items() for tag in parse(HTML / page).find_all(name) if tag.get(key)]


def local_files(page: str) -> set[Path]:
    paths = {urlsplit(address).path for address in references(page) if not address.startswith("data:")}
    return {((HTML / page).parent / unquote(path)).resolve() for path in paths if path}


def test_page_has_a_title_and_a_language(page):
    soup = parse(HTML / page)
    assert CONFIG["title"] in soup.title.text
    assert soup.html["lang"] == "en"


def test_page_fetches_nothing_from_elsewhere(page):
    assert [address for address in references(page) if OUTSIDE.match(address)] == []
    soup = parse(HTML / page)
    assert [tag["srcset"] for tag in soup.select("[srcset]")] == []
    sheets = [path.read_text() for path in local_files(page) if path.suffix == ".css"]
    styles = [tag.text for tag in soup.find_all("style")] + [tag["style"] for tag in soup.select("[style]")]
    assert re.findall(r"(?:url\(|@import)\s*['\"]?\s*(?:https?:)?//[^)'\"]*", "\n".join(sheets + styles)) == []
    scripts = "\n".join(tag.text for tag in soup.find_all("script"))
    assert re.findall(r"https?://(?!www\.w3\.org/)[^\s'\"]+", scripts) == []


def test_links_and_anchors_inside_the_book_resolve(page):
    broken = [str(path) for path in local_files(page) if not path.exists()]
    for link in parse(HTML / page).select("a[href]"):
        address = urlsplit(link["href"])
        if address.scheme or address.netloc or link["href"] == "#":
            continue
        target = (HTML / page).parent / unquote(address.path) if address.path else HTML / page
        if not target.is_file():
            broken.append(link["href"])
        elif address.fragment and target.suffix == ".html":
            soup, name = parse(target.resolve()), unquote(address.fragment)
            if not (soup.find(id=name) or soup.find("a", attrs={"name": name})):
                broken.append(link["href"])
    assert broken == []


def test_every_image_has_alternative_text(page):
    # Without a text from the author, Sphinx puts the file's name there.
    images = parse(HTML / page).find_all("img")
    assert [image["src"][:80] for image in images if not image.get("alt", "").strip()] == []
    assert [image["alt"] for image in images if re.search(r"\.(png|svg|jpe?g|gif)$", image["alt"])] == []


def test_doi_links_are_dois(page):
    for link in parse(HTML / page).select("a[href*='doi.org']"):
        match = re.fullmatch(r"https://doi\.org/(10\.\d{4,9}/[^\s<>\"()]+)", link["href"])
        assert match, f"{link['href']} is not https://doi.org/10.xxxx/..., with brackets percent-encoded"
        if link.text.lower().startswith("doi:"):
            assert link.text[4:] == unquote(match[1])


def test_page_is_light_and_tells_nothing_of_the_machine(page):
    text = (HTML / page).read_text()
    files = [path for path in local_files(page) if "mathjax" not in path.parts and path.is_file()]
    with_files = len(text.encode()) + sum(path.stat().st_size for path in files)
    print(f"{page}: {len(text.encode()) / 1e6:.2f} MB, with its files but MathJax {with_files / 1e6:.2f} MB")
    assert len(text.encode()) < 1_500_000
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


def test_every_notebook_is_in_the_book_and_in_the_readme():
    notebooks = {path.stem for path in BOOK.glob("*.ipynb")}
    assert notebooks == set(CHAPTERS), "book/_toc.yml does not name every notebook"
    finished = set(re.findall(r"^\|.*\| (.+) \| finished \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    titles = {nbformat.read(BOOK / f"{name}.ipynb", 4).cells[0].source.splitlines()[0][2:] for name in notebooks}
    assert finished == titles, "the table of README.md has a row for each chapter, with its title and 'finished'"


def test_the_tables_give_each_chapter_its_minutes():
    teaching = (BOOK / "teaching.md").read_text()
    minutes = dict(re.findall(r"^\| \[.*?\]\(([\w-]+)\.ipynb\) \|.*\| (\d+) \|.*\|$", teaching, re.MULTILINE))
    heads = {name: nbformat.read(BOOK / f"{name}.ipynb", 4).cells[0].source for name in CHAPTERS}
    said = {name: re.search(r"\*\*Time:\*\* (\d+) minutes", head)[1] for name, head in heads.items()}
    assert minutes == said, "the minutes in book/teaching.md are not those in the heads of the chapters"


def test_the_map_and_the_tables_name_every_chapter_and_what_it_needs():
    titles, graph = chapter_map.chapters()
    assert list(titles) == CHAPTERS
    svg = (BOOK / "_static" / "chapters.svg").read_text()
    assert svg == chapter_map.draw(titles, graph), "run tools/chapter_map.py"
    assert set(re.findall(r'id="([\w-]+) to ([\w-]+)"', svg)) == set(graph.edges)
    for page in ("index.md", "teaching.md"):
        text = (BOOK / page).read_text()
        assert "_static/chapters.svg" in text
        rows = dict(re.findall(r"^\| \[.*?\]\(([\w-]+)\.ipynb\) \|.*\| ([^|]+) \|$", text, re.MULTILINE))
        assert list(rows) == CHAPTERS, f"book/{page} needs a row for each chapter, in the order of the book"
        unsaid = [(name, need) for need, name in graph.edges if titles[need] not in rows[name]]
        assert unsaid == [], f"book/{page} leaves out what a chapter needs"


def test_equations_are_set_by_the_copy_of_mathjax_in_the_book():
    assert parse(HTML / "notation.html").select(".math")
    scripts = [path for path in local_files("notation.html") if path.parent == HTML / "_static" / "mathjax"]
    assert [path.is_file() for path in scripts] == [True]


def test_the_book_has_chapters():
    assert "honest-forecasts" in CHAPTERS
    assert [name for name in DOCUMENTS if name not in CHAPTERS and not (BOOK / f"{name}.md").exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_colab_button_opens_the_chapter_of_this_repository(name):
    repository = CONFIG["repository"]
    path = f"{repository['path_to_book']}/{name}.ipynb"
    colab = CONFIG["launch_buttons"]["colab_url"]
    wanted = f"{colab}/github{urlsplit(repository['url']).path}/blob/{repository['branch']}/{path}"
    buttons = [link["href"] for link in parse(HTML / f"{name}.html").select(".bd-header-article a[href*=colab]")]
    assert buttons == ([wanted] if name in CHAPTERS else [])
    assert name not in CHAPTERS or (ROOT / path).is_file()


def test_the_repository_has_one_address():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == CONFIG["repository"]["url"]


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_shows_its_solutions_folded_and_its_figures_described(name):
    cells = [cell for cell in nbformat.read(BOOK / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]
    soup = parse(HTML / f"{name}.html")
    hidden = [cell for cell in cells if "hide-cell" in cell.metadata.get("tags", [])]
    folded = soup.select("div.tag_hide-cell > details")
    assert len(folded) == len(hidden)
    assert [fold for fold in folded if fold.has_attr("open")] == []
    described = [cell.metadata.mystnb.image.alt for cell in cells if "mystnb" in cell.metadata]
    assert set(described) <= {image["alt"] for image in soup.find_all("img")}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_search_finds_the_page_by_a_word_of_its_title(name):
    text = (HTML / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    number = index["docnames"].index(name)
    words = re.findall(r"\w+", parse(HTML / f"{name}.html").h1.text.lower())
    found = [
        term
        for term, pages in index["titleterms"].items()
        if number in (pages if isinstance(pages, list) else [pages]) and any(word.startswith(term) for word in words)
    ]
    assert found


def test_references_are_in_order_and_each_has_a_doi():
    entries = parse(HTML / "references.html").select("article li")
    assert len(entries) >= 15
    assert [entry.text[:60] for entry in entries if not entry.select("a[href^='https://doi.org/10.']")] == []
    names = [entry.text.split(",")[0].casefold() for entry in entries]
    assert names == sorted(names)
