import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stlib.data.windows import split
from stlib.data.worlds import AdvectionDiffusion
from stlib.models.linear import NLinear
from stlib.training import checkpoints
from stlib.training.fit import fit

PAST, HORIZON = 4, 2
FIELD = AdvectionDiffusion(size=4).simulate(200, seed=0)
HERE = Path(__file__).parent


def parts(field=FIELD):
    return split(field, past=PAST, horizon=HORIZON)


def holes():
    """Missing values make the two halves of a batch unequal, and 115 windows in batches of 6 leave a last one of 1."""
    observed = np.random.default_rng(1).random(FIELD.shape) > 0.5
    observed[::2] = True  # so that no past is missing as a whole
    return FIELD.where(observed)


class Network(nn.Module):
    """Small, with dropout: a resumed run must draw the same masks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.drop, self.out = nn.Linear(PAST, 8), nn.Dropout(0.2), nn.Linear(8, HORIZON)

    def forward(self, past):
        return self.out(self.drop(self.hidden(past.movedim(1, -1)).relu())).movedim(-1, 1)


def absolute_error(forecast, truth):
    return (forecast - truth).abs()


def stretched(batch, generator, *, by):
    factor = 1 + by * torch.rand(len(batch.past), 1, 1, 1, 1, generator=generator)
    return batch._replace(past=factor * batch.past, future=factor * batch.future)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_reaches_the_least_squares_optimum():
    p = parts()
    closed = NLinear(past=PAST, horizon=HORIZON).fit(p.train.series, p.validation.series, penalties=(1e-9,))
    batch = p.train[:]
    optimum = (closed(batch.past) - batch.future).square().mean().item()
    torch.manual_seed(0)
    model = NLinear(past=PAST, horizon=HORIZON)
    fit(model, p.train, p.validation, epochs=80, learning_rate=0.03, weight_decay=0, patience=80)
    reached = (model(batch.past) - batch.future).square().mean().item()
    assert optimum * (1 - 1e-4) <= reached < 1.01 * optimum


def test_the_loss_is_the_mean_over_observed_values_whatever_the_batches():
    p = parts(holes())
    for batch_size in (7, 1000):
        model = NLinear(past=PAST, horizon=HORIZON)
        batch = p.validation[:]
        history = fit(model, p.train, p.validation, epochs=1, batch_size=batch_size)
        expected = (model(batch.past) - batch.future).square().nanmean().item()
        assert history["validation"].iloc[0] == pytest.approx(expected, rel=1e-5)


def test_one_step_is_adamw_on_the_observed_values():
    p = parts(holes())
    torch.manual_seed(0)
    model, by_hand = NLinear(past=PAST, horizon=HORIZON), NLinear(past=PAST, horizon=HORIZON)
    by_hand.load_state_dict(model.state_dict())
    fit(model, p.train, p.validation, epochs=1, batch_size=1000, learning_rate=0.01, patience=1)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01, weight_decay=1e-4)
    batch = p.train[:]
    observed = ~batch.future.isnan()
    (by_hand(batch.past)[observed] - batch.future[observed]).square().mean().backward()
    nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()
    torch.testing.assert_close(weights(model), weights(by_hand), rtol=1e-5, atol=1e-7)


def test_the_best_epoch_is_restored_and_training_stops_early():
    p = parts()
    model = Network()
    history = fit(model, p.train, p.validation, epochs=200, learning_rate=0.05, patience=4, schedule="plateau")
    assert len(history) < 200
    best = history["validation"].idxmin()
    assert len(history) - best == 4 and history["best"][best]
    batch = p.validation[:]
    model.eval()
    error = (model(batch.past) - batch.future).square().mean().item()
    assert error == pytest.approx(history["validation"].min(), rel=1e-5)


def test_schedules_lower_the_rate():
    cosine = fit(Network(), parts().train, parts().validation, epochs=4, learning_rate=0.01)["learning_rate"]
    np.testing.assert_allclose(cosine, 0.01 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2, rtol=1e-6)
    plateau = fit(
        NLinear(past=PAST, horizon=HORIZON),
        parts().train,
        parts().validation,
        epochs=60,
        learning_rate=0.5,
        schedule="plateau",
        patience=60,
    )["learning_rate"]
    assert plateau.iloc[-1] < 0.5 * 0.31


def test_same_seed_same_weights_and_the_callers_random_numbers_are_left_alone():
    a, b, c = Network(), Network(), Network()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for model, seed in ((a, 1), (b, 1), (c, 2)):
        fit(model, parts().train, parts().validation, epochs=2, seed=seed)
    assert torch.rand(1) == expected
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))


def test_clipping_bounds_the_step():
    p = parts()
    calm, wild = Network(), Network()
    fit(calm, p.train, p.validation, epochs=1, clip=1e-9, weight_decay=0)
    fit(wild, p.train, p.validation, epochs=1, weight_decay=0)
    start = weights(Network())
    assert (weights(calm) - start).abs().max() < 0.2 * (weights(wild) - start).abs().max()


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, {here!r})
from test_fit import Network, parts, weights
from stlib.training import checkpoints
from stlib.training.fit import fit

class Killer(Network):
    def forward(self, past):
        Killer.calls += 1
        if Killer.calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(past)

Killer.calls = 0
fit(Killer(), parts().train, parts().validation, epochs=6, schedule=sys.argv[3], checkpoint=sys.argv[1])
"""


