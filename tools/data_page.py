"""Writes the book's page of data sets, `book/data.md`, and draws a picture of each shipped one.

    python tools/data_page.py           the page and the pictures
    python tools/data_page.py --check   only says whether the page is out of date

Everything on the page but the introduction comes from the cards. The pictures and their alt texts are in
`data_pictures.py`.
"""

import re
import sys
from pathlib import Path

from data_pictures import PICTURES, draw_all

from stlib.data import datasets

BOOK = Path(__file__).parents[1] / "book"
PAGE = BOOK / "data.md"
PICTURE_FOLDER = BOOK / "data_pictures"

KINDS = {
    "grid": "Values on the cells of a map.",
    "panel": "The same quantity at several places or for several things, without a map of neighbours.",
    "graph": "Places and what joins them: borders, or the distances between them.",
    "series": "One or a few quantities in time, at one place.",
    "events": "Points in space and time, without a grid.",
    "tracks": "Things that move, and their positions on the way.",
}
STEPS = {
    "5min": "5 minutes",
    "h": "an hour",
    "6h": "6 hours",
    "D": "a day",
    "W-SAT": "a week, labelled by its Saturday",
    "W-THU": "a week, labelled by its Thursday",
    "MS": "a month",
    "YS": "a year",
    "1": "counted in whole numbers: the calendar has no equal steps, or there are no dates",
    "none": "none, each row has its own time",
}
UNITS = {"1": "no unit", "not stated": "unit not stated", "degC": "°C", "degF": "°F", "degree": "°"}

INTRODUCTION = """# The data

The sets below are what the book forecasts, and what you try your own model on: maps, stations, borders, single series,
events and tracks. Of these, {shipped} come with the package and need no network. The other {downloads} are downloaded
once, from the address given here, and kept. One line loads any of them:

```python
from stlib.data import datasets

storm = datasets.load("storm")
```

What you get is an array of xarray with named dims, here time, channel, lat and lon. A few sets hold several arrays.

From a terminal, `python -m stlib.data` lists the sets, `python -m stlib.data describe storm` prints a card, and
`python -m stlib.data fetch metr-la` downloads a file.

A missing value is NaN and is never filled. Every file is compared with its sha256 sum before it is read, so that all
readers have the same numbers.

**How a card is made.** Each set has a card, and this page is made from the cards. Whoever adds a set writes down what
it is, the evidence that its licence allows sharing, and every step from the source to the file. Then the flaws are
looked for in the file itself: gaps, stuck and repeated values, jumps, odd units, changes of method. The card lists
what was found, and the errors of simple forecasts to beat. Below are the headlines, and the whole card, folded; read
it before you draw conclusions.

## All sets
"""


def page() -> str:
    """The text of the page."""
    cards = {name: datasets.describe(name) for name in datasets.available().index}
    cards = dict(sorted(cards.items(), key=lambda card: (list(KINDS).index(kind(card[1])), card[0])))
    downloads = sum("address" in facts for facts in cards.values())
    parts = [INTRODUCTION.format(shipped=len(cards) - downloads, downloads=downloads), table(cards)]
    for one, meaning in KINDS.items():
        members = {name: facts for name, facts in cards.items() if kind(facts) == one}
        if members:
            heading = one.capitalize() if one.endswith("s") else one.capitalize() + "s"
            parts.append(f"## {heading}\n\n{meaning}\n")
        parts += [section(name, facts) for name, facts in members.items()]
    return "\n".join(parts)


def kind(facts) -> str:
    """Which of KINDS a data set is, by the dims of its card and by whether it comes with a graph or with places."""
    if facts["dims"][0] != "time":
        return {"event": "events", "observation": "tracks"}[facts["dims"][0]]
    if "adjacency" in facts or "lat" in facts.get("companion", {}).get("columns", []):
        return "graph"
    return {2: "series", 3: "panel", 4: "grid"}[len(facts["dims"])]


