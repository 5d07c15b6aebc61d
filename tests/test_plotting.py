import re

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from stlib import plotting

matplotlib.use("agg")

MAP = xr.DataArray(
    np.arange(12.0).reshape(3, 4) - 5,
    dims=("lat", "lon"),
    coords={"lat": [20.0, 30, 40], "lon": [-100.0, -90, -80, -70]},
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_no_two_forecasters_look_alike():
    looks = [plotting.look(name) for name in plotting.LOOKS]
    assert len({(look["linestyle"], look["marker"]) for look in looks}) == len(looks)  # told apart without colour
    assert (
        len({look["color"] for name, look in zip(plotting.LOOKS, looks, strict=True) if name != "best possible"})
        == len(looks) - 1
    )
    with pytest.raises(ValueError, match="no look for 'oracle'"):
        plotting.look("oracle")


def test_every_line_stands_out_from_white():
    for colour, _, _ in plotting.LOOKS.values():
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) > 2


def test_maps_share_one_scale_and_keep_missing_cells_apart():
    holes = MAP.where(MAP != 0)
    figure = plotting.fields({"a": MAP, "b": 2 * holes}, label="pressure (hPa)")
    images = [axis.collections[0] for axis in figure.axes[:2]]
    assert images[0].get_clim() == images[1].get_clim() == (-10, 12)
    assert images[1].get_array().mask.sum() == 1
    assert figure.axes[-1].get_ylabel() == "pressure (hPa)"
    assert figure.axes[0].get_xlabel() == "longitude (°E)"


def test_the_skill_map_is_white_at_zero_with_the_line_drawn():
    figure = plotting.skill_map({"NLinear": MAP / 10}, baseline="persistence")
    image = figure.axes[0].collections[0]
    assert image.get_clim() == (-1, 1)
    assert min(plt.get_cmap(plotting.SKILL)(0.5)[:3]) > 0.95
    assert figure.axes[-1].get_ylabel() == "skill against persistence"


def test_by_lead_draws_the_mean_and_the_range_of_the_seeds():
    lead = {"lead": [1, 2]}
    one = xr.DataArray([1.0, 2.0], dims="lead", coords=lead)
    many = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("seed", "lead"), coords=lead)
    ax = plotting.by_lead({"persistence": one, "DLinear": many}, ylabel="RMSE (hPa)", xlabel="lead (hours)", step=6)
    assert list(ax.lines[1].get_xdata()) == [6, 12] and list(ax.lines[1].get_ydata()) == [2, 3]
    assert ax.collections[0].get_paths()[0].vertices[:, 1].max() == 4
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["persistence", "DLinear"]


def test_the_player_is_self_contained_and_small():
    field = xr.concat([MAP, MAP + 1, MAP + 2], "time")
    player = plotting.frame_player(field, title=["a", "b", "c"], label="pressure (hPa)", description='a "map" moving')
    page = player._repr_html_()
    assert page.count("data:image/png;base64,") == 4  # three frames, and the first shown without scripts
    assert not re.search(r"https?://", page) and 'max="2"' in page
    assert "&quot;map&quot;" in page and page == player._repr_html_()
    assert len(page) < 200_000
    assert plt.get_fignums() == []
