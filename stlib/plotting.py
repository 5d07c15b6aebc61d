"""Plotting: every figure of the book, with one look for each forecaster throughout."""

import base64
import hashlib
import html
import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.sparse import coo_array, find, issparse
from torch import Tensor

# One look a forecaster in the whole book. Colours after Okabe & Ito (colour-blind safe); line and marker tell them
# apart without colour.
LOOKS = {
    "truth": ("#000000", "-", None),
    "best possible": ("#000000", ":", None),
    "persistence": ("#8a8a8a", "--", "s"),
    "seasonal persistence": ("#D55E00", "--", "^"),
    "climatology": ("#E69F00", "-.", "D"),
    "damped anomaly": ("#009E73", "-.", "v"),
    "drift": ("#9467bd", ":", "x"),
    "seasonal median": ("#CC79A7", "-.", "<"),
    "5 x 5 neighbours": ("#6b4c1e", "-", "d"),
    "NLinear": ("#0072B2", "-", "o"),
    "DLinear": ("#56B4E9", "-", "P"),
    "own AR": ("#8C6D31", "--", "o"),
    "shared AR": ("#A63603", "-", "^"),
    "VAR": ("#08519C", "--", "D"),
    "STAR": ("#006D2C", "-", "s"),
    "STAR, shuffled": ("#C51B8A", ":", "v"),
    "LIM": ("#54278F", "-.", "P"),
    "constant variance": ("#7f7f00", "--", "P"),
    "rolling variance": ("#a6611a", "-.", "s"),
    "EWMA": ("#882255", "--", "<"),
    "GARCH": ("#332288", "-", "<"),
    "GJR-t": ("#117733", "-", "v"),
    "expanding variance": ("#4D4D4D", ":", "o"),
    "GARCH, day left out": ("#AA4499", ":", "^"),
    "ARIMA": ("#8B1A1A", "-", "*"),
    "ARIMA, dates": ("#E6550D", "--", "p"),
    "Lagrangian persistence": ("#525252", "--", "*"),
    "Lagrangian persistence, one velocity": ("#737373", ":", "s"),
    "CNN": ("#B2182B", "-", "p"),
    "U-Net": ("#762A83", "-.", "^"),
    "3-D CNN": ("#01665E", "--", "v"),
    "steady motion": ("#2E8B57", ":", "P"),
    "5 x 5, two frames": ("#D98880", "-", "4"),
    "moved + CNN": ("#1A237E", "-", "D"),
    "moved + 5 x 5": ("#8a5a00", "--", "X"),
    "CNN, fed back": ("#1F618D", ":", "h"),
    "LSTM": ("#CC3311", "-", "h"),
    "LSTM, attention": ("#009988", "-", "X"),
    "NLinear, 53 weeks": ("#1D91C0", "-", "+"),
    "NLinear, 16 weeks": ("#4477AA", "-.", "o"),
    "TCN": ("#AA3377", "-", ">"),
    "told the truth": ("#777777", ":", "*"),
    "teacher forcing": ("#EE7733", "--", "d"),
    "free-running": ("#6A3D9A", "-", "H"),
    "scheduled sampling": ("#CC6677", "-.", "h"),
    "direct": ("#666633", "--", ">"),
    "ConvLSTM": ("#0B5345", "-", "8"),
    "ConvGRU": ("#7D3C98", "--", "h"),
    "LSTM per place": ("#A04000", "-.", ">"),
    "ST-CNN": ("#C0392B", "-", "1"),
    "EOFs, linear": ("#4A5568", "--", "H"),
}
_AXIS_NAMES = {"lon": "longitude (°E)", "lat": "latitude (°N)"}
SKILL = "BrBG"  # brown is worse than the baseline, white equal, green better


Marks = Mapping[str, tuple[float, float]]  # places to name on a map: latitude, longitude


