"""The page of data sets says what the cards and the files say, and shows every shipped set."""

import re
import subprocess
import sys
from pathlib import Path

import data_page
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from stlib.data import datasets

ROOT = Path(__file__).parents[1]
TEXT = data_page.PAGE.read_text(encoding="utf-8")
SETS = datasets.available()
SHIPPED = list(SETS.index[SETS["where"] == "shipped"])
DOWNLOADS = [name for name in SETS.index if name not in SHIPPED]
SECTIONS = {
    part.split("\n", 1)[0]: re.split(r"^## ", part, flags=re.MULTILINE)[0]
    for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
}


def said(name, label):
    """What the list of a set's section says under a label."""
    (line,) = re.findall(rf"^- {label}: (.*)$", SECTIONS[name], re.MULTILINE)
    return line


def test_page_is_what_the_tool_writes():
    assert data_page.page() == TEXT, "make data-page"


def test_check_fails_on_a_page_that_is_out_of_date(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["data_page.py", "--check"])
    data_page.main()
    old = tmp_path / "data.md"
    monkeypatch.setattr(data_page, "PAGE", old)
    for text in (None, TEXT.replace("hPa", "Pa", 1)):
        if text:
            old.write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit, match="out of date"):
            data_page.main()
        assert old.exists() == bool(text) and (not text or old.read_text(encoding="utf-8") == text)  # nothing written


def test_check_runs_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "data_page.py"), "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_set_has_a_section_and_a_row():
    assert sorted(SECTIONS) == sorted(SETS.index)
    rows = re.findall(r"^\| \[(.+?)\]\(#(.+?)\) \| .+ \| .+ \|$", TEXT, re.MULTILINE)
    assert [name for name, _ in rows] == [anchor for _, anchor in rows] == list(SECTIONS)


