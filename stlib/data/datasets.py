"""The book's data sets: what there is, where it comes from, and how to load it.

Every data set has a folder with a card (`card.md`) and, where its licence allows, the file itself. A file is looked
for in

1. the folder named by the environment variable `STLIB_DATA` (as `<name>/<file>` or `<file>`),
2. the folders that come with the package,
3. the user's cache,

and is downloaded into the cache when it is in none of them. `STLIB_OFFLINE=1` forbids downloads. Wherever a file was
found, its sha256 is compared with the card's.
"""

import difflib
import hashlib
import io
import os
import tomllib
from pathlib import Path

import h5py
import pandas as pd
import pooch
import xarray as xr

_PACKAGE = Path(__file__).parents[1]
# A wheel carries the folders inside the package, a checkout beside it.
SHIPPED = _PACKAGE / "_data" if (_PACKAGE / "_data").is_dir() else _PACKAGE.parent / "data"


def available() -> pd.DataFrame:
    """List the data sets.

    Returns a table indexed by name with the columns `title`, `shape`, `period`, `licence` and `where`: "shipped",
    "cached" (in the user's cache or in `$STLIB_DATA`), "to download", or "missing" (a shipped file that was removed).

    >>> available().loc["storm", "shape"]
    '64 x 6 x 33 x 36'
    """
    rows = {}
    for name in _names():
        facts = _facts(name)
        rows[name] = {
            "title": facts["title"],
            "shape": " x ".join(map(str, facts["shape"])),
            "period": f"{facts['start'][:10]} to {facts['end'][:10]}",
            "licence": facts["licence"],
            "where": _where(facts),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def describe(name: str) -> pd.Series:
    """Return the facts of a data set, as its card states them.

    Raises ValueError for an unknown name.

    >>> describe("co2")["units"]
    ['ppm']
    """
    return pd.Series(_facts(name), name=name)


def card(name: str) -> str:
    """Return the text of a data set's card: licence, preparation, known flaws, citation.

    Raises ValueError for an unknown name.

    >>> card("co2").splitlines()[0]
    '# Weekly CO2 at Mauna Loa'
    """
    if name not in _names():
        closest = difflib.get_close_matches(str(name), _names(), n=1, cutoff=0)[0]
        raise ValueError(f"name: unknown data set {name!r}; did you mean {closest!r}? Known are: {', '.join(_names())}")
    return (SHIPPED / name / "card.md").read_text(encoding="utf-8")


def load(name: str) -> xr.DataArray | xr.Dataset:
    """Load a data set into memory.

    Returns float32 values with dims ``("time", "channel", *space)``, missing values as NaN. `time` is regular and
    strictly increasing: datetime64[ns], where a month or a year is labelled by its first day, or whole numbers where
    the calendar has no equal steps (the card says why, and other coordinates give the date). On a grid `lat` and `lon`
    grow with the row and column index. The attrs are `units`, `long_name`, `licence`, `source` and `citation`; where
    units differ along a dimension they are the coordinate `units`, and the attribute says "per channel" (or what that
    dimension is called).

    Some are a Dataset: "chicago" of `riders` (time, channel, station), `weather` (time, weather_variable) and `games`
    (time, team_venue); "us-income" of `income` (time, channel, state) and `adjacency` (state, neighbour). Events and
    tracks have no grid: "ridgecrest" is a Dataset along `event`, "atlantic-storms" one along `observation`, both with
    the coordinates `time`, `lat` and `lon`.

    Raises ValueError for an unknown name, OSError when the file is corrupt or cannot be had.

    >>> load("co2").sizes
    Frozen({'time': 2284, 'channel': 1})
    """
    facts = _facts(name)
    return _label(_read([_verified(_fetch(file), file) for file in _files(facts)], facts), facts)


def fetch(name: str) -> Path:
    """Return the path of a data set's file, downloading it into the user's cache when it is not on this machine.

    Where the card names a second file, a companion, it is fetched too. A download is checked before it is written, and
    is written atomically: a failed one leaves nothing behind.

    Raises ValueError for an unknown name, OSError when the file is corrupt or cannot be had.

    >>> fetch("storm").name
    'storm.nc'
    """
    path, *_ = (_fetch(file) for file in _files(_facts(name)))
    return path


def _names() -> list[str]:
    return sorted(path.parent.name for path in SHIPPED.glob("*/card.md"))


def _facts(name: str) -> dict:
    block = card(name).split("```toml\n", 1)[1].split("\n```", 1)[0]
    return tomllib.loads(block)


def _files(facts: dict) -> list[dict]:
    """The facts once for each file: its name, size, sha256 and address."""
    return [facts, facts | facts["companion"]] if "companion" in facts else [facts]


def _fetch(facts: dict) -> Path:
    for path in _places(facts):
        if path.is_file():
            _verified(path, facts)
            return path
    return _download(facts)


def _cached(facts: dict) -> Path:
    return Path(pooch.os_cache("stlib")) / facts["name"] / facts["file"]


def _places(facts: dict) -> list[Path]:
    name, file = facts["name"], facts["file"]
    own = os.environ.get("STLIB_DATA")
    chosen = [Path(own) / name / file, Path(own) / file] if own else []
    return [*chosen, SHIPPED / name / file, _cached(facts)]


def _where(facts: dict) -> str:
    if (SHIPPED / facts["name"] / facts["file"]).is_file():
        return "shipped"
    if all(any(path.is_file() for path in _places(file)) for file in _files(facts)):
        return "cached"
    return "to download" if "address" in facts else "missing"


def _wanted(facts: dict) -> str:
    """Say what to get and where to put it, for the end of an error line."""
    origin = f" from {facts['address']}" if "address" in facts else ""
    return f"get {facts['file']} (sha256 {facts['sha256']}){origin} and put it at {_cached(facts)} or in $STLIB_DATA"


def _fault(body: bytes, facts: dict) -> str | None:
    """Say what is wrong with the bytes of a file, or None when they are the expected ones."""
    found = hashlib.sha256(body).hexdigest()
    if found == facts["sha256"]:
        return None
    page = body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))
    kind = "an HTML page, not data" if page else "corrupt, cut short or another version"
    return f"is {kind}: {len(body)} bytes with sha256 {found}, expected {facts['bytes']} bytes with {facts['sha256']}"