def set_style() -> None:
    """The book's look for figures; the set-up cell of each chapter calls it."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.2),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "image.cmap": "viridis",
        }
    )


def look(name: str) -> dict:
    """Line arguments for a forecaster, the same in every chapter. Raises ValueError for a name without a look.

    >>> look("persistence")["linestyle"]
    '--'
    """
    if name not in LOOKS:
        raise ValueError(f"no look for {name!r}: add one to stlib.plotting.LOOKS, which has {', '.join(LOOKS)}")
    colour, line, marker = LOOKS[name]
    return {"color": colour, "linestyle": line, "marker": marker, "markersize": 4, "label": name}


def fields(
    maps: Mapping[str, xr.DataArray],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    columns: int = 3,
    marks: Marks | None = None,
) -> Figure:
    """Maps side by side on one colour scale; missing cells are grey. ``marks`` are places (latitude, longitude)."""
    rows = -(-len(maps) // columns)
    columns = min(columns, len(maps))
    aspect = _aspect(next(iter(maps.values())))
    width = 5.6 / (columns if aspect < 0.5 else max(columns, 2))  # one broad map takes the whole width
    height = width * aspect
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns + 1.2, (height + 0.5) * rows + 0.4),
        squeeze=False,
        sharex=True,
        sharey=True,
        subplot_kw={"facecolor": "0.8"},
    )
    stacked = np.stack([values.values for values in maps.values()])
    low, high = limits or (np.nanmin(stacked), np.nanmax(stacked))
    for axis in axes.flat[len(maps) :]:
        axis.set_visible(False)
    for axis, (title, values) in zip(axes.flat, maps.items(), strict=False):
        image = _map(axis, values, low, high, cmap)
        axis.set_title(title)
        for place, (latitude, longitude) in (marks or {}).items():
            axis.plot(longitude, latitude, "o", color="black", markersize=3, markeredgecolor="white")
            axis.annotate(place, (longitude, latitude), xytext=(3, 3), textcoords="offset points", fontsize=7)
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    return figure


def skill_map(skills: Mapping[str, xr.DataArray], *, baseline: str, marks: Marks | None = None) -> Figure:
    """Where forecasters beat the baseline: green better, brown worse, a black line where they are equal."""
    figure = fields(skills, label=f"skill against {baseline}", limits=(-1, 1), cmap=SKILL, marks=marks)
    for axis, values in zip(figure.axes, skills.values(), strict=False):
        if values.min() < 0 < values.max():
            axis.contour(
                values[values.dims[1]], values[values.dims[0]], values, levels=[0], colors="black", linewidths=1
            )
    return figure


def by_lead(
    scores: Mapping[str, xr.DataArray], *, ylabel: str, xlabel: str, step: float = 1, ax: Axes | None = None
) -> Axes:
    """A score against lead time, one line a forecaster; with a dim "seed", the mean with its range shaded.

    ``step`` is the length of one lead in the units of ``xlabel``.
    """
    ax = ax or plt.subplots()[1]
    for name, values in scores.items():
        lead = values["lead"].values * step
        middle = values.mean("seed") if "seed" in values.dims else values
        if "seed" in values.dims:
            ax.fill_between(lead, values.min("seed"), values.max("seed"), color=look(name)["color"], alpha=0.2, lw=0)
        ax.plot(lead, middle, **look(name))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(lead) <= 14:
        ax.set_xticks(lead)
    ax.legend(fontsize=8)
    return ax


def heat_map(
    values: xr.DataArray, *, x: str, label: str, cmap: str = "viridis", height: float = 4.2, invert: bool = False
) -> Figure:
    """A table of two dims as colours, ``x`` to the right: a Hovmöller diagram, or places against time.

    ``invert`` lets the other dim grow downwards, as time does in a Hovmöller diagram. Missing values are grey. Names
    are written out where there are few enough to read.

    Raises ValueError for a field that does not have two dims, or has one place or step only, which a line shows; and
    for an ``x`` that is none of its dims.

    >>> table = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("time", "place"))
    >>> heat_map(table, x="time", label="cases").axes[0].get_xlabel()
    'time'
    """
    if values.ndim != 2 or x not in values.dims:
        raise ValueError(f"values needs two dims, and x must be one of them, got dims {values.dims} and x={x!r}")
    if min(values.shape) < 2:
        raise ValueError(f"values needs two or more places and steps to fill an area, got {dict(values.sizes)}")
    (y,) = (dim for dim in values.dims if dim != x)
    figure, axis = plt.subplots(figsize=(6.4, height), subplot_kw={"facecolor": "0.8"})
    named = values[y].dtype.kind in "OUS"
    rows = np.arange(values.sizes[y]) if named else values[y]
    image = axis.pcolormesh(values[x], rows, values.transpose(y, x), cmap=cmap, shading="nearest")
    if named:
        axis.set_yticks(rows, values[y].values, fontsize=min(9, 60 * height / len(rows)))
    axis.set(xlabel=_AXIS_NAMES.get(x, x), ylabel=_AXIS_NAMES.get(y, y) if y != "time" else "")
    if invert != named:  # names are read from the top down
        axis.invert_yaxis()
    axis.grid(False)
    figure.colorbar(image, ax=axis, label=label)
    return figure


def draw_graph(lat, lon, adjacency, *, ax: Axes | None = None) -> Axes:
    """Places as dots, joined by a line where the adjacency has a weight in at least one of the two directions.

    A missing weight is no edge, and neither is a loop: the diagonal is not looked at.

    Shapes: ``lat`` and ``lon`` (N,), degrees north and east; ``adjacency`` (N, N), array or tensor, dense or sparse.
    Raises ValueError for other shapes, or a coordinate that is not a finite number.

    >>> ax = draw_graph([22.6, 23.0, 22.5], [120.3, 120.2, 120.5], [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    >>> len(ax.collections[0].get_segments())
    1
    """
    lat, lon = _to_numpy(lat), _to_numpy(lon)
    if lat.ndim != 1 or lat.shape != lon.shape or lat.size == 0:
        raise ValueError(f"lat and lon must be (N,), N >= 1, and equally long, got shapes {lat.shape} and {lon.shape}")
    where = np.stack([lon, lat], axis=1)
    if not np.isfinite(where).all():
        raise ValueError(f"lat and lon must be finite, got {(~np.isfinite(where)).any(1).sum()} places that are not")
    edges = _edges(adjacency, len(lat))
    ax = ax or plt.subplots()[1]
    ax.add_collection(LineCollection(where[edges], colors="0.6", linewidths=0.7, zorder=1))
    ax.scatter(lon, lat, s=10, zorder=2)
    ax.set_aspect(1 / np.cos(np.deg2rad(lat.mean())))
    ax.set(xlabel=_AXIS_NAMES["lon"], ylabel=_AXIS_NAMES["lat"])
    return ax


def frame_player(
    field: xr.DataArray, *, title: Sequence[str], label: str, description: str, marks: Marks | None = None
) -> "FramePlayer":
    """A player of the frames of a field ``(time, lat, lon)``: play, stop and a slider, in one self-contained piece."""
    low, high = float(field.min()), float(field.max())
    images = []
    for frame, heading in zip(field, title, strict=True):
        figure = fields({heading: frame}, label=label, limits=(low, high), marks=marks)
        figure.set_size_inches(6, 3.6)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=80)
        plt.close(figure)
        images.append(buffer.getvalue())
    return FramePlayer(images, description)


class FramePlayer:
    """PNG frames with a button and a slider, shown by a notebook as HTML; without scripts, its first frame."""

    def __init__(self, images: Sequence[bytes], description: str):
        self.images, self.description = list(images), description

    def __repr__(self) -> str:
        return f"FramePlayer of {len(self.images)} frames: {self.description}"

    def _repr_html_(self) -> str:
        name = "player-" + hashlib.sha256(self.description.encode()).hexdigest()[:8]
        sources = ",".join(f"'data:image/png;base64,{base64.b64encode(image).decode()}'" for image in self.images)
        return f"""
<div id="{name}" class="frame-player" style="max-width:480px">
  <img src={sources.split(",'")[0].replace("'", '"')} alt="{html.escape(self.description)}" style="width:100%">
  <div style="display:flex;gap:.5em">
    <button type="button" aria-label="Play or stop">Play</button>
    <input type="range" min="0" max="{len(self.images) - 1}" value="0" aria-label="Frame" style="flex:1">
  </div>
</div>
<script>
(() => {{
  const frames = [{sources}], box = document.getElementById("{name}");
  const picture = box.querySelector("img"), button = box.querySelector("button"), slider = box.querySelector("input");
  let timer = null;
  const show = (i) => {{ slider.value = i; picture.src = frames[i]; }};
  const stop = () => {{ clearInterval(timer); timer = null; button.textContent = "Play"; }};
  button.onclick = () => {{
    if (timer) return stop();
    button.textContent = "Stop";
    timer = setInterval(() => show((+slider.value + 1) % frames.length), 350);
  }};
  slider.oninput = () => {{ stop(); show(+slider.value); }};
}})();
</script>"""


def _edges(adjacency, places: int) -> np.ndarray:
    """The numbers of the two places that each edge joins (E, 2), the smaller first, each edge once."""
    if tuple(np.shape(adjacency)) != (places, places):
        raise ValueError(f"adjacency must be (N, N) with N = {places} places, got shape {tuple(np.shape(adjacency))}")
    if isinstance(adjacency, Tensor) and adjacency.layout != torch.strided:
        entries = adjacency.detach().to_sparse_coo().coalesce().cpu()
        adjacency = coo_array((entries.values().numpy(), tuple(entries.indices().numpy())), shape=entries.shape)
    row, column, weight = find(adjacency if issparse(adjacency) else _to_numpy(adjacency))
    joined = ~np.isnan(weight) & (row != column)
    first, second = np.minimum(row, column)[joined], np.maximum(row, column)[joined]
    return np.stack(np.divmod(np.unique(first.astype(np.int64) * places + second), places), axis=1)


def _to_numpy(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _aspect(values: xr.DataArray) -> float:
    """Height over width of a map as it is drawn: a degree of longitude shrinks away from the equator."""
    rows, columns = (float(np.ptp(values[dim].values)) for dim in values.dims)
    return rows / columns / (np.cos(np.deg2rad(float(values["lat"].mean()))) if "lat" in values.dims else 1)


def _map(ax: Axes, values: xr.DataArray, low: float, high: float, cmap: str):
    rows, columns = values.dims
    image = ax.pcolormesh(values[columns], values[rows], values, vmin=low, vmax=high, cmap=cmap, shading="nearest")
    ax.grid(False)
    if columns == "lon":
        ax.set_aspect(1 / np.cos(np.deg2rad(float(values[rows].mean()))))
        ax.set(xlabel="longitude (°E)", ylabel="latitude (°N)")
    else:
        ax.set_aspect("equal")
        ax.set(xlabel=columns, ylabel=rows)
    ax.label_outer()
    return image