def test_order_is_by_kind_then_name():
    kinds = re.findall(r"^\| \[(.+?)\]\(.+?\) \| .+? \| (\w+): ", TEXT, re.MULTILINE)
    order = ["grid", "panel", "graph", "series", "events", "tracks"]
    assert kinds == sorted(kinds, key=lambda row: (order.index(row[1]), row[0]))
    some = {"storm": "grid", "stage4": "grid", "chicago": "panel", "m4-weekly": "panel", "metr-la": "graph"}
    some |= {"us-income": "graph", "co2": "series", "etth1": "series", "ridgecrest": "events"}
    assert (some | {"atlantic-storms": "tracks"}).items() <= dict(kinds).items()
    parts = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    assert parts == ["All sets", "Grids", "Panels", "Graphs", "Series", "Events", "Tracks"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_set_has_its_picture_with_alt_text(name):
    (alt, path), *more = re.findall(r"^!\[(.+)\]\((\S+)\)$", SECTIONS[name], re.MULTILINE)
    assert not more and path == f"data_pictures/{name}.png"
    assert len(alt) >= 30 and alt.endswith(".")
    assert (ROOT / "book" / path).stat().st_size < 60_000
    with Image.open(ROOT / "book" / path) as picture:
        assert 550 < picture.width < 750 and 250 < picture.height < 750
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 20  # not an empty sheet


def test_no_picture_is_left_over_and_no_alt_text_is_used_twice():
    assert sorted(path.stem for path in (ROOT / "book" / "data_pictures").iterdir()) == SHIPPED
    alts = re.findall(r"^!\[(.+)\]\(", TEXT, re.MULTILINE)
    assert len(set(alts)) == len(alts) == len(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_facts_agree_with_the_file(name):
    data = datasets.load(name)
    main = {"chicago": "riders", "us-income": "income"}.get(name)
    arrays = [data[main]] if main else list(data.values()) if isinstance(data, xr.Dataset) else [data]
    wanted = " × ".join(f"{dim} {length}" for dim, length in zip(arrays[0].dims, arrays[0].shape, strict=True))
    assert said(name, "Shape") == wanted and f": {wanted} |" in TEXT
    check_missing(said(name, "Missing"), arrays)

    facts = datasets.describe(name)
    assert said(name, "Period") == SETS.loc[name, "period"] == f"{facts['start'][:10]} to {facts['end'][:10]}"
    time = data["date"] if "date" in data.coords else data["time"]
    if time.dtype.kind == "M":
        days = time.values.astype("datetime64[D]")
        assert said(name, "Period") == f"{days.min()} to {days.max()}"
    else:  # weeks of a year
        assert said(name, "Period")[:4] == str(int(data["year"].min()))
        assert said(name, "Period")[14:18] == str(int(data["year"].max()))

    names = [array.name for array in arrays] if len(arrays) > 1 else arrays[0]["channel"].values.tolist()
    assert re.findall(r"`(\w+)` \(", said(name, "Channels")) == names
    assert said(name, "Size") in (f"{facts['bytes'] / 1e3:.0f} kB", f"{facts['bytes'] / 1e6:.1f} MB")


def check_missing(printed, arrays):
    """The share printed with three digits is the share of NaN in the arrays."""
    share = 100 * np.concatenate([np.isnan(array.values).ravel() for array in arrays]).mean()
    if share == 0:
        assert printed == "none"
    else:
        assert float(printed.removesuffix(" %")) == pytest.approx(share, rel=0.006)  # half a unit of the third digit


@pytest.mark.parametrize(("name", "array"), [("chicago", "weather"), ("chicago", "games"), ("us-income", "adjacency")])
def test_further_arrays_are_listed(name, array):
    data = datasets.load(name)[array]
    (shape, missing) = re.search(rf"`{array}`, (.+?), missing ([^;]+)", said(name, "With it")).groups()
    assert shape == " × ".join(f"{dim} {length}" for dim, length in data.sizes.items())
    check_missing(missing, [data])


@pytest.mark.parametrize("name", DOWNLOADS)
def test_download_has_its_address_and_size_and_no_picture(name):
    facts = datasets.describe(name)
    assert "![" not in SECTIONS[name] and f"]({facts['address']})" in said(name, "Download")
    megabytes = [float(number) for number in re.findall(r"([\d.]+) MB", said(name, "Size"))]
    assert megabytes[0] == pytest.approx(facts["bytes"] / 1e6, abs=0.05)
    dated = "" if "T" in facts["start"] else "steps "
    assert said(name, "Period") == f"{dated}{facts['start'][:10]} to {facts['end'][:10]}"
    if "companion" in facts:
        assert f"]({facts['companion']['address']})" in said(name, "Download")
        assert said(name, "Size").endswith(f" and {facts['companion']['bytes'] / 1e3:.0f} kB")


@pytest.mark.parametrize("name", list(SETS.index))
def test_section_repeats_its_card(name):
    card, facts = datasets.card(name), datasets.describe(name)
    section = " ".join(SECTIONS[name].split())
    assert f"**{facts['title']}**" in section
    assert " ".join(card.split("## What it is\n\n")[1].split("\n\n")[0].split()) in section
    assert said(name, "Load") == f'`datasets.load("{name}")`'
    assert said(name, "Licence") == facts["licence"] and said(name, "Source") == facts["source"]
    citation = said(name, "Citation")
    assert re.sub(r"[<>]", "", citation) == facts["citation"]
    assert all(f"<{link}>" in citation for link in re.findall(r"https?://\S+", facts["citation"]))
    assert "  " not in said(name, "Flaws") and said(name, "Flaws").endswith(".")


def test_headlines_are_the_bold_words_of_the_flaws():
    assert said("storm", "Flaws") == "A fan, not a rectangle. Missing frames. Defective frames. Jumps. One event."
    assert said("co2", "Flaws") == "59 missing weeks. Steps of 0.1 ppm. A year is 52.18 weeks."
    points = "- **One\n  two.** Three **four**.\n- **No gap.** A\n- **Six?** B\n- Five."
    text = f"- **No.**\n\n## Known flaws\n\n{points}\n\n## B\n- **C**"
    assert data_page.headlines(text) == "One two. Six?"


def test_a_shipped_set_without_a_picture_is_an_error(monkeypatch):
    monkeypatch.delitem(data_page.PICTURES, "storm")
    with pytest.raises(ValueError, match="no picture of 'storm': add a function"):
        data_page.page()


def test_units_and_shares_are_written_for_people():
    assert "`temperature` (K), `pressure` (hPa), `u` (m s⁻¹)" in said("storm", "Channels")
    assert [data_page.per_cent(share) for share in (0.0, 0.197005, 0.000379)] == ["none", "19.7 %", "0.0379 %"]
    assert [data_page.size(number) for number in (4791, 741_389, 57_038_056)] == ["5 kB", "741 kB", "57.0 MB"]
