from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from stlib.data import datasets
from stlib.data.augmentation import (
    crop,
    flip,
    jitter,
    mirror,
    mixup,
    quarter_turns,
    rotate,
    scale,
    slice_window,
    time_warp,
)
from stlib.data.windows import Batch, split

PAST, HORIZON, CHANNELS = 7, 5, 3
AUGMENTATIONS = {
    "jitter": partial(jitter, spread=0.1),
    "scale": partial(scale, spread=0.3),
    "time_warp": partial(time_warp, strength=0.5),
    "slice_window": partial(slice_window, past=4, horizon=2),
    "mixup": partial(mixup, alpha=0.5),
    "crop": partial(crop, height=4, width=5),
    "flip": partial(flip, axis="width", vector=(0, 2)),
    "rotate": partial(rotate, vector=(0, 2)),
}
each = pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())


def seed(number=0):
    return torch.Generator().manual_seed(number)


def maps(windows=6, size=6, dtype=torch.float32, number=1):
    shape = (windows, PAST + HORIZON, CHANNELS, size, size)
    both = torch.randn(shape, generator=seed(number), dtype=torch.float64).to(dtype)
    calendar = torch.arange(windows * (PAST + HORIZON) * 4).reshape(windows, PAST + HORIZON, 4)
    return Batch(both[:, :PAST], both[:, PAST:], calendar, calendar[..., :2] / 7)  # not contiguous, as windows are


def ramps(windows=6):
    """Windows whose values are their own time: the last past step is 0, the first target 1."""
    step = torch.arange(1 - PAST, HORIZON + 1, dtype=torch.float64).reshape(1, -1, 1).repeat(windows, 1, 1)
    return Batch(step[:, :PAST], step[:, PAST:], None)


# All of them