def _verified(path: Path, facts: dict) -> bytes:
    body = path.read_bytes()
    if fault := _fault(body, facts):
        raise OSError(f"{path} {fault}; delete it, then {_wanted(facts)}")
    return body


def _download(facts: dict) -> Path:
    name, file, target = facts["name"], facts["file"], _cached(facts)
    if "address" not in facts:
        raise OSError(f"the file {file} of data set {name!r} is missing; reinstall the package, or {_wanted(facts)}")
    if os.environ.get("STLIB_OFFLINE", "0") not in ("", "0"):
        raise OSError(f"data set {name!r} is not here and STLIB_OFFLINE forbids a download; {_wanted(facts)}")
    # The body stays in memory until it is known to be right, so that a download killed half-way leaves no file.
    received = io.BytesIO()
    try:
        pooch.HTTPDownloader(progressbar=False, timeout=30)(facts["address"], received, None)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise OSError(f"could not download {file} from {facts['address']} ({reason}); {_wanted(facts)}") from error
    if fault := _fault(received.getvalue(), facts):
        raise OSError(f"the download of {file} from {facts['address']} {fault}; {_wanted(facts)}")
    try:
        _write_atomically(target, received.getvalue())
    except OSError as error:
        raise OSError(f"could not write {target} ({error}); {_wanted(facts)}") from error
    return target


