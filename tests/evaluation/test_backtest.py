import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.distributions import Normal

from stlib.data import datasets
from stlib.data.windows import split
from stlib.data.worlds import AdvectionDiffusion
from stlib.evaluation.backtest import area_weights, backtest, over_seeds, score, skill
from stlib.models.baselines import Climatology, Persistence

WORLD = AdvectionDiffusion(size=8)
PARTS = split(WORLD.simulate(300, seed=0), past=2, horizon=3)
PERSISTENCE = backtest(Persistence(horizon=3), PARTS.test, batch_size=7)


def two_channels():
    field = WORLD.simulate(300, seed=0)
    return split(xr.concat([field, 100 * field], "channel").assign_coords(channel=["a", "b"]), past=2, horizon=3).test


def test_every_window_is_forecast_and_labelled_with_its_origin():
    field = WORLD.simulate(300, seed=0)
    assert list(PERSISTENCE.origin.values) == list(range(239, 297))
    for origin in (239, 296):
        for lead in (1, 3):
            here = PERSISTENCE.sel(origin=origin, lead=lead)
            np.testing.assert_array_equal(here.truth, field.sel(time=origin + lead))
            np.testing.assert_array_equal(here.forecast, field.sel(time=origin))
    assert list(PERSISTENCE.y.values) == list(range(8)) and PERSISTENCE.attrs["units"] == "1"


def test_scores_are_numpys():
    error = (PERSISTENCE.forecast - PERSISTENCE.truth).values  # origin, lead, channel, y, x
    np.testing.assert_allclose(score(PERSISTENCE), np.sqrt((error**2).mean((0, 2, 3, 4))), rtol=1e-6)
    np.testing.assert_allclose(
        score(PERSISTENCE, metric="mae", by=["y", "x"]), np.abs(error).mean((0, 1, 2)), rtol=1e-5
    )
    by_origin = score(PERSISTENCE, metric="bias", by=["lead", "origin"])
    assert by_origin.dims == ("lead", "origin")
    np.testing.assert_allclose(by_origin, error.mean((2, 3, 4)).T, atol=1e-6)


def test_missing_truth_is_left_out_of_the_score():
    field = WORLD.simulate(300, seed=0)
    field[250, 0, 3, 3] = np.nan
    result = backtest(Persistence(horizon=3), split(field, past=2, horizon=3).test)
    error = (result.forecast - result.truth).values
    assert np.isnan(error).sum() == 3
    np.testing.assert_allclose(score(result), np.sqrt(np.nanmean(error**2, axis=(0, 2, 3, 4))), rtol=1e-6)


def test_skill_is_0_for_the_baseline_itself_1_for_the_truth_and_known_for_the_optimum():
    np.testing.assert_array_equal(skill(PERSISTENCE, PERSISTENCE), 0)
    np.testing.assert_array_equal(skill(PERSISTENCE.assign(forecast=PERSISTENCE.truth), PERSISTENCE), 1)
    long = split(WORLD.simulate(6000, seed=1), past=2, horizon=3, train=100, validation=10).test
    best = backtest(WORLD.optimal_forecaster(3), long)
    expected = 1 - (WORLD.optimal_rmse(3) / WORLD.persistence_rmse(3)) ** 2
    np.testing.assert_allclose(skill(best, backtest(Persistence(horizon=3), long)), expected, atol=0.02)


def test_weights_count_by_area():
    field = WORLD.simulate(300, seed=0).rename(y="lat", x="lon").assign_coords(lat=np.linspace(0, 70, 8))
    result = backtest(Persistence(horizon=3), split(field, past=2, horizon=3).test)
    weights = np.cos(np.deg2rad(np.linspace(0, 70, 8)))[:, None] * np.ones(8)
    squared = ((result.forecast - result.truth) ** 2).mean(("origin", "channel")).values
    expected = np.sqrt([np.average(one, weights=weights) for one in squared])
    np.testing.assert_allclose(score(result, weights=area_weights(result)), expected, rtol=1e-5)


def test_channels_of_different_units_are_never_averaged():
    result = backtest(Persistence(horizon=3), two_channels())
    with pytest.raises(ValueError, match="several channels may have different units"):
        score(result)
    both = score(result, by=["channel", "lead"])
    np.testing.assert_allclose(both.sel(channel="b"), 100 * both.sel(channel="a"), rtol=1e-5)
    np.testing.assert_allclose(score(result.sel(channel=["a"])), both.sel(channel="a"))


