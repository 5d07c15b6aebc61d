"""Sphinx extension: the pages of the package, and the links of the chapters' text to them.

In docstrings, each of the lines that say shapes, units, errors and sources becomes a paragraph, and a DOI a link. The
folded list of the places in the book that use a name gets a title without a link in it, which keyboards can reach. A
name of the package in the text of a chapter becomes a link, as names in its code do.
"""

import re
from urllib.parse import quote

from docutils import nodes
from sphinx_codeautolink.extension.backref import SummaryNode

MARKS = r"(?:Shapes:|Units:|Raises |Sources?:|Deviations?:)"
DOI = re.compile(r"doi:(10\.\d{4,9}/\S*[^\s;,.:)\]`])")


def lay_out(app, what, name, obj, options, lines):
    """Changes the lines of one docstring, as Sphinx wants it: in place."""
    new = []
    for line in lines:
        parts = re.split(rf"(?:^|(?<=\. ))(?={MARKS})", line) if not line.startswith(" ") else [line]
        for number, part in enumerate(parts):
            if number or re.match(MARKS, part):
                new.append("")
            new.append(DOI.sub(lambda found: f"`doi:{found[1]} <https://doi.org/{quote(found[1], safe='/')}>`__", part))
    lines[:] = new


def leave_out(app, what, name, obj, skip, options):
    """Leaves out the fields of named tuples, of which Python says only their number."""
    return (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") or None


def name_lists(app, doctree, docname):
    for title in doctree.findall(SummaryNode):
        title.children = [nodes.Text("In the chapters")]


def link_names(app, doctree, docname):
    """Links the modules, functions and classes of the package that a chapter's text names in code type."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    for literal in list(doctree.findall(nodes.literal)):
        entry = documented(app.env, literal.astext().removesuffix("()").partition("(")[0])
        if entry and not isinstance(literal.parent, nodes.reference):
            address = f"{app.builder.get_relative_uri(docname, entry.docname)}#{entry.node_id}"
            link = nodes.reference("", "", literal.deepcopy(), internal=True, refuri=address)
            literal.replace_self(link)


def documented(env, name):
    """Where a module, function or class is documented, by the end of its full name; None where that is not clear."""
    objects = env.get_domain("py").objects
    found = {
        entry.node_id: entry
        for full, entry in objects.items()
        if (full == name or full.endswith("." + name)) and entry.objtype in ("module", "function", "class")
    }
    return next(iter(found.values())) if len(found) == 1 else None


def setup(app):
    app.connect("autodoc-process-docstring", lay_out)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("doctree-resolved", name_lists, priority=900)  # after sphinx_codeautolink has made the lists
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True}
