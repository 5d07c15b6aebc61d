import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from stlib.data.worlds import MovingDigits
from stlib.data.worlds.digits import bounce
from stlib.models.baselines import SeasonalPersistence

WORLD = MovingDigits(size=20)
ROOM = 12


def corners(frames):
    """Upper left corner of what is bright in each frame of (T, H, W)."""
    return [np.argwhere(frame).min(0).tolist() for frame in frames]


def test_bounces_are_those_on_paper():
    # 10, 12 (touches the wall), 10, ... and 11 -> 13 is 1 beyond the wall, so 11 again
    assert bounce(10, 2, np.arange(4), room=12).tolist() == [10, 12, 10, 8]
    assert bounce(11, 2, np.arange(3), room=12).tolist() == [11, 11, 9]
    assert bounce(1, -3, np.arange(4), room=12).tolist() == [1, 2, 5, 8]
    assert bounce(4, 0, np.arange(3), room=12).tolist() == [4, 4, 4]


def test_bounce_is_a_step_by_step_reflection():
    rng = np.random.default_rng(0)
    for _ in range(200):
        start, velocity = int(rng.integers(13)), int(rng.integers(-11, 12))
        position, speed, path = start, velocity, []
        for _ in range(60):
            path.append(position)
            position += speed
            if position > 12:
                position, speed = 24 - position, -speed
            if position < 0:
                position, speed = -position, -speed
        assert bounce(start, velocity, np.arange(60), room=12).tolist() == path


def test_a_digit_moves_whole_and_keeps_its_light():
    image = np.arange(1, 65).reshape(1, 1, 8, 8) / 64
    frames = WORLD.draw(image, np.array([[[11, 3]]]), np.array([[[2, -2]]]), steps=6)[0]
    assert corners(frames) == [[11, 3], [11, 1], [9, 1], [7, 3], [5, 5], [3, 7]]
    np.testing.assert_allclose(frames.sum((1, 2)), image.sum(), rtol=1e-6)
    for frame, (row, column) in zip(frames, corners(frames), strict=True):
        np.testing.assert_array_equal(frame[row : row + 8, column : column + 8], image[0, 0].astype("float32"))


def test_running_backwards_returns_to_the_start():
    """From the mirrored end: a start at step 25 of the unfolded path, with the velocity turned round."""
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(3, 2, 8, 8))
    start, velocity = rng.integers(13, size=(3, 2, 2)), rng.integers(-3, 4, size=(3, 2, 2))
    there = WORLD.draw(images, start, velocity, steps=26)
    end = bounce(start, velocity, 25, room=ROOM)
    arriving = end - bounce(start, velocity, 24, room=ROOM)
    inside = np.abs(arriving) == np.abs(velocity)  # where no bounce hides the last velocity
    assert inside.all((1, 2)).any()
    back = WORLD.draw(images, end, -arriving, steps=26)
    np.testing.assert_array_equal(back[inside.all((1, 2))], there[inside.all((1, 2)), ::-1])


def test_two_digits_superpose_by_the_brighter():
    rng = np.random.default_rng(2)
    images, start = rng.uniform(size=(4, 2, 8, 8)), rng.integers(13, size=(4, 2, 2))
    velocity = rng.integers(-3, 4, size=(4, 2, 2))
    both = WORLD.draw(images, start, velocity, steps=15)
    one = [WORLD.draw(images[:, [d]], start[:, [d]], velocity[:, [d]], steps=15) for d in (0, 1)]
    assert ((one[0] > 0) & (one[1] > 0)).any()  # they do meet
    np.testing.assert_array_equal(both, np.maximum(*one))


def test_the_best_possible_error_is_0():
    """The motion repeats after 2 * (size - 8) steps, so a past of that length gives every future step exactly."""
    frames = WORLD.batch(20, 60, seed=0)
    forecast = SeasonalPersistence(horizon=36, season=2 * ROOM)(frames[:, :24])
    torch.testing.assert_close(forecast, frames[:, 24:], atol=0, rtol=0)
    assert WORLD.optimal_rmse(3).tolist() == [0, 0, 0]


def test_all_starts_and_all_velocities_but_standing_still_occur():
    world = MovingDigits(size=12, digits=1, max_speed=2)
    world.images = np.ones((1, 8, 8), dtype="float32")
    frames = world.batch(10_000, 2, seed=0)[:, :, 0].numpy()
    everywhere = {(row, column) for row in range(5) for column in range(5)}
    starts = np.array(corners(frames[:, 0]))
    assert set(map(tuple, starts.tolist())) == everywhere
    from_the_middle = frames[(starts == 2).all(1), 1]
    assert set(map(tuple, corners(from_the_middle))) == everywhere - {(2, 2)}


def test_no_digit_is_in_two_parts():
    parts = {part: MovingDigits(part=part).images for part in ("train", "validation", "test")}
    assert [len(images) for images in parts.values()] == [1078, 360, 359]
    together = np.concatenate(list(parts.values()))
    np.testing.assert_array_equal(together * 16, load_digits().images)
    assert len(np.unique(together.reshape(-1, 64), axis=0)) == 1797  # not even as a twin image


def test_a_sequence_is_one_of_the_batch_and_the_seed_decides():
    field = WORLD.simulate(7, seed=5)
    assert field.dims == ("time", "channel", "y", "x") and field.shape == (7, 1, 20, 20)
    np.testing.assert_array_equal(field.values, WORLD.batch(1, 7, seed=5)[0])
    assert not torch.equal(WORLD.batch(2, 7, seed=5), WORLD.batch(2, 7, seed=6))
    assert float(field.min()) == 0 and 0.5 < float(field.max()) <= 1


@pytest.mark.parametrize("options", [{"size": 8}, {"digits": 0}, {"max_speed": 0}, {"size": 11, "max_speed": 3}])
def test_impossible_worlds_are_refused(options):
    with pytest.raises(ValueError, match="needs size > 8"):
        MovingDigits(**options)


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="part must be one of train, validation, test, got 'all'"):
        MovingDigits(part="all")


def test_without_scikit_learn_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="MovingDigits takes its digits from scikit-learn"):
        MovingDigits()
