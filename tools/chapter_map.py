"""Draws the map of the chapters, `book/_static/chapters.svg`: an arrow leads from each chapter to those that need it.

What a chapter needs are the chapters that the prerequisites in its head link to.
"""

import re
from pathlib import Path

import matplotlib
import notebook as tool
import yaml

matplotlib.use("agg")

from matplotlib import pyplot as plt

BOOK = Path(__file__).parents[1] / "book"
PICTURE = BOOK / "_static" / "chapters.svg"
WIDTH, HEIGHT = 2.3, 0.62  # of a box, inches


def chapters():
    """The title and the needs of each chapter, by its name, in the order of the book."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    names = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    heads = {name: tool.read(BOOK / f"{name}.ipynb")[0].cells[0].source for name in names if in_book(name)}
    prerequisites = {
        name: re.search(r"^\*\*Prerequisites:\*\* .*", head, re.MULTILINE)[0] for name, head in heads.items()
    }
    return {
        name: (head.splitlines()[0].removeprefix("# "), re.findall(r"\(([\w-]+)\.ipynb", prerequisites[name]))
        for name, head in heads.items()
    }


def in_book(name):
    return (BOOK / f"{name}.ipynb").exists()


def direct(needs):
    """The needs that are not already needs of another need."""

    def all_of(name):
        return set(needs[name]).union(*(all_of(other) for other in needs[name]))

    return {name: [n for n in own if not any(n in all_of(other) for other in own)] for name, own in needs.items()}


def places(needs):
    """Column and row of each box: one column right of the last chapter needed, rows in the order of the book."""
    column, filled, place = {}, {}, {}
    for name in needs:  # in the order of the book, so what a chapter needs comes before it
        column[name] = 1 + max((column[other] for other in needs[name]), default=-1)
        place[name] = column[name], filled.get(column[name], 0)
        filled[column[name]] = place[name][1] + 1
    return place


def draw():
    titles = {name: title for name, (title, _) in chapters().items()}
    needs = direct({name: own for name, (_, own) in chapters().items()})
    place = places(needs)
    columns, rows = (1 + max(spot[axis] for spot in place.values()) for axis in (0, 1))
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chapters", "font.size": 10}):
        figure = plt.figure(figsize=((WIDTH + 0.5) * columns, (HEIGHT + 0.25) * rows))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, (WIDTH + 0.5) * columns), ylim=((HEIGHT + 0.25) * rows, 0))
        axes.axis("off")
        spots = {n: ((WIDTH + 0.5) * (c + 0.5), (HEIGHT + 0.25) * (r + 0.5)) for n, (c, r) in place.items()}
        for name, (x, y) in spots.items():
            box = plt.Rectangle((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, facecolor="#eef3f8", edgecolor="0.3")
            axes.add_patch(box)
            axes.text(x, y, titles[name].replace(" in space", "\nin space"), ha="center", va="center")
            for other in needs[name]:
                start, end = (spots[other][0] + WIDTH / 2, spots[other][1]), (x - WIDTH / 2, y)
                arrow = axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.3"})
                arrow.arrow_patch.set_gid(f"{other} to {name}")
        figure.savefig(PICTURE, facecolor="white", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw()
