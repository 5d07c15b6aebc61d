import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from stlib.data.worlds import AdvectionDiffusion, MovingDigits
from stlib.models.advection import LagrangianPersistence, advect, motion
from stlib.models.baselines import Persistence

ALL_EDGES = ("missing", "zeros", "replicate", "periodic", "periodic columns")


def smooth(size=48, waves=3, seed=0):
    """A random field on a ring in both directions, without waves much shorter than size / waves."""
    white = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    k = torch.fft.fftfreq(size, dtype=torch.float64) * size
    field = torch.fft.ifft2(torch.fft.fft2(white) * torch.exp(-(k[:, None] ** 2 + k**2) / (2 * waves**2))).real
    return field / field.std()


def shifted(x, velocity):
    """Moved along a ring by any distance, exactly."""
    k = 2 * torch.pi * torch.fft.fftfreq(x.shape[-1], dtype=torch.float64)
    phase = k[:, None] * velocity[0] + k * velocity[1]
    return torch.fft.ifft2(torch.fft.fft2(x) * torch.polar(torch.ones_like(phase), -phase)).real


def constant(velocity, size):
    return torch.tensor(velocity, dtype=torch.float64).reshape(1, 2, 1, 1).expand(1, 2, *size)


def coordinates(size):
    return torch.meshgrid(*(torch.arange(float(n), dtype=torch.float64) for n in size), indexing="ij")


@pytest.mark.parametrize("velocity", [(0.4, 0.8), (-1.3, 2.2), (3.0, -4.0), (6.0, 5.0)])
def test_a_uniform_translation_is_found(velocity):
    x = smooth()
    past = torch.stack([shifted(x, [v * t for v in velocity]) for t in range(3)])[None, :, None]
    found = motion(past, edge="periodic")
    assert found.shape == (1, 2, 48, 48)
    assert (found - constant(velocity, (48, 48))).norm(dim=1).mean() < 0.02 * np.hypot(*velocity)
    torch.testing.assert_close(
        motion(past[:, :2], edge="periodic").mean((0, 2, 3)), torch.tensor(velocity).double(), rtol=0.02, atol=0
    )


def test_each_window_of_a_batch_has_its_own_motion_and_units_do_not_matter():
    x = smooth(32)
    velocities = [(1.0, 0.0), (0.0, -2.0), (-1.5, 0.5)]
    past = torch.stack([torch.stack([x, shifted(x, v)]) for v in velocities])[:, :, None]
    found = motion(past, edge="periodic")
    torch.testing.assert_close(found[1:2], motion(past[1:2], edge="periodic"))
    torch.testing.assert_close(found, motion(1000 + 1e4 * past, edge="periodic"), rtol=0, atol=1e-6)
    in_both = torch.cat([past, 7 - 50 * past], 2)
    torch.testing.assert_close(motion(in_both, edge="periodic"), found, rtol=0, atol=1e-6)


def test_channels_of_one_unit_do_not_drown_those_of_another():
    x, y = smooth(32, seed=0), smooth(32, seed=1)
    past = torch.stack([torch.stack([x, y]), torch.stack([shifted(x, (1.0, 0.0)), 1.0 * shifted(y, (0.0, 0.0))])])
    found = motion(past[None], edge="periodic")
    scaled = motion((past * torch.tensor([1e3, 1.0]).reshape(2, 1, 1).double())[None], edge="periodic")
    torch.testing.assert_close(found, scaled, rtol=0, atol=1e-6)
    each = LagrangianPersistence(horizon=1, per="channel", edge="periodic")(past[None])
    torch.testing.assert_close(each[0, 0, 0], shifted(x, (2.0, 0.0)), rtol=0, atol=0.03)
    torch.testing.assert_close(each[0, 0, 1], y, rtol=0, atol=1e-6)


def spots(rows, columns):
    places = [(10, 3), (-12, 8), (4, -15), (-6, -9), (18, 14), (15, -16), (-20, -4), (-3, 20), (-20, 18), (0, -2)]
    return sum((-1) ** i * torch.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 50) for i, (r, c) in enumerate(places))


def test_a_rotation_is_found():
    angle, (rows, columns) = 0.08, coordinates((65, 65))
    rows, columns = rows - 32, columns - 32
    back = (
        np.cos(angle) * rows - np.sin(angle) * columns,
        np.sin(angle) * rows + np.cos(angle) * columns,
    )
    past = torch.stack([spots(rows, columns), spots(*back)])[None, :, None]
    truth = torch.stack([rows - back[0], columns - back[1]])  # where it is, less where it came from
    inside = rows**2 + columns**2 < 20**2
    error = (motion(past)[0] - truth)[:, inside].square().mean().sqrt()
    assert error < 0.05 * truth[:, inside].square().mean().sqrt()