@pytest.mark.parametrize(("call", "schedule"), [(3, "cosine"), (17, "cosine"), (24, "plateau")])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, call, schedule):
    path = tmp_path / "run.safetensors"
    script = KILLED.format(here=str(HERE))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(call), schedule], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -9
    assert path.exists() == (call > 5)
    assert [f.name for f in tmp_path.iterdir()] in ([], ["run.safetensors"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    resumed, unbroken = Network(), Network()
    history = fit(resumed, parts().train, parts().validation, epochs=6, schedule=schedule, checkpoint=path)
    expected = fit(unbroken, parts().train, parts().validation, epochs=6, schedule=schedule)
    torch.set_num_threads(threads)
    assert torch.equal(weights(resumed), weights(unbroken))
    assert history.equals(expected)


def test_a_finished_run_is_not_repeated_and_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    first, again = Network(), Network()
    fit(first, parts().train, parts().validation, epochs=3, checkpoint=path)
    before = path.stat().st_mtime_ns
    fit(again, parts().train, parts().validation, epochs=3, checkpoint=path)
    assert torch.equal(weights(first), weights(again)) and path.stat().st_mtime_ns == before
    other = [
        ({"epochs": 4}, FIELD, "epochs"),
        ({}, FIELD + 1, "data"),
        ({"loss": absolute_error}, FIELD, "loss, augment"),
        ({"augment": partial(stretched, by=2.0)}, FIELD, "loss, augment"),
        ({"seed": 1}, FIELD, "schedule, patience, seed"),
    ]
    for options, field, difference in other:
        with pytest.raises(ValueError, match=f"belongs to a run that differs in {difference}: delete it"):
            fit(again, parts(field).train, parts().validation, checkpoint=path, **{"epochs": 3} | options)
    dropping = Network()
    dropping.drop = torch.nn.Dropout(0.5)
    with pytest.raises(ValueError, match="belongs to a run that differs in network: delete it"):
        fit(dropping, parts().train, parts().validation, epochs=3, checkpoint=path)
    path.write_bytes(b"damaged")
    with pytest.raises(OSError, match="not a checkpoint"):
        fit(again, parts().train, parts().validation, epochs=3, checkpoint=path)


TWO = """
import json, sys
from functools import partial
sys.path.insert(0, {here!r})
from test_fit import holes, parts, stretched
from stlib.models.linear import NLinear
from stlib.training.fit import fit
import torch
torch.manual_seed(0)
model = NLinear(past=4, horizon=2)
p = parts(holes())
augment = partial(stretched, by=0.5)
history = fit(model, p.train, p.validation, epochs=3, batch_size=6, learning_rate=0.01, augment=augment)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
if rank == 0:
    seen = {{"size": size, "history": history.to_dict("list"), "weight": model.map.weight.flatten().tolist()}}
    json.dump(seen, open(sys.argv[1], "w"))
"""


def test_two_processes_give_the_loss_of_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(here=str(HERE)))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    for processes in (1, 2):
        # accelerate's own CPU launcher wants MPI; the one for several GPUs starts CPU processes as well.
        several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
        command = [
            *launch,
            *several,
            "--num_processes",
            str(processes),
            str(script),
            str(tmp_path / f"{processes}.json"),
        ]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert (one["size"], two["size"]) == (1, 2)
    np.testing.assert_allclose(one["history"]["train"], two["history"]["train"], rtol=1e-5)
    np.testing.assert_allclose(one["history"]["validation"], two["history"]["validation"], rtol=1e-5)
    np.testing.assert_allclose(one["weight"], two["weight"], rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_a_number_names_the_epoch_and_the_cause():
    with pytest.raises(FloatingPointError, match="epoch 1; likely cause: the past holds missing values"):
        fit(Network(), parts(holes()).train, parts(holes()).validation, epochs=3)

    with pytest.raises(FloatingPointError, match=r"epoch 1; likely cause: the learning rate 1e\+25 is too large"):
        fit(Network(), parts().train, parts().validation, epochs=3, learning_rate=1e25)
    with pytest.raises(FloatingPointError, match="the training data hold infinite values"):
        fit(Network(), parts(FIELD * np.inf).train, parts().validation, epochs=3)


def test_a_nan_run_leaves_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"

    class Later(Network):
        calls = 0

        def forward(self, past):
            self.calls += 1
            return super().forward(past) * (float("nan") if self.calls > 12 else 1)

    with pytest.raises(FloatingPointError, match="epoch 3"):
        fit(Later(), parts().train, parts().validation, epochs=9, checkpoint=path)
    tensors, facts = checkpoints.read(path)
    assert len(facts["history"]) == 2 and all(value.isfinite().all() for value in tensors.values())


def test_the_history_goes_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(Network(), parts().train, parts().validation, epochs=3, tensorboard=tmp_path)
    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent)).Reload()
    np.testing.assert_allclose([e.value for e in events.Scalars("validation")], history["validation"], rtol=1e-6)


