"""Draws the map of the chapters, `book/_static/chapters.svg`: an arrow leads from each chapter to those that need it.

What a chapter needs are the chapters that the prerequisites in its head link to.
"""

import io
import re
import textwrap
from pathlib import Path

import matplotlib
import networkx as nx
import notebook as tool
import yaml

matplotlib.use("agg")

from matplotlib import pyplot as plt

BOOK = Path(__file__).parents[1] / "book"
PICTURE = BOOK / "_static" / "chapters.svg"
WIDTH, HEIGHT, GAP = 2.0, 0.55, 0.45  # of a box and between two of them, inches
ACROSS = 2  # boxes in a row: more would be too small to read on a phone


def chapters():
    """Titles by name, in the order of the book, and a graph: an edge from each chapter to those that need it."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    names = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    titles, graph = {}, nx.DiGraph()
    for name in (name for name in names if (BOOK / f"{name}.ipynb").exists()):
        head = tool.read(BOOK / f"{name}.ipynb")[0].cells[0].source
        prerequisites = re.search(r"^\*\*Prerequisites:\*\*(.|\n)+?(?=\n\n|\Z)", head, re.MULTILINE)
        if not prerequisites:
            raise ValueError(f"{name} needs a paragraph **Prerequisites:** in its head")
        needs = re.findall(r"\(([\w-]+)\.ipynb", prerequisites[0])
        if late := [other for other in needs if other not in titles]:
            raise ValueError(f"{name} needs {', '.join(late)}, which book/_toc.yml does not name before it")
        titles[name] = head.splitlines()[0].removeprefix("# ")
        graph.add_node(name)
        graph.add_edges_from((other, name) for other in needs)
    return titles, nx.transitive_reduction(graph)


def draw(titles, graph):
    """The map as SVG. Each row of boxes needs only chapters in rows above it."""
    order = list(titles)
    generations = [sorted(row, key=order.index) for row in nx.topological_generations(graph)]
    rows = [row[i : i + ACROSS] for row in generations for i in range(0, len(row), ACROSS)]
    spot = {name: (x - (len(row) - 1) / 2, y) for y, row in enumerate(rows) for x, name in enumerate(row)}
    across, down = WIDTH + GAP, HEIGHT + GAP
    width = across * max(map(len, rows))
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chapters", "font.size": 10}):
        figure = plt.figure(figsize=(width, down * len(rows)))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(-width / 2, width / 2), ylim=(down * (len(rows) - 0.5), -down / 2))
        axes.axis("off")
        for name, (x, y) in spot.items():
            corner = x * across - WIDTH / 2, y * down - HEIGHT / 2
            axes.add_patch(plt.Rectangle(corner, WIDTH, HEIGHT, facecolor="#eef3f8", edgecolor="0.3"))
            axes.text(x * across, y * down, textwrap.fill(titles[name], 24), ha="center", va="center", gid=name)
        for above, below in sorted(graph.edges):
            (x0, y0), (x1, y1) = spot[above], spot[below]
            ends = (x1 * across, y1 * down - HEIGHT / 2), (x0 * across, y0 * down + HEIGHT / 2)
            arrow = axes.annotate(
                "", *ends, arrowprops={"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": 0}
            )
            arrow.arrow_patch.set_gid(f"{above} to {below}")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return buffer.getvalue()


if __name__ == "__main__":
    PICTURE.write_text(draw(*chapters()), encoding="utf-8")
