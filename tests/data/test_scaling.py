import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.preprocessing import StandardScaler
from test_windows import ramp

from stlib.data import windows, worlds
from stlib.data.scaling import Scaled, Scaler
from stlib.data.windows import split
from stlib.models.baselines import Climatology, Persistence


def parts(seed=0):
    field = ramp(50, (2, 3))
    field = field.copy(data=np.random.default_rng(seed).normal(5, 3, field.shape).astype("float32"))
    field[3, 0, 1, 1] = np.nan
    return split(field, past=3, horizon=2)


def test_estimates_are_scikit_learns_on_the_training_part():
    p = parts()
    by_channel = StandardScaler().fit(p.train.series.reshape(-1, 1))
    torch.testing.assert_close(Scaler().fit(p.train).mean.flatten(), torch.tensor(by_channel.mean_), check_dtype=False)
    by_place = StandardScaler().fit(p.train.series.flatten(1))
    scaler = Scaler(per="place").fit(p.train)
    torch.testing.assert_close(scaler.mean.flatten(), torch.tensor(by_place.mean_), check_dtype=False)
    torch.testing.assert_close(scaler.spread.flatten(), torch.tensor(by_place.scale_), check_dtype=False)


@pytest.mark.parametrize("part", [1, 2])
def test_fitting_outside_training_raises(part):
    with pytest.raises(ValueError, match="fitted on the training part only, got the (validation|test) part"):
        Scaler().fit(parts()[part])


def test_later_parts_do_not_move_the_estimates():
    p, changed = parts(), parts()
    changed.test.field[30:] *= 100
    assert torch.equal(Scaler().fit(p.train).mean, Scaler().fit(changed.train).mean)


def test_inverse_undoes_and_missing_stays_missing():
    p = parts()
    scaler = Scaler(per="place").fit(p.train)
    torch.testing.assert_close(scaler.inverse(scaler(p.train.series)), p.train.series, equal_nan=True)
    assert scaler(p.train.series).isnan().sum() == 1


def test_a_constant_place_is_centred_not_blown_up():
    field = ramp(50, (1, 2))
    field[:, :, 0, 0] = 7.0
    p = split(field, past=3, horizon=2)
    assert Scaler(per="place").fit(p.train).windows(p.test)[:].past[..., 0, 0].abs().max() == 0


def test_a_scaled_forecaster_speaks_physical_units():
    p = parts()
    scaler = Scaler().fit(p.train)
    batch = p.test[:]
    torch.testing.assert_close(Scaled(Persistence(horizon=2), scaler)(batch.past), Persistence(horizon=2)(batch.past))


def test_state_survives_a_round_trip_and_unfitted_is_refused():
    p = parts()
    scaler, copy = Scaler().fit(p.train), Scaler()
    with pytest.raises(ValueError, match="not fitted yet"):
        copy(p.test.series)
    copy.load_state_dict(scaler.state_dict(), assign=True)
    assert torch.equal(copy(p.test.series), scaler(p.test.series))
    with pytest.raises(ValueError, match='per must be "channel" or "place"'):
        Scaler(per="cell")


def test_the_inner_model_sees_scaled_values_and_the_calendar():
    class Zero(Persistence):
        def forward(self, past):
            assert abs(past.nanmean()) < 1
            return torch.zeros_like(super().forward(past))

    p = parts()
    scaler = Scaler().fit(p.train)
    batch = p.test[:]
    forecast = Scaled(Zero(horizon=2), scaler)(batch.past)
    torch.testing.assert_close(forecast, scaler.mean.expand_as(forecast))
    usual = Climatology(horizon=2, cycle="weekday")
    plain = Climatology(horizon=2, cycle="weekday").fit(p.train.series, p.train.calendar)
    usual.fit(scaler(p.train.series), p.train.calendar)
    wrapped = Scaled(usual, scaler)
    torch.testing.assert_close(wrapped(*batch.inputs(wrapped)), plain(batch.past, batch.calendar), rtol=1e-4, atol=1e-4)


def test_regressors_pass_through_a_scaled_model():
    class Told(torch.nn.Module):
        def forward(self, past, regressors):
            return past[:, -1:] * 0 + regressors[:, -1:].sum(-1)[..., None, None]

    field = worlds.AdvectionDiffusion(size=4).simulate(40, seed=0).isel(x=0)
    columns = xr.DataArray(np.ones((40, 3)), dims=("time", "column"), coords={"time": field["time"]})
    p = windows.split(field, past=3, horizon=1, regressors=columns)
    scaler = Scaler().fit(p.train)
    model = Scaled(Told(), scaler)
    batch = p.test[:]
    expected = scaler.inverse(torch.full_like(batch.future, 3.0))
    torch.testing.assert_close(model(*batch.inputs(model)), expected)