def test_wrong_parts_and_schedules_are_refused(capsys):
    p = parts()
    with pytest.raises(ValueError, match="needs the train and the validation part, got 'train' and 'test'"):
        fit(Network(), p.train, p.test)
    with pytest.raises(ValueError, match='"cosine" or "plateau", got \'step\''):
        fit(Network(), p.train, p.validation, schedule="step")
    fit(Network(), p.train, p.validation, epochs=1)
    assert capsys.readouterr() == ("", "")  # silent off a terminal


class Interrupted(Network):
    """Stops after so many batches, as a power cut would."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def forward(self, past):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(past)


def test_early_stopping_is_the_same_after_many_interruptions(tmp_path):
    """The patience used up, the best epoch and the plateau's memory survive: each piece runs for one or two epochs."""
    options = {"epochs": 40, "learning_rate": 0.05, "patience": 3, "schedule": "plateau"}
    unbroken = Network()
    expected = fit(unbroken, parts().train, parts().validation, **options)
    assert 5 < len(expected) < 40
    for _ in range(60):
        model = Interrupted(11)
        try:
            history = fit(model, parts().train, parts().validation, checkpoint=tmp_path / "run.safetensors", **options)
            break
        except KeyboardInterrupt:
            continue
    assert history.equals(expected) and torch.equal(weights(model), weights(unbroken))
    assert not model.training


def test_every_epoch_has_an_order_and_a_dropout_of_its_own():
    seen = []

    class Watched(Network):
        def forward(self, past):
            forecast = super().forward(past)
            if self.training:
                seen.append((past[0, 0, 0, 0, 0].item(), self.drop(torch.ones(50)).count_nonzero().item()))
            return forecast

    p = parts()
    batches = len(list(p.train.batches(32)))
    fit(Watched(), p.train, p.validation, epochs=3)
    firsts = seen[::batches]
    assert len({first for first, _ in firsts}) == 3 and len({dropped for _, dropped in seen}) > 1
    in_order = p.train[:].past[::32, 0, 0, 0, 0].tolist()
    assert [first for first, _ in seen[:batches]] != in_order


def test_augmentation_changes_training_batches_only_and_keeps_the_calendar():
    class Watched(NLinear):
        def forward(self, past, calendar):
            seen.append((self.training, past.abs().max().item(), calendar))
            return super().forward(past)

    seen, p = [], parts(FIELD.assign_coords(time=pd.date_range("2000", periods=len(FIELD))))
    fit(Watched(past=PAST, horizon=HORIZON), p.train, p.validation, epochs=1, batch_size=1000)
    plain = seen.copy()
    seen.clear()
    options = {"epochs": 1, "batch_size": 1000, "augment": partial(stretched, by=1.0)}
    fit(Watched(past=PAST, horizon=HORIZON), p.train, p.validation, **options)
    assert [training for training, _, _ in seen] == [True, False]
    assert seen[0][1] > plain[0][1] and seen[1][1] == plain[1][1]
    assert torch.equal(seen[0][2], plain[0][2])


def test_augmentation_changes_the_truth_as_well():
    def larger(batch, generator):
        return batch._replace(future=batch.future + 100)

    p = parts()
    history = fit(NLinear(past=PAST, horizon=HORIZON), p.train, p.validation, epochs=1, augment=larger)
    assert history["train"].iloc[0] > 9_000 > 100 > history["validation"].iloc[0]


def test_augmentation_draws_numbers_of_its_own_for_every_batch_epoch_and_seed():
    def watched(batch, generator):
        draws.append(torch.rand(4, generator=generator).tolist())
        return batch

    draws, p = [], parts()
    for seed in (0, 1):
        fit(NLinear(past=PAST, horizon=HORIZON), p.train, p.validation, epochs=3, augment=watched, seed=seed)
    batches = len(list(p.train.batches(32)))
    assert len(draws) == len({tuple(numbers) for numbers in draws}) == 2 * 3 * batches
    again, draws = draws, []
    fit(NLinear(past=PAST, horizon=HORIZON), p.train, p.validation, epochs=3, augment=watched, seed=0)
    assert draws == again[: 3 * batches]
    # Neither those of the order of the windows nor those of dropout.
    stream = torch.rand(1000, generator=torch.Generator().manual_seed(0)).tolist()
    assert not set(draws[0]) & set(stream)


