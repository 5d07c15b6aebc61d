"""Write the student version of chapters into `student/`: without the solutions, and not yet run.

    python tools/student.py book/x.ipynb [...]

An exercise stands there with its text, its hint, `... # your answer` and its `check`. Links to pages that are no
chapters lead to the repository. A student version that somebody worked on is left as it is: move it away to get a new
one.
"""

import argparse
import re
import sys
from pathlib import Path

import notebook as tool
import yaml

ROOT = Path(__file__).parents[1]
STUDENT = ROOT / "student"
PAGE = re.compile(r"\]\((?!https?://|#)([^)\s]+)(?<!\.ipynb)\)")
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
ADDRESS = f"{REPOSITORY['url']}/blob/{REPOSITORY['branch']}/{REPOSITORY['path_to_book']}"


def is_solution(cell):
    """Whether a cell has a sign of a solution; one is enough, so that one forgotten sign gives nothing away."""
    return "hide-cell" in cell.metadata.get("tags", []) or cell.source.startswith("# @title Solution")


def without_solutions(chapter):
    """A normalised copy of a notebook without solutions, outputs and execution counts."""
    student = tool.normalise({**chapter, "cells": [cell for cell in chapter.cells if not is_solution(cell)]})
    for cell in student.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = PAGE.sub(rf"]({ADDRESS}/\1)", cell.source)
    return tool.normalise(student)


def is_worked_on(path):
    """Whether a student version was run or changed: as written, it is its own student version, to the byte."""
    student, text = tool.read(path)
    return text != tool.dumps(without_solutions(student))


def write(chapter_path, folder):
    """Write the student version of a chapter and return its path; FileExistsError where somebody worked on it."""
    chapter, _ = tool.read(chapter_path)
    path = folder / chapter_path.name
    if path.exists() and is_worked_on(path):
        raise FileExistsError(f"left as it is, because somebody worked on {path}")
    folder.mkdir(exist_ok=True)
    path.write_text(tool.dumps(without_solutions(chapter)), encoding="utf-8", newline="\n")
    return path


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Write the student version of chapters into student/.")
    parser.add_argument("paths", nargs="+", type=Path)
    failed = False
    for path in parser.parse_args(arguments).paths:
        try:
            print(write(path, STUDENT))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