def test_the_motion_of_the_advection_world_is_found():
    run = torch.from_numpy(AdvectionDiffusion(size=32, velocity=(0.4, 0.8)).simulate(84, seed=0).values)
    past = run.unfold(0, 4, 4).movedim(-1, 1)  # 21 windows of 4 steps
    found = motion(past, width=6.0, edge="periodic").mean((0, 2, 3))
    torch.testing.assert_close(found, torch.tensor([0.4, 0.8]), rtol=0.1, atol=0)


def test_missing_cells_weigh_nothing():
    x = smooth()
    past = torch.stack([x, shifted(x, (1.0, -2.0))])[None, :, None]
    past[:, 0, :, 5:9, 20:30] = torch.nan
    past[:, 1, :, 30:, :6] = torch.nan
    found = motion(past, edge="periodic")
    assert (found - constant((1.0, -2.0), (48, 48))).norm(dim=1).mean() < 0.04
    other = past.clone()
    other[:, :, :, 30:, 40:] = torch.nan
    assert not motion(other).isnan().any()
    nothing = past.clone()
    nothing[:, 1] = torch.nan
    assert (motion(nothing) == 0).all()


def test_what_flows_in_over_the_edge_weighs_nothing():
    velocity, rim = (1.5, -2.0), torch.ones(24, 24, dtype=torch.bool)
    rim[3:-3, 3:-3] = False
    whole = [smooth(64, waves=6, seed=seed) for seed in range(4)]
    past = torch.stack([torch.stack([x, shifted(x, velocity)]) for x in whole])[:, :, None, 20:44, 20:44]
    error = (motion(past) - constant(velocity, (24, 24))).norm(dim=1)
    assert error[:, rim].mean() < 0.2 * 2.5 and error[:, ~rim].mean() < 0.03 * 2.5