def test_an_augmentation_that_spoils_the_past_or_returns_no_batch_is_named():
    p = parts()

    def hides(batch, generator):
        return batch._replace(past=torch.full_like(batch.past, torch.nan))

    with pytest.raises(FloatingPointError, match="likely cause: the augmentation makes values of the past missing"):
        fit(Network(), p.train, p.validation, epochs=2, augment=hides)
    for wrong in (lambda batch, generator: None, lambda batch, generator: tuple(batch)):
        with pytest.raises(ValueError, match="augment must return a Batch"):
            fit(Network(), p.train, p.validation, epochs=1, augment=wrong)


def test_a_checkpoint_tells_augmentations_apart_and_refuses_those_without_a_name(tmp_path):
    p, path = parts(), tmp_path / "run.safetensors"
    by = torch.tensor([0.10001])
    fit(Network(), p.train, p.validation, epochs=2, augment=partial(stretched, by=by), checkpoint=path)
    fit(Network(), p.train, p.validation, epochs=2, augment=partial(stretched, by=by.clone()), checkpoint=path)
    with pytest.raises(ValueError, match="differs in loss, augment"):
        fit(Network(), p.train, p.validation, epochs=2, augment=partial(stretched, by=by + 1e-5), checkpoint=path)
    for nameless in (lambda batch, generator: batch, partial(lambda batch, generator, by: batch, by=1)):
        with pytest.raises(ValueError, match="needs to know its augment again"):
            fit(Network(), p.train, p.validation, epochs=2, augment=nameless, checkpoint=tmp_path / "other")


def test_a_run_with_augmentation_resumes_to_the_same_weights(tmp_path):
    p, path = parts(), tmp_path / "run.safetensors"

    def stops_in_epoch_three(batch, generator, *, by):
        stops_in_epoch_three.calls += 1
        if stops_in_epoch_three.calls > 2 * batches:
            raise KeyboardInterrupt
        return stretched(batch, generator, by=by)

    stops_in_epoch_three.calls, batches = 0, len(list(p.train.batches(32)))
    stops_in_epoch_three.__qualname__ = "stretched"
    with pytest.raises(KeyboardInterrupt):
        fit(Network(), p.train, p.validation, epochs=4, augment=partial(stops_in_epoch_three, by=1.0), checkpoint=path)
    resumed, unbroken = Network(), Network()
    fit(resumed, p.train, p.validation, epochs=4, augment=partial(stretched, by=1.0), checkpoint=path)
    fit(unbroken, p.train, p.validation, epochs=4, augment=partial(stretched, by=1.0))
    assert torch.equal(weights(resumed), weights(unbroken))


def test_cells_that_are_never_observed_do_not_spoil_the_others():
    masked = FIELD.where((FIELD.x > 0) | (FIELD.y > 0))
    whole, part = (split(field, past=PAST, horizon=HORIZON) for field in (FIELD, masked))
    model = NLinear(past=PAST, horizon=HORIZON)
    history = fit(model, part.train, part.validation, epochs=3)
    assert weights(model).isfinite().all() and history["train"].iloc[-1] < history["train"].iloc[0]
    forecast = model(part.test[:].past)
    assert forecast[..., 0, 0].isnan().all() and forecast[..., 1:, :].isfinite().all()
    torch.testing.assert_close(forecast[..., 1:, :], model(whole.test[:].past)[..., 1:, :])


def test_a_loss_or_a_network_of_another_shape_is_refused():
    p = parts()
    with pytest.raises(ValueError, match=r"the loss \(one error a value, not their mean\) has shape \(\)"):
        fit(Network(), p.train, p.validation, loss=nn.functional.mse_loss)
    with pytest.raises(
        ValueError, match=r"the forecast has shape \(32, 1, 1, 4, 4\), the windows need \(32, 2, 1, 4, 4\)"
    ):
        fit(NLinear(past=PAST, horizon=1), p.train, p.validation)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        fit(Network(), p.train, p.validation, epochs=0)


def test_a_validation_part_without_truth_is_named():
    with pytest.raises(FloatingPointError, match="the validation part has no observed target"):
        empty = FIELD.where((FIELD.time < 110) | (FIELD.time > 170))
        fit(NLinear(past=PAST, horizon=HORIZON), parts().train, parts(empty).validation, epochs=1)