def _write_atomically(target: Path, body: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(body)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _read(bodies: list[bytes], facts: dict) -> xr.DataArray | xr.Dataset:
    if facts["file"].endswith(".nc"):
        return _read_netcdf(*bodies)
    if facts["file"].endswith(".h5"):
        return _read_traffic(*bodies, facts)
    if facts["dims"][0] != "time":
        return _read_points(*bodies, facts)
    if "companion" in facts:
        return _read_m4(*bodies, facts)
    table = _read_csv(*bodies, facts["file"])
    if facts["name"] == "chicago":
        return _chicago(table, facts)
    return xr.DataArray(table, dims=facts["dims"], name=facts["name"])


def _read_netcdf(body: bytes) -> xr.DataArray | xr.Dataset:
    data = xr.load_dataset(io.BytesIO(body), engine="h5netcdf").astype("float32")
    return next(iter(data.data_vars.values())) if len(data.data_vars) == 1 else data


def _read_csv(body: bytes, file: str) -> pd.DataFrame:
    compression = "gzip" if file.endswith(".gz") else None
    table = pd.read_csv(io.BytesIO(body), index_col=0, parse_dates=True, compression=compression).astype("float32")
    table.index = table.index.astype("datetime64[ns]").rename("time")
    return table.rename_axis(columns="channel")


def _read_points(body: bytes, facts: dict) -> xr.Dataset:
    """Events and tracks: a row each, no grid. What the card does not call a channel is a coordinate."""
    compression = "gzip" if facts["file"].endswith(".gz") else None
    table = pd.read_csv(io.BytesIO(body), compression=compression)
    table["time"] = table["time"].astype("datetime64[ns]")
    table = table.astype(dict.fromkeys(facts["channels"], "float32"))
    points = xr.Dataset.from_dataframe(table.rename_axis(facts["dims"][0]))
    return points.set_coords([name for name in table if name not in facts["channels"]])


def _read_m4(history: bytes, future: bytes, facts: dict) -> xr.DataArray:
    """Series of unequal length, a row each. They are aligned at their ends: the future starts at time 0."""
    history, future = (pd.read_csv(io.BytesIO(body), index_col=0) for body in (history, future))
    known = {name: row.dropna() for name, row in history.iterrows()}
    past = pd.DataFrame({name: row.set_axis(range(-len(row), 0)) for name, row in known.items()}).sort_index()
    table = pd.concat([past, future.T.set_axis(range(future.shape[1]))[past.columns]])
    array = xr.DataArray(table.astype("float32"), dims=("time", "series"), name=facts["name"])
    return array.expand_dims(channel=facts["channels"], axis=1)


def _read_traffic(body: bytes, locations: bytes, facts: dict) -> xr.DataArray:
    """Speeds as pandas stores them in HDF5, and the sensors' places. A speed of 0 is how these files write missing."""
    with h5py.File(io.BytesIO(body)) as file:
        (frame,) = file.values()
        time = pd.to_datetime(frame["axis1"][:]).astype("datetime64[ns]")
        sensors = frame["block0_items"][:].astype(str)
        table = pd.DataFrame(frame["block0_values"][:].astype("float32"), index=time, columns=sensors)
    columns, header = facts["companion"]["columns"], facts["companion"]["header_rows"]
    places = pd.read_csv(io.BytesIO(locations), names=columns, skiprows=header, dtype={"sensor": str})
    places = places.set_index("sensor").loc[sensors]
    array = xr.DataArray(table.where(table != 0).asfreq("5min"), dims=("time", "sensor"), name=facts["name"])
    array = array.assign_coords(lat=("sensor", places["lat"]), lon=("sensor", places["lon"]))
    return array.expand_dims(channel=facts["channels"], axis=1)


def _chicago(table: pd.DataFrame, facts: dict) -> xr.Dataset:
    parts = {part: table[facts[part]["names"]] for part in ("weather", "games")}
    arrays = {part: xr.DataArray(values, dims=facts[part]["dims"]) for part, values in parts.items()}
    stations = table.drop(columns=[*parts["weather"], *parts["games"]])
    riders = xr.DataArray(stations, dims=("time", "station")).expand_dims(channel=facts["channels"], axis=1)
    return xr.Dataset({"riders": riders} | arrays)


def _label(data: xr.DataArray | xr.Dataset, facts: dict) -> xr.DataArray | xr.Dataset:
    """Attach the card's facts. An array has its own where the card has a table of its name."""
    if isinstance(data, xr.Dataset):
        return xr.Dataset({name: _label(array, facts | facts.get(name, {})) for name, array in data.items()})
    units = facts["units"]
    if len(set(units)) > 1:
        data = data.assign_coords(units=(data.dims[1], units))
    shared = {key: facts[key] for key in ("long_name", "licence", "source", "citation")}
    return data.assign_attrs(units=units[0] if len(set(units)) == 1 else f"per {data.dims[1]}", **shared)