def test_where_there_is_nothing_to_see_the_map_moves_as_a_whole():
    rows, columns = coordinates((20, 60))
    past = torch.stack([torch.exp(-((rows - 10) ** 2 + (columns - 8 - t) ** 2) / 12) for t in range(2)])[None, :, None]
    past = past + 1e-4 * torch.randn(past.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = motion(past)
    assert (found[0, 1, :, 50:] - 1).abs().max() < 0.2 and found[0, 0].abs().max() < 0.1
    assert (motion(torch.zeros(1, 2, 1, 6, 7)) == 0).all()


def test_a_ring_of_columns_has_no_seam():
    x = smooth()
    past = torch.stack([x, shifted(x, (0.0, 1.6))])[None, :, None]
    found = motion(past, edge="periodic columns")[..., 20:28, :]
    assert (found - constant((0.0, 1.6), (8, 48))).abs().max() < 0.05


def test_a_high_level_costs_no_digits_and_noise_no_more_than_its_steps():
    past = torch.stack([smooth(32), shifted(smooth(32), (1.0, 0.5))])[None, :, None]
    high = (past + 1e4).float()
    exact = motion(high.double() - 1e4, edge="periodic")
    torch.testing.assert_close(motion(high, edge="periodic").double(), exact, rtol=0, atol=1e-3)
    noise = torch.randn(1, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert motion(noise, levels=1, iterations=1, width=1.0).abs().max() <= 2


@pytest.mark.parametrize("edge", ALL_EDGES)
def test_no_motion_changes_nothing(edge):
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    still = torch.zeros(2, 2, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(
        advect(x, still, steps=2, edge=edge), x[:, None].expand(2, 2, 3, 7, 5), rtol=0, atol=1e-12
    )
    moved = advect(x.float(), still.float(), steps=1, edge=edge)[:, 0]
    torch.testing.assert_close(moved, x.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("edge", "mode"), [("replicate", "nearest"), ("periodic", "grid-wrap"), ("zeros", "grid-constant")]
)
def test_one_step_is_scipys_interpolation(edge, mode):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 9, 8, dtype=torch.float64, generator=generator)
    velocity = constant((1.3, -2.6), (9, 8))
    where = torch.stack(coordinates((9, 8))) - velocity[0]
    expected = map_coordinates(x[0, 0].numpy(), where.numpy(), order=1, mode=mode)
    np.testing.assert_allclose(advect(x, velocity, steps=1, edge=edge)[0, 0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("substeps", [1, 2])
def test_a_trajectory_follows_the_midpoint_rule(substeps):
    """Another way to the same: one cell after the other, with scipy's interpolation of the velocity."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 6, 7, dtype=torch.float64, generator=generator)
    velocity = torch.randn(1, 2, 6, 7, dtype=torch.float64, generator=generator)

    def at(field, place):
        return map_coordinates(field.numpy(), np.array(place)[:, None], order=1, mode="nearest")[0]

    moved = advect(x, velocity, steps=3, edge="replicate", substeps=substeps)
    for row, column in [(0, 0), (3, 4), (5, 6), (2, 1)]:
        place = np.array([row, column], dtype=float)
        for lead in range(3):
            for _ in range(substeps):
                half = np.array([at(v, place) for v in velocity[0]]) / (2 * substeps)
                place = place - np.array([at(v, place - half) for v in velocity[0]]) / substeps
            assert moved[0, lead, 0, row, column].item() == pytest.approx(at(x[0, 0], place), abs=1e-12)


def test_a_plane_wave_moves_as_its_equation_says():
    rows, columns = coordinates((64, 48))

    def wave(lead):
        return torch.sin(2 * torch.pi * (2 * (rows - 0.7 * lead) / 64 + (columns + 1.6 * lead) / 48))

    velocity = constant((0.7, -1.6), (64, 48))
    moved = advect(wave(0)[None, None], velocity, steps=12, edge="periodic")[0, :, 0]
    expected = torch.stack([wave(lead) for lead in range(1, 13)])
    # Interpolated once: the error of a bilinear value, h^2 / 8 times the curvature, does not grow with the lead.
    bound = ((4 * torch.pi / 64) ** 2 + (2 * torch.pi / 48) ** 2) / 8
    assert (moved - expected).abs().max() < bound


def test_a_rotation_brings_everything_round():
    rows, columns = coordinates((65, 65))
    velocity = 2 * torch.pi / 16 * torch.stack([columns - 32, 32 - rows])[None]
    x = spots(rows - 32, columns - 32)[None, None]
    inside = (rows - 32) ** 2 + (columns - 32) ** 2 < 18**2
    coarse, fine = (advect(x, velocity, steps=16, substeps=n)[0, -1, 0] - x[0, 0] for n in (1, 4))
    assert fine[inside].abs().max() < 0.05 < 4 * fine[inside].abs().max() < coarse[inside].abs().max()


def test_what_comes_from_beyond_the_edge():
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    east = constant((0.0, 1.0), (1, 4)).float()
    nan = torch.nan
    for edge, expected in {
        "missing": [nan, 1, 2, 3],
        "zeros": [0, 1, 2, 3],
        "replicate": [1, 1, 2, 3],
        "periodic": [4, 1, 2, 3],
        "periodic columns": [4, 1, 2, 3],
    }.items():
        moved = advect(row, east, steps=1, edge=edge).flatten()
        torch.testing.assert_close(moved, torch.tensor(expected, dtype=torch.float32), equal_nan=True)
    south = advect(row.mT, east.mT.flip(1), steps=1, edge="periodic columns").flatten()
    assert south.tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize("edge", ALL_EDGES)
def test_missing_neighbours_are_left_out_of_the_mean(edge):
    x = torch.tensor([1.0, torch.nan, 5.0, 6.0]).reshape(1, 1, 1, 4)
    west = constant((0.0, -0.6), (1, 4)).float()
    moved = advect(x, west, steps=1, edge=edge).flatten()
    assert moved[0].isnan()  # 0.6 of the missing cell
    torch.testing.assert_close(moved[1:3], torch.tensor([5.0, 5.6]))
    west = constant((0.0, -0.4), (1, 4)).float()
    torch.testing.assert_close(advect(x, west, steps=1, edge=edge)[..., 0].flatten(), torch.tensor([1.0]))
    beyond = advect(x, -5 * west, steps=1, edge="zeros").flatten()  # two cells from the left
    torch.testing.assert_close(beyond, torch.tensor([0.0, 0.0, 1.0, torch.nan]), equal_nan=True)


def test_lagrangian_persistence_falls_back_on_persistence():
    x = smooth(32).float()
    past = torch.stack([x, shifted(x.double(), (0.0, 2.0)).float()])[None, :, None]
    past[..., 10:14, 10:14] = torch.nan
    forecast = LagrangianPersistence(horizon=3)(past)
    assert forecast[0, :, 0, 11, 13].isnan().tolist() == [
        True,
        False,
        False,
    ]  # no persistence, later something moves in
    assert not forecast[..., 14:, :].isnan().any()
    torch.testing.assert_close(forecast[0, 1, 0, 20:, 0], past[0, -1, 0, 20:, 0], atol=0.01, rtol=0)
    gone = torch.cat([past, torch.full_like(past[:, :1], torch.nan)], 1)  # the last frame was lost: what is left?
    torch.testing.assert_close(
        LagrangianPersistence(horizon=3)(gone), Persistence(horizon=3)(gone), equal_nan=True, rtol=0, atol=1e-4
    )


def test_a_digit_flies_on():
    world = MovingDigits(size=32, digits=1, max_speed=3)
    start, velocity = np.array([[[6, 4]]]), np.array([[[2, 3]]])
    frames = torch.from_numpy(world.draw(world.images[:1, None], start, velocity, steps=6))[:, :, None]
    forecast = LagrangianPersistence(horizon=3, past=3, edge="zeros")(frames[:, :3])
    error = (forecast - frames[:, 3:]).square().mean((2, 3, 4)).sqrt()
    nothing = (frames[:, 2:3] - frames[:, 3:]).square().mean((2, 3, 4)).sqrt()
    assert (error < 0.1 * nothing).all()


def test_the_advection_has_a_gradient_in_field_and_velocity():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    velocity = 0.3 * torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=generator)
    for edge in ("periodic", "replicate"):
        assert torch.autograd.gradcheck(
            lambda x, v, edge=edge: advect(x, v, steps=2, edge=edge), (x, velocity.clone().requires_grad_())
        )


def test_the_motion_has_a_finite_gradient_with_gaps():
    past = torch.stack([smooth(12), shifted(smooth(12), (0.3, 0.2))])[None, :, None]
    past[0, 0, 0, 3, 3] = torch.nan
    (gradient,) = torch.autograd.grad(motion(past.requires_grad_(), levels=1, iterations=2).sum(), past)
    assert gradient.isfinite().all() and gradient[0, 0, 0, 3, 3] == 0 and gradient.abs().max() > 0


@pytest.mark.parametrize("edge", ALL_EDGES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (2, 3)])
def test_small_maps_go_through(size, edge):
    past = torch.randn(1, 3, 2, *size)
    for per in ("all", "channel"):
        forecast = LagrangianPersistence(horizon=2, per=per, edge=edge)(past)
        assert forecast.shape == (1, 2, 2, *size) and not forecast.isnan().any()


def test_bfloat16_does_not_spoil_the_places():
    x = smooth(32).float()
    past = torch.stack([x, shifted(x.double(), (0.4, 1.3)).float()])[None, :, None]
    model = LagrangianPersistence(horizon=2, edge="periodic")
    expected = model(past)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(past), expected)
    half = model(past.bfloat16())
    assert half.dtype == torch.bfloat16 and (half.float() - expected).abs().max() < 0.1


@pytest.mark.parametrize("level", [0.0, -273.15, 101325.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_channel_without_a_picture_has_no_say(dtype, level):
    past = torch.stack([smooth(32), shifted(smooth(32), (0.5, -1.0))])[None, :, None]
    uniform = torch.full_like(past, level)
    uniform[:, 1] += 1.7  # it changes in time, everywhere alike
    for edge in ("periodic", "missing"):
        alone = motion(past.to(dtype), edge=edge)
        both = motion(torch.cat([past, uniform], 2).to(dtype), edge=edge)
        torch.testing.assert_close(both, alone, rtol=0, atol=1e-4)
        assert (motion(uniform.to(dtype), edge=edge) == 0).all()


@pytest.mark.parametrize("edge", ALL_EDGES)
@pytest.mark.parametrize("lost", [torch.nan, torch.inf])
def test_what_a_missing_velocity_would_have_moved_is_missing(edge, lost):
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    velocity = constant((0.0, 0.0), (6, 7)).clone()
    velocity[:, 0, 2, 3] = lost
    moved = advect(x, velocity, steps=2, edge=edge)
    assert moved[..., 2, 3].isnan().all()
    far = torch.ones(6, 7, dtype=torch.bool)
    far[1:4, 2:5] = False  # a neighbour may share the velocity by a rounding
    torch.testing.assert_close(moved[..., far], x[:, None][..., far].expand(1, 2, 2, -1), rtol=0, atol=1e-12)
    assert advect(x, torch.full_like(velocity, lost), steps=1, edge=edge).isnan().all()


def test_where_no_motion_is_found_nothing_moves():
    past = torch.randn(1, 2, 1, 6, 7)
    past[0, 0, 0, 1, 1] = torch.inf
    torch.testing.assert_close(LagrangianPersistence(horizon=2)(past), past[:, 1:].expand(1, 2, 1, 6, 7))


def test_what_was_observed_before_the_frames_in_use_still_counts():
    past = torch.randn(1, 4, 1, 5, 6)
    past[:, 1:, :, 2, 3] = torch.nan
    past[:, :, :, 0, 0] = torch.nan
    still = past[:, :1].where(~past.isnan(), torch.nan)
    forecast = LagrangianPersistence(horizon=1, past=2, width=200)(still)
    torch.testing.assert_close(forecast[0, 0, 0, 2, 3], past[0, 0, 0, 2, 3], rtol=0, atol=1e-4)
    assert forecast[0, 0, 0].isnan().nonzero().tolist() == [[0, 0]]


def test_whole_numbers_move_as_floats_do():
    past = (100 * torch.stack([smooth(16), shifted(smooth(16), (0.3, 0.6))]))[None, :, None].round()
    for model in (LagrangianPersistence(horizon=2), LagrangianPersistence(horizon=2, per="channel")):
        torch.testing.assert_close(model(past.long()), model(past.float()))
    half = constant((0.0, 0.5), (1, 3))
    moved = advect(torch.tensor([[[[1, 2, 4]]]]), half, steps=2)
    expected = torch.tensor([1, 1.5, 3, torch.nan, 1, 2]).reshape(1, 2, 1, 1, 3).double()
    torch.testing.assert_close(moved, expected, equal_nan=True)


@pytest.mark.parametrize("per", ["all", "channel"])
def test_each_window_is_forecast_by_itself_wherever_it_lies_in_memory(per):
    past = torch.randn(3, 3, 2, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    past[1, 1, 0, 2, 2:5] = torch.nan
    model = LagrangianPersistence(horizon=2, per=per)
    forecast = model(past)
    torch.testing.assert_close(forecast[1:2], model(past[1:2]), equal_nan=True)
    apart = past.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(forecast, model(apart), equal_nan=True)
    assert model(past[:0]).shape == (0, 2, 2, 6, 9)
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(model(scale * past), scale * forecast, rtol=1e-6, atol=1e-9 * scale)


@pytest.mark.parametrize(
    "options", [{"width": 0}, {"width": -1}, {"ridge": -0.1}, {"levels": 0}, {"iterations": 0}, {"width": np.nan}]
)
def test_a_search_that_finds_nothing_is_refused(options):
    with pytest.raises(ValueError, match="width must be above 0, ridge at least 0, levels and iterations at least 1"):
        motion(torch.zeros(1, 2, 1, 3, 3), **options)
    with pytest.raises(ValueError, match="width must be above 0, ridge at least 0, levels and iterations at least 1"):
        LagrangianPersistence(horizon=1, **options)


def test_empty_maps_and_no_steps_are_named():
    for shape in ((1, 2, 0, 3, 3), (1, 2, 1, 0, 3)):
        for call in (motion, LagrangianPersistence(horizon=1)):
            with pytest.raises(ValueError, match=r"past must be \(B, T, C, H, W\) with T >= 2, got shape"):
                call(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"got shapes \(1, 1, 0, 3\)"):
        advect(torch.zeros(1, 1, 0, 3), torch.zeros(1, 2, 0, 3), steps=1)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        LagrangianPersistence(horizon=0)
    for steps, substeps in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"steps and substeps must be at least 1, got {steps} and {substeps}"):
            advect(torch.zeros(1, 1, 3, 3), torch.zeros(1, 2, 3, 3), steps=steps, substeps=substeps)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="past must be at least 2 frames, between which things move, got 1"):
        LagrangianPersistence(horizon=1, past=1)
    with pytest.raises(ValueError, match='per must be "all" or "channel", got \'place\''):
        LagrangianPersistence(horizon=1, per="place")
    for call in (
        lambda: LagrangianPersistence(horizon=1, edge="wrap"),
        lambda: motion(torch.zeros(1, 2, 1, 3, 3), edge="wrap"),
        lambda: advect(torch.zeros(1, 1, 3, 3), torch.zeros(1, 2, 3, 3), steps=1, edge="wrap"),
    ):
        with pytest.raises(ValueError, match="edge must be one of missing, zeros, replicate, .*, got 'wrap'"):
            call()
    with pytest.raises(ValueError, match=r"with T >= 3, got shape \(1, 2, 1, 4, 4\)"):
        LagrangianPersistence(horizon=1, past=3)(torch.zeros(1, 2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"with T >= 2, got shape \(1, 1, 1, 4, 4\)"):
        motion(torch.zeros(1, 1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"got shapes \(1, 1, 3, 3\) and \(1, 2, 3, 4\)"):
        advect(torch.zeros(1, 1, 3, 3), torch.zeros(1, 2, 3, 4), steps=1)