def table(cards) -> str:
    """Three columns: more do not fit on a phone."""
    lines = ["| Name | What | Kind and shape |", "|---|---|---|"]
    for name, facts in cards.items():
        lines.append(f"| [{name}](#{name}) | {facts['title']} | {kind(facts)}: {shape(facts)} |")
    return "\n".join(lines) + "\n"


def section(name: str, facts) -> str:
    text = datasets.card(name)
    what = re.search(r"## What it is\n\n(.*?)\n\n", text, re.DOTALL)[1]
    parts = [f"### {name}\n", f"**{facts['title']}**\n"]
    if "address" not in facts:
        if name not in PICTURES:
            raise ValueError(f"no picture of {name!r}: add a function to data_pictures.py, and its name to DRAWN there")
        alt = " ".join(PICTURES[name].__doc__.split())
        parts.append(f"![{alt}]({PICTURE_FOLDER.name}/{name}.png)\n")
    parts += [what + "\n", *(f"- {label}: {value}" for label, value in fact_list(name, facts, text).items()), ""]
    return "\n".join([*parts, folded(text)])


def folded(card: str) -> str:
    """A card without what the section says already, its headings in bold type: they are no headings of the page."""
    rest = "## Licence and its evidence" + card.split("## Licence and its evidence", 1)[1]
    rest = re.sub(r"^#+ (.+)$", r"**\1**", re.sub(r"^<!--.*-->\n+", "", rest, flags=re.MULTILINE), flags=re.MULTILINE)
    return f"<details>\n<summary>The whole card of {title_of(card)}</summary>\n\n{rest.strip()}\n\n</details>\n"


def title_of(card: str) -> str:
    return card.splitlines()[0].removeprefix("# ")


def fact_list(name: str, facts, text: str) -> dict[str, str]:
    files = [facts, facts["companion"]] if "companion" in facts else [facts]
    start, end = facts["start"], facts["end"]
    rows = {
        "Load": f'`datasets.load("{name}")`',
        "Period": ("" if "T" in start else "steps ") + f"{start[:10]} to {end[:10]}",
        "Step": STEPS[str(facts["step"])],
        "Shape": shape(facts),
        "Channels": ", ".join(
            f"`{channel}` ({unit(own)})" for channel, own in zip(facts["channels"], facts["units"], strict=True)
        ),
        "Missing": per_cent(facts["missing"]),
    }
    if extra := [key for key, own in facts.items() if isinstance(own, dict) and "dims" in own]:
        rows["With it"] = "; ".join(
            f"`{key}`, {shape(facts[key])}, missing {per_cent(facts[key]['missing'])}" for key in extra
        )
    rows["Size"] = " and ".join(size(file["bytes"]) for file in files)
    if "address" in facts:
        rows["Download"] = " and ".join(f"[{file['file']}]({file['address']})" for file in files)
    rows |= {"Licence": facts["licence"], "Source": facts["source"]}
    rows["Citation"] = re.sub(r"(https://\S+)", r"<\1>", facts["citation"])
    rows["Flaws"] = headlines(text)
    return rows


def headlines(text: str) -> str:
    """The bold words that open the points of the card's list of flaws, less those that say that nothing was found."""
    flaws = text.split("## Known flaws", 1)[1].split("\n## ", 1)[0]
    leads = re.findall(r"^- \*\*(.+?)\*\*", flaws, re.DOTALL | re.MULTILINE)
    leads = [" ".join(lead.split()).rstrip(".") for lead in leads]
    wanted = [lead for lead in leads if lead not in ("No gap", "No duplicates")]
    return " ".join(lead if lead.endswith("?") else f"{lead}." for lead in wanted)


def shape(facts) -> str:
    return " × ".join(f"{dim} {length}" for dim, length in zip(facts["dims"], facts["shape"], strict=True))


def per_cent(share: float) -> str:
    return f"{100 * share:.3g} %" if share else "none"


def size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def unit(own: str) -> str:
    return UNITS.get(own, own.replace("-1", "⁻¹"))


def main() -> None:
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit("book/data.md is out of date; run tools/data_page.py")
        return
    PAGE.write_text(page(), encoding="utf-8")
    draw_all(PICTURE_FOLDER)


if __name__ == "__main__":
    main()
