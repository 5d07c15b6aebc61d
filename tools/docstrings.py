"""Sphinx extension: lays out the package's docstrings for the book.

Each of the lines that say shapes, units, errors and sources becomes a paragraph, a DOI becomes a link, and the folded
list of the places in the book that use a name gets a title without a link in it, which keyboards can reach.
"""

import re
from urllib.parse import quote

from docutils import nodes
from sphinx_codeautolink.extension.backref import SummaryNode

PARAGRAPH = re.compile(r"(Shapes:|Units:|Raises |Sources?:|Deviations?:)")
DOI = re.compile(r"doi:(10\.\d{4,9}/[^\s;,]*[^\s;,.])")


def lay_out(app, what, name, obj, options, lines):
    """Changes the lines of one docstring, as Sphinx wants it: in place."""
    new = []
    for line in lines:
        if PARAGRAPH.match(line):
            new.append("")
        new.append(DOI.sub(lambda found: f"`doi:{found[1]} <https://doi.org/{quote(found[1], safe='/')}>`__", line))
    lines[:] = new


def name_lists(app, doctree, docname):
    for title in doctree.findall(SummaryNode):
        title.children = [nodes.Text("In the chapters")]


def setup(app):
    app.connect("autodoc-process-docstring", lay_out)
    app.connect("doctree-resolved", name_lists, priority=900)  # after sphinx_codeautolink has made the lists
    return {"parallel_read_safe": True}