@each
def test_a_seed_decides_and_each_window_has_its_own_draw(augment):
    batch = maps(windows=40)
    batch = Batch(*(x[:1].expand(40, *x.shape[1:]) if augment.func is not mixup else x for x in batch))
    first, again, other = augment(batch, seed(3)), augment(batch, seed(3)), augment(batch, seed(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.past, other.past)
    assert len(first.past.unique(dim=0)) > 1  # the same window forty times comes out differently


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_input_and_generator_are_kept(augment, dtype):
    batch = maps(dtype=dtype)
    before = [x.clone() for x in batch]
    state = torch.get_rng_state()
    changed = augment(batch, seed())
    assert changed.past.dtype == changed.future.dtype == dtype and changed.calendar.dtype == torch.long
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@each
@pytest.mark.parametrize("windows", [0, 1])
def test_one_window_none_and_no_calendar(augment, windows):
    batch = maps(windows=windows)._replace(calendar=None)
    changed = augment(batch, seed())
    assert len(changed.past) == len(changed.future) == windows and changed.calendar is None


@each
def test_the_future_never_reaches_the_past(augment):
    if augment.func is slice_window:
        pytest.skip("a slice has an origin of its own")
    batch = maps()
    other = batch._replace(future=torch.full_like(batch.future, 99.0))
    assert torch.equal(augment(batch, seed()).past, augment(other, seed()).past)


@each
def test_missing_stays_missing_and_nothing_else_becomes_so(augment):
    batch = maps()
    nothing = Batch(batch.past * torch.nan, batch.future * torch.nan, batch.calendar)
    assert augment(nothing, seed()).past.isnan().all() and augment(nothing, seed()).future.isnan().all()
    one = batch.past.clone()
    one[:, :, 1] = torch.nan  # a whole channel, no part of a vector
    changed = augment(batch._replace(past=one, future=batch.future), seed()).past
    if augment.func is not slice_window:
        assert changed[:, :, 1].isnan().all() and not changed[:, :, [0, 2]].isnan().any()


@each
def test_calendar_and_regressors_are_kept_or_cut_with_their_window(augment):
    batch = maps()
    changed = augment(batch, seed())
    rows = {tuple(row) for row in batch.calendar.flatten(0, 1).tolist()}
    assert {tuple(row) for row in changed.calendar.flatten(0, 1).tolist()} <= rows
    assert changed.calendar.shape[1] == changed.past.shape[1] + changed.future.shape[1]
    if augment.func not in (slice_window, mixup):
        assert torch.equal(changed.calendar, batch.calendar)
    assert torch.equal(changed.regressors, changed.calendar[..., :2] / 7)


# Values


def test_jitter_has_mean_zero_and_the_given_spread_in_each_channel():
    batch = Batch(torch.zeros(400, 50, 3), torch.zeros(400, 2, 3), None)
    for spread in (0.3, torch.tensor([0.0, 0.5, 2.0])):
        noise = jitter(batch, seed(), spread=spread).past.flatten(0, 1)
        expected = torch.as_tensor(spread).expand(3)
        assert (noise.mean(0).abs() <= 5 * expected / 20000**0.5).all()
        assert ((noise.std(0) - expected).abs() <= 5 * expected / 40000**0.5).all()
    assert jitter(batch, seed(), spread=0.3).future.eq(0).all()
    steps = jitter(batch, seed(), spread=1.0).past
    assert abs((steps[:, 1:] * steps[:, :-1]).mean()) < 0.02  # every value has its own


def test_scale_is_one_lognormal_factor_a_window():
    batch = Batch(torch.rand(5000, 4, 2, 3) + 1, torch.rand(5000, 2, 2, 3) + 1, None)
    changed = scale(batch, seed(), spread=0.3)
    factor = changed.past[:, 0, 0, 0] / batch.past[:, 0, 0, 0]
    expected = Batch(batch.past * factor[:, None, None, None], batch.future * factor[:, None, None, None], None)
    torch.testing.assert_close(changed, expected)
    assert kstest(factor.log().numpy() / 0.3, "norm").pvalue > 0.01
    only = scale(batch, seed(), spread=0.3, channels=[1])
    assert torch.equal(only.past[:, :, 0], batch.past[:, :, 0]) and torch.equal(
        only.future[:, :, 0], batch.future[:, :, 0]
    )
    torch.testing.assert_close(only.past[:, :, 1], changed.past[:, :, 1])


def test_mixup_of_a_window_with_itself_is_that_window():
    batch = Batch(*(x[:1].expand(6, *x.shape[1:]) for x in maps()))
    assert all(torch.equal(a, b) for a, b in zip(mixup(batch, seed(), alpha=0.4), batch, strict=True))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_has_beta_weights_and_the_calendar_of_the_heavier(alpha):
    name = torch.arange(4000.0, dtype=torch.float64)
    pair = torch.stack([torch.ones_like(name), name, name**2], 1)[:, None]  # three channels
    batch = Batch(pair, pair, name.long().reshape(-1, 1, 1).expand(-1, 2, 4))
    mixed = mixup(batch, seed(), alpha=alpha)
    assert torch.equal(mixed.past, mixed.future)
    torch.testing.assert_close(mixed.past[:, 0, 0], torch.ones_like(name))  # weights sum to one
    # x = w i + (1 - w) j and y = w i^2 + (1 - w) j^2 give j, and with it w.
    x, y = mixed.past[:, 0, 1], mixed.past[:, 0, 2]
    moved = (x - name).abs() > 1e-4
    name, x, y = name[moved], x[moved], y[moved]
    partner = (y - name * x) / (x - name)
    assert (partner - partner.round()).abs().max() < 1e-3 and len(partner.round().unique()) == len(partner)
    weight = (x - partner) / (name - partner)
    if alpha == 1.0:  # with 0.2, weights of nearly 1 are not recovered
        assert kstest(weight.numpy(), beta(alpha, alpha).cdf).pvalue > 0.01
    assert abs((weight - 0.5).square().mean().item() - 1 / (8 * alpha + 4)) < 0.01  # the variance of a Beta
    heavier = torch.where(weight > 0.5, name, partner.round()).long()
    sure = (weight - 0.5).abs() > 1e-3
    assert torch.equal(mixed.calendar[moved][sure, 0, 0], heavier[sure])


# Time


def test_a_warp_is_increasing_and_fixes_the_ends_and_the_origin():
    changed = time_warp(ramps(200), seed(), strength=0.7)
    time = torch.cat([changed.past, changed.future], 1)[..., 0]
    assert (time.diff(dim=1) > 0).all()
    assert (time[:, 0] == 1 - PAST).all() and (time[:, PAST - 1] == 0).all() and (time[:, -1] == HORIZON).all()
    assert (changed.past <= 0).all() and (changed.future > 0).all()
    assert (time - torch.arange(1 - PAST, HORIZON + 1)).abs().max() > 0.5
    assert (changed.future[:, 0] - 1).abs().max() > 0.1  # the first lead moves too


def test_no_warp_changes_nothing_even_next_to_what_is_missing():
    batch = maps()
    batch.past[:, 3] = torch.nan
    still = time_warp(batch, seed(), strength=0.0)
    torch.testing.assert_close(still, batch, rtol=0, atol=0, equal_nan=True)


def test_a_warp_is_numpys_interpolation_of_every_series():
    batch = maps(dtype=torch.float64)
    moved = time_warp(ramps(6), seed(5), strength=0.6, knots=5)
    changed = time_warp(batch, seed(5), strength=0.6, knots=5)
    both, steps = torch.cat([batch.past, batch.future], 1), np.arange(1 - PAST, HORIZON + 1)
    for window in range(6):
        for cell in ((0, 0, 0), (2, 5, 1)):
            for part, time in [(changed.past, moved.past), (changed.future, moved.future)]:
                expected = np.interp(time[window, :, 0], steps, both[window, :, *cell])
                np.testing.assert_allclose(part[window, :, *cell], expected, atol=1e-12)


def test_the_speed_of_a_warp_is_smooth_and_as_strong_as_asked():
    shape = (3000, 200, 1)
    step = torch.arange(402.0, dtype=torch.float64)[None, :, None].expand(3000, -1, -1)
    fast = time_warp(Batch(step[:, : shape[1] + 1], step[:, shape[1] + 1 :], None), seed(), strength=0.3, knots=2)
    speed = torch.cat([fast.past, fast.future], 1)[..., 0].diff(dim=1).log()
    slope = speed.diff(dim=1)  # with two knots, one line from end to end, moved up or down at the origin
    torch.testing.assert_close(slope[:, [0, 50, 198, 200, 300, -1]], slope[:, 100:101].expand(-1, 6))
    # From end to end the log speed changes by the difference of two draws; the past has the first half of the change.
    past_change = (speed[:, 199] - speed[:, 0]) / (199 / 400)
    assert abs(past_change.std().item() / (0.3 * 2**0.5) - 1) < 0.05


def test_the_speed_turns_at_each_inner_knot():
    step = torch.arange(402, dtype=torch.float64)[None, :, None].expand(50, -1, -1)
    warped = time_warp(Batch(step[:, :201], step[:, 201:], None), seed(), strength=0.3, knots=4)
    slope = torch.cat([warped.past, warped.future], 1)[..., 0].diff(dim=1).log().diff(dim=1)  # inner knots: 133 and 267
    for near, far in [(10, 125), (140, 260), (275, 395)]:
        torch.testing.assert_close(slope[:, near], slope[:, far])
    assert ((slope[:, 125] - slope[:, 140]).abs() > 1e-6).all() and ((slope[:, 260] - slope[:, 275]).abs() > 1e-6).all()


def test_a_value_between_a_known_and_a_missing_one_is_missing():
    batch = ramps(50)
    moved = time_warp(batch, seed(), strength=0.5).past[..., 0]
    batch.past[:, 3] = torch.nan  # time -3
    gaps = time_warp(batch, seed(), strength=0.5).past[..., 0].isnan()
    assert torch.equal(gaps, (moved > -4) & (moved < -2)) and gaps.sum() > 50


@pytest.mark.parametrize(("past", "horizon"), [(1, 1), (1, 4), (5, 1), (2, 2)])
def test_short_windows_can_be_warped(past, horizon):
    batch = Batch(torch.rand(3, past, 1), torch.rand(3, horizon, 1), None)
    changed = time_warp(batch, seed(), strength=0.5)
    assert torch.equal(changed.past[:, [0, -1]], batch.past[:, [0, -1]])
    assert torch.equal(changed.future[:, -1], batch.future[:, -1])


def test_slices_are_consecutive_and_every_start_is_as_likely():
    batch = ramps(6000)
    time = torch.cat([batch.past, batch.future], 1)
    batch = batch._replace(calendar=time.long().expand(-1, -1, 4), regressors=time)
    cut = slice_window(batch, seed(), past=4, horizon=3)
    both = torch.cat([cut.past, cut.future], 1)
    assert cut.past.shape[1] == 4 and cut.future.shape[1] == 3
    assert (both.diff(dim=1) == 1).all() and torch.equal(both.long().expand(-1, -1, 4), cut.calendar)
    starts, counts = both[:, 0, 0].unique(return_counts=True)
    assert starts.tolist() == list(range(-6, 0)) and (counts - 1000).abs().max() < 150
    whole = slice_window(batch, seed(), past=PAST, horizon=HORIZON)
    assert all(torch.equal(a, b) for a, b in zip(whole, batch, strict=True))


# Space


def test_a_crop_is_one_rectangle_of_past_and_future():
    cell = torch.arange(7 * 9.0).reshape(7, 9).expand(900, PAST, 2, 7, 9)
    batch = Batch(cell, cell[:, :HORIZON], None)
    cut = crop(batch, seed(), height=4, width=6)
    corner = cut.past[:, 0, 0, 0, 0].long()
    for window in range(20):
        top, left = divmod(corner[window].item(), 9)
        assert torch.equal(cut.past[window], batch.past[window, ..., top : top + 4, left : left + 6])
        assert torch.equal(cut.future[window], batch.future[window, ..., top : top + 4, left : left + 6])
    assert corner.unique().tolist() == [9 * top + left for top in range(4) for left in range(4)]
    whole = crop(batch, seed(), height=7, width=9)
    assert torch.equal(whole.past, batch.past)


def derivative(x, dim):
    return torch.gradient(x, dim=dim)[0]


def divergence(wind):
    return derivative(wind[..., 0, :, :], -1) + derivative(wind[..., 1, :, :], -2)  # u_x + v_y


def vorticity(wind):
    return derivative(wind[..., 1, :, :], -1) - derivative(wind[..., 0, :, :], -2)  # v_x - u_y


WIND = torch.randn(4, 2, 9, 9, generator=seed(7), dtype=torch.float64)


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_turned_wind_has_the_turned_divergence_and_vorticity_and_a_turned_picture_has_not(k):
    wind, picture = quarter_turns(WIND, k, vector=(0, 1)), quarter_turns(WIND, k)
    for physics in (divergence, vorticity):
        turned = quarter_turns(physics(WIND), k)
        torch.testing.assert_close(physics(wind), turned, rtol=0, atol=1e-14)
        assert relative_error(physics(picture), turned) > 1


@pytest.mark.parametrize("axis", ["height", "width"])
def test_a_mirrored_wind_has_the_mirrored_divergence_and_the_opposite_vorticity(axis):
    wind, picture = mirror(WIND, axis, vector=(0, 1)), mirror(WIND, axis)
    torch.testing.assert_close(divergence(wind), mirror(divergence(WIND), axis), rtol=0, atol=1e-14)
    torch.testing.assert_close(vorticity(wind), -mirror(vorticity(WIND), axis), rtol=0, atol=1e-14)
    assert relative_error(divergence(picture), mirror(divergence(WIND), axis)) > 1


def test_a_turn_is_anticlockwise_with_row_0_in_the_south():
    field = torch.zeros(3, 5, 5)
    field[0, 2, 4] = 1  # a picture of the eastern edge
    field[1, 2, 4], field[2, 2, 4] = 3.0, 1.0  # and a wind there, of 3 towards the east and 1 towards the north
    north = quarter_turns(field, 1, vector=(1, 2))
    assert north[:, 4, 2].tolist() == [1.0, -1.0, 3.0] and north.abs().sum() == 5
    south = quarter_turns(field, -1, vector=(1, 2))
    assert south[:, 0, 2].tolist() == [1.0, 1.0, -3.0] and south.abs().sum() == 5
    assert mirror(field, "width", vector=(1, 2))[:, 2, 0].tolist() == [1.0, -3.0, 1.0]
    assert mirror(field.mT, "height", vector=(1, 2))[:, 0, 2].tolist() == [1.0, 3.0, -1.0]


@given(a=st.integers(-5, 5), b=st.integers(-5, 5), size=st.integers(1, 6))
def test_turns_and_mirrors_are_a_group(a, b, size):
    x = torch.randn(2, 5, size, size, generator=seed(size))
    turn = partial(quarter_turns, vector=[(0, 1), (4, 2)])
    flip_rows = partial(mirror, axis="height", vector=[(0, 1), (4, 2)])
    assert torch.equal(turn(turn(x, a), b), turn(x, a + b))
    assert torch.equal(turn(x, 4), x) and torch.equal(turn(turn(turn(turn(x, 1), 1), 1), 1), x)
    assert torch.equal(flip_rows(flip_rows(x)), x)
    assert torch.equal(flip_rows(turn(x, a)), turn(flip_rows(x), -a))  # the dihedral relation
    assert torch.equal(turn(flip_rows(x), 2), mirror(x, "width", vector=[(0, 1), (4, 2)]))


def test_every_pair_turns_by_itself_and_a_scalar_as_a_picture():
    x = torch.randn(5, 4, 4, generator=seed())
    for change in (partial(quarter_turns, k=1), partial(mirror, axis="width"), partial(mirror, axis="height")):
        together = change(x, vector=[(0, 1), (4, 2)])
        assert torch.equal(together[[0, 1]], change(x[[0, 1]], vector=(0, 1)))
        assert torch.equal(together[[4, 2]], change(x[[4, 2]], vector=(0, 1)))
        assert torch.equal(together[3:4], change(x[3:4]))


def test_each_window_is_one_of_the_four_turns_equally_often():
    batch = maps(windows=1)
    batch = Batch(*(x.expand(2000, *x.shape[1:]) for x in batch))
    changed = rotate(batch, seed(), vector=(0, 2))
    counts = []
    for k in range(4):
        is_turned = (changed.past == quarter_turns(batch.past, k, vector=(0, 2))).flatten(1).all(1)
        future = (changed.future == quarter_turns(batch.future, k, vector=(0, 2))).flatten(1).all(1)
        assert torch.equal(is_turned, future)
        counts.append(is_turned.sum().item())
    assert sum(counts) == 2000 and min(counts) > 400


@pytest.mark.parametrize("axis", ["height", "width"])
def test_half_of_the_windows_are_mirrored(axis):
    batch = maps(windows=1)
    batch = Batch(*(x.expand(2000, *x.shape[1:]) for x in batch))
    changed = flip(batch, seed(), axis=axis, vector=(0, 2))
    mirrored = (changed.past == mirror(batch.past, axis, vector=(0, 2))).flatten(1).all(1)
    both = (changed.future == mirror(batch.future, axis, vector=(0, 2))).flatten(1).all(1)
    same = (changed.past == batch.past).flatten(1).all(1)
    assert torch.equal(mirrored, both) and torch.equal(mirrored, ~same) and 900 < mirrored.sum() < 1100


def test_a_storm_turned_by_half_keeps_its_thermal_wind():
    """In the north, the wind changes with height so that cold air lies to the left of the change."""
    batch = split(datasets.load("storm"), past=4, horizon=4).train[:4]

    def alignment(x):
        temperature, u, v = x[:, :, 0], x[:, :, 4] - x[:, :, 2], x[:, :, 5] - x[:, :, 3]
        along = -u * derivative(temperature, -2) + v * derivative(temperature, -1)
        return (along.nansum() / along.abs().nansum()).item()

    turned = rotate(batch, seed(), turns=(2,), vector=[(2, 3), (4, 5)]).past
    picture = rotate(batch, seed(), turns=(2,)).past
    assert alignment(batch.past) > 0.5
    assert alignment(turned) == pytest.approx(alignment(batch.past), rel=1e-4)
    assert alignment(picture) == pytest.approx(-alignment(batch.past), rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(jitter, spread=-1.0), "spread must be one number or one for each of 3 channels, >= 0"),
        (partial(jitter, spread=torch.ones(2)), "one for each of 3 channels"),
        (partial(jitter, spread=float("nan")), "spread must be one number"),
        (partial(scale, spread=-0.1), "spread must be at least 0, got -0.1"),
        (partial(scale, spread=0.1, channels=[3]), r"channels must be whole numbers from 0 to 2, got \[3\]"),
        (partial(time_warp, strength=-1), "strength must be at least 0 and knots at least 2"),
        (partial(time_warp, strength=1, knots=1), "strength must be at least 0 and knots at least 2"),
        (partial(slice_window, past=8, horizon=5), "at most 12 together, got 8 and 5"),
        (partial(slice_window, past=0, horizon=5), "must be at least 1"),
        (partial(mixup, alpha=0.0), "alpha must be positive"),
        (partial(crop, height=7, width=2), "height and width must be from 1 to 6 and 6, got 7 and 2"),
        (partial(crop, height=0, width=2), "height and width must be from 1"),
        (partial(flip, axis="time"), 'axis must be "height"'),
        (partial(flip, axis="width", vector=(0, 0)), "named once"),
        (partial(rotate, vector=(0, 1, 2)), "pairs of channels"),
        (partial(rotate, vector=(0, 3), turns=(0,)), "each from 0 to 2"),
        (partial(rotate, turns=()), "at least one number"),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(maps(), seed())


def test_only_square_maps_turn_by_a_quarter_and_only_maps_turn():
    batch = Batch(*(x[..., :4, :] for x in maps()[:2]), None)
    with pytest.raises(ValueError, match="only square maps can be turned by 90 degrees, got 4 x 6"):
        rotate(batch, seed())
    with pytest.raises(ValueError, match="only square maps"):
        quarter_turns(batch.past, -1)
    assert rotate(batch, seed(), turns=(0, 2), vector=(0, 1)).past.shape == batch.past.shape
    series = Batch(torch.zeros(2, 4, 1), torch.zeros(2, 3, 1), None)
    for augment in (rotate, partial(flip, axis="width"), partial(crop, height=1, width=1)):
        with pytest.raises(ValueError, match=r"must hold maps, \(B, T, C, H, W\), got a past of shape \(2, 4, 1\)"):
            augment(series, seed())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@each
def test_a_gpu_sees_the_same_numbers(augment):
    batch = maps()
    there = augment(Batch(*(x.cuda() for x in batch)), seed())
    assert there.past.is_cuda and there.calendar.is_cuda
    torch.testing.assert_close(Batch(*(x.cpu() for x in there)), augment(batch, seed()))