def test_silence_is_not_rewarded():
    class Shy(Persistence):
        def forward(self, past):
            return super().forward(past).where(past[:, -1:].abs() < 2, torch.tensor(torch.nan))

    with pytest.raises(ValueError, match=r"Shy gave no forecast \(NaN\) for \d+ of 11136 observed targets"):
        backtest(Shy(horizon=3), PARTS.test)


def test_wrong_shapes_and_other_windows_are_refused():
    with pytest.raises(ValueError, match=r"returned a forecast of shape \(58, 2, 1, 8, 8\), the windows need \(58, 3"):
        backtest(Persistence(horizon=2), PARTS.test)
    with pytest.raises(ValueError, match="do not share their windows"):
        skill(PERSISTENCE, backtest(Persistence(horizon=3), PARTS.validation))
    with pytest.raises(ValueError, match="metric must be one of mae"):
        score(PERSISTENCE, metric="accuracy")
    with pytest.raises(ValueError, match="by names .*'place'"):
        score(PERSISTENCE, by="place")


def test_distributions_give_their_mean_and_a_sample():
    class Wide(nn.Module):
        def forward(self, past):
            return Normal(past[:, -1:].expand(-1, 3, -1, -1, -1), 2.0)

    torch.manual_seed(0)
    result = backtest(Wide(), PARTS.test)
    np.testing.assert_array_equal(result.forecast, PERSISTENCE.forecast)
    assert result["sample"].dims == ("member", *PERSISTENCE.forecast.dims)
    assert float((result["sample"] - result.forecast).std()) == pytest.approx(2, rel=0.01)


def test_a_model_in_training_mode_is_judged_in_evaluation_mode_and_put_back():
    model = nn.Sequential(Persistence(horizon=3), nn.Dropout(0.5)).train()
    np.testing.assert_array_equal(backtest(model, PARTS.test).forecast, PERSISTENCE.forecast)
    assert model.training


def test_seeds_are_stacked_and_scored_apart():
    class Shifted(Persistence):
        def forward(self, past):
            return super().forward(past) + self.shift

    def train(seed):
        model = Shifted(horizon=3)
        model.shift = seed
        return model

    result = over_seeds(train, PARTS.test, seeds=(0, 2))
    assert result.forecast.dims[0] == "seed" and "seed" not in result.truth.dims
    by_seed = score(result, metric="bias", by=["seed", "lead"])
    np.testing.assert_allclose(by_seed.sel(seed=2) - by_seed.sel(seed=0), 2, rtol=1e-5)


@pytest.mark.parametrize("name", ["storm", "nasa"])
def test_shipped_fields_go_through(name):
    field = datasets.load(name)
    parts = split(field, past=4, horizon=2)
    result = backtest(Climatology(horizon=2, cycle=None).fit(parts.train.series), parts.test)
    assert score(result, by=["channel", "lead"]).notnull().all()


def test_a_failed_backtest_leaves_the_mode_of_the_model():
    class Broken(Persistence):
        def forward(self, past):
            raise RuntimeError

    model = Broken(horizon=3).train()
    with pytest.raises(RuntimeError):
        backtest(model, PARTS.test)
    assert model.training


def test_gradients_are_off_and_half_precision_is_read():
    class Half(Persistence):
        def forward(self, past):
            assert not torch.is_grad_enabled()
            return super().forward(past).bfloat16()

    np.testing.assert_allclose(
        backtest(Half(horizon=3), PARTS.test).forecast, PERSISTENCE.forecast, rtol=0.01, atol=1e-6
    )


def test_one_silent_value_is_enough():
    class Once(Persistence):
        def forward(self, past):
            forecast = super().forward(past).clone()
            forecast[0, 0, 0, 0, 0] = torch.nan
            return forecast

    with pytest.raises(ValueError, match="for 1 of 11136 observed targets"):
        backtest(Once(horizon=3), PARTS.test)


def test_a_selected_channel_keeps_its_dim():
    with pytest.raises(ValueError, match=r"select one with \.sel\(channel=\[...\]\), in brackets"):
        score(backtest(Persistence(horizon=3), two_channels()).sel(channel="a"))


def test_samples_of_every_seed_are_kept():
    class Wide(nn.Module):
        def forward(self, past):
            return Normal(past[:, -1:].expand(-1, 3, -1, -1, -1), 1.0)

    result = over_seeds(lambda seed: Wide(), PARTS.test, seeds=(0, 1))
    assert result["sample"].dims[0] == result.forecast.dims[0] == "seed"
    assert score(result).dims == ("seed", "lead")
