"""The built book, which several test files read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
HTML = BOOK / "_build" / "html"
DOCUMENTS = re.findall(r"(?:root|file): (\S+)", (BOOK / "_toc.yml").read_text())
OTHERS = ["search", "genindex", "py-modindex", "_modules/index", "_modules/stlib/metrics"]
PAGES = [f"{name}.html" for name in [*DOCUMENTS, *OTHERS]]


@pytest.fixture(scope="session")
def built() -> Path:
    """Build as `make book` does, with the Python that runs the tests, unless the pages are newer than their sources."""
    HTML.parent.mkdir(exist_ok=True)
    # Two processes that test at the same time build once: the second waits here and finds the pages.
    with FileLock(HTML.parent / "lock"):
        folders = BOOK / "_static", BOOK / "data_pictures", BOOK / "api", ROOT / "stlib"
        sources = [
            ROOT / "_config.yml",
            ROOT / "tools" / "docstrings.py",
            *BOOK.glob("*.*"),
            *(path for folder in folders for path in folder.rglob("*.*") if path.suffix != ".pyc"),
        ]
        pages = [HTML / page for page in PAGES]
        newest = max(path.stat().st_mtime for path in sources)
        if not all(page.exists() and page.stat().st_mtime > newest for page in pages):
            command = ["make", "--no-print-directory", "book", "--assume-old=.venv/.installed"]
            command += [f"BIN={Path(sys.executable).parent}"]
            # `make test` would hand its own flags down.
            environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
            if build.returncode != 0:
                lines = [line for line in (build.stdout + build.stderr).splitlines() if re.search("WARN|ERROR", line)]
                pytest.exit("the book does not build:\n" + "\n".join(lines or build.stderr.splitlines()[-20:]), 1)
            assert build.stdout.splitlines()[-1] == str(HTML / "index.html")
    return HTML


@pytest.fixture(scope="module", params=PAGES)
def page(request) -> str:
    """The name of each page of the book."""
    return request.param
