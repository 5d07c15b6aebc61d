"""Training: one loop, from windows to a fitted network, short enough to read in one sitting."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from tqdm import tqdm

from stlib._forward import asks_for
from stlib.data.windows import Batch, Windows
from stlib.training import checkpoints


def squared_error(forecast: Tensor, truth: Tensor) -> Tensor:
    """The error of each value, squared; `fit` averages it over what was observed."""
    return (forecast - truth).square()


def fit(
    model: nn.Module,
    train: Windows,
    validation: Windows,
    *,
    epochs: int = 50,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    schedule: str = "cosine",
    clip: float = 1.0,
    patience: int = 10,
    loss: Callable[..., Tensor] = squared_error,
    augment: Callable[[Batch, torch.Generator], Batch] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    tensorboard: str | Path | None = None,
) -> pd.DataFrame:
    r"""Train a forecaster with AdamW; afterwards it holds the weights of its best epoch on the validation windows.

    The loss is averaged over observed values only, :math:`L = \sum_{i \in \mathrm{obs}} \ell_i / |\mathrm{obs}|`, on as
    many devices as ``accelerate launch`` gives: each takes its share of every batch, and the sum is the same. On a GPU
    the forward pass runs in bfloat16. ``loss`` takes a forecast and the truth ``(B, horizon, C, *S)`` and returns the
    error of each value. ``augment`` changes each training batch before it is used, as the functions of
    `stlib.data.augmentation` do; validation windows stay as they are. Training stops when ``patience`` epochs in a row
    have not improved on the best one. A model whose ``forward`` has a parameter named ``truth`` is given the future
    there while it trains (scheduled sampling, as `stlib.models.recursive.Recursive` does it), and only then.

    With ``checkpoint`` (a file name), each finished epoch is saved there, and the same call resumes from it after a
    crash: every epoch draws its random numbers from ``seed`` and its own number, so the weights come out the same.

    Returns the history: a row for each epoch with the two losses, the learning rate and whether it was the best so far.
    Raises ValueError for an unknown schedule, windows of the wrong part, a checkpoint of a different run, a loss or
    augmentation without a name of its own (a lambda) in a run with a checkpoint, and an augmentation that returns no
    batch; FloatingPointError when the loss is not a number, with the epoch and the likely cause.
    Source: AdamW, Loshchilov & Hutter (2019), doi:10.48550/arXiv.1711.05101.

    >>> from stlib.data import windows, worlds
    >>> from stlib.models.linear import NLinear
    >>> parts = windows.split(worlds.AdvectionDiffusion(size=4).simulate(80, seed=0), past=4, horizon=2)
    >>> history = fit(NLinear(past=4, horizon=2), parts.train, parts.validation, epochs=3)
    >>> len(history)
    3
    """
    if train.part != "train" or validation.part != "validation":
        raise ValueError(f"fit needs the train and the validation part, got {train.part!r} and {validation.part!r}")
    if schedule not in ("cosine", "plateau"):
        raise ValueError(f'schedule must be "cosine" or "plateau", got {schedule!r}')
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    on_gpu = train.field.device.type == "cuda"
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier fit may have used another device
    accelerator = Accelerator(
        mixed_precision="bf16" if on_gpu else "no",
        cpu=not on_gpu,
        log_with="tensorboard" if tensorboard else None,
        project_dir=tensorboard,
    )
    if tensorboard:
        accelerator.init_trackers("fit")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    if schedule == "cosine":
        scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
    else:
        scheduler = ReduceLROnPlateau(optimizer, patience=max(patience // 3, 1), factor=0.3)
    network, optimizer = accelerator.prepare(model, optimizer)

    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "rate, decay, clip": [float(learning_rate), float(weight_decay), float(clip)],
        "schedule, patience, seed": [schedule, patience, seed],
        "loss, augment": [_name(loss), _name(augment)],
        "weights": {name: list(value.shape) for name, value in model.state_dict().items()},
        "network": [repr(part) for part in model.children()],  # what has no weight counts too, such as dropout
    }
    if checkpoint is not None:
        for what, function in (("loss", loss), ("augment", augment)):
            if re.search(r"<lambda>|<locals>|0x", str(_name(function))):
                raise ValueError(
                    f"a run with a checkpoint needs to know its {what} again: give a function defined in a module, or "
                    f"functools.partial of one, not {_name(function)}"
                )
        settings["data"] = [_digest(train), _digest(validation)]
    run = _Run(checkpoint, settings, model, optimizer, scheduler)
    # With disable=None the bar shows on a terminal only: notebooks and log files stay silent.
    bar = tqdm(range(len(run.history), epochs), disable=None if accelerator.is_main_process else True)
    for epoch in bar:
        if run.waited >= patience:
            break
        with torch.random.fork_rng(devices=[accelerator.device] if on_gpu else []):
            torch.manual_seed(seed + 1_000_003 * epoch + accelerator.process_index)
            order = torch.Generator().manual_seed(seed + 1_000_003 * epoch)  # the same on every device
            shuffled = train.batches(batch_size, shuffle=True, generator=order)
            if augment is not None:
                # Numbers of its own: those of the order and of dropout start from the same seed.
                draws = torch.Generator().manual_seed(seed + 1_000_003 * epoch + 500_009)
                shuffled = _augmented(shuffled, augment, draws)
            train_loss = _epoch(network, model, shuffled, loss, accelerator, optimizer, clip)
        with torch.no_grad():
            validation_loss = _epoch(network, model, validation.batches(batch_size), loss, accelerator)
        if not math.isfinite(train_loss + validation_loss):
            cause = _why_not_finite(train, validation, run.history, learning_rate, augment)
            raise FloatingPointError(f"the loss is not a number in epoch {epoch + 1}; likely cause: {cause}")
        rate = optimizer.param_groups[0]["lr"]
        scheduler.step(*([validation_loss] if schedule == "plateau" else []))
        run.finish_epoch(train_loss, validation_loss, rate, write=accelerator.is_main_process)
        bar.set_postfix_str(f"validation {validation_loss:.4g}")
        if tensorboard:
            accelerator.log({"train": train_loss, "validation": validation_loss, "learning_rate": rate}, step=epoch)
    for tracker in accelerator.trackers:
        tracker.finish()  # end_training would also end the process group, and with it the next fit
    accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # else the model would stay in bfloat16
    model.load_state_dict(run.best_weights)
    model.eval()
    return pd.DataFrame(run.history).set_index("epoch")


def _epoch(network, model, batches, loss, accelerator, optimizer=None, clip=None) -> float:
    """The mean loss over every observed value; with an optimizer, one step after each batch."""
    network.train(optimizer is not None)
    told = optimizer is not None and asks_for(model, "truth")
    totals = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for batch in batches:
        inputs, future, weight = _share(batch.inputs(model), batch.future, accelerator)
        observed = ~future.isnan()
        with accelerator.autocast():
            forecast = network(*inputs, truth=future) if told else network(*inputs)
        if torch.is_tensor(forecast):
            _check_shape("the forecast", forecast, future)
            forecast = torch.where(observed, forecast, 0.0)  # nor may what is not asked for spoil the gradient
        errors = loss(forecast, torch.where(observed, future, 0.0))
        _check_shape("the loss (one error a value, not their mean)", errors, future)
        total = torch.where(observed, errors, 0.0).sum() * weight
        count = accelerator.reduce(observed.sum() * weight, reduction="sum")
        if optimizer is not None:
            optimizer.zero_grad()
            # Devices average their gradients; times their number, that is the gradient of the sum.
            accelerator.backward(total / count.clamp_min(1) * accelerator.num_processes)
            accelerator.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
        totals += torch.stack([accelerator.reduce(total.detach(), reduction="sum"), count]).double()
    return (totals[0] / totals[1]).item()


def _share(inputs, future, accelerator):
    """This device's part of a batch. A device left without a window takes one and gives it no weight."""
    rows = torch.arange(len(future), device=future.device).tensor_split(accelerator.num_processes)
    mine = rows[accelerator.process_index]
    weight = min(len(mine), 1)
    mine = mine if weight else rows[0][:1]
    device = accelerator.device
    inputs = [None if x is None else x[mine].to(device, non_blocking=True) for x in inputs]
    return inputs, future[mine].to(device, non_blocking=True), weight


def _check_shape(what, given, future):
    if given.shape != future.shape:
        raise ValueError(f"{what} has shape {tuple(given.shape)}, the windows need {tuple(future.shape)}")


def _augmented(batches, augment, draws):
    for batch in batches:
        changed = augment(batch, draws)
        if not isinstance(changed, Batch) or len(changed.past) == 0:
            raise ValueError(f"augment must return a Batch with at least one window, got {type(changed).__name__}")
        yield changed


def _name(function) -> str | list:
    """What tells a function from another in a checkpoint: its name, and what `functools.partial` filled in."""
    if isinstance(function, partial):
        filled_in = [*function.args, *sorted(function.keywords.items())]
        return [_name(function.func), json.loads(json.dumps(filled_in, default=_as_plain))]
    return getattr(function, "__qualname__", repr(function))


def _as_plain(value):
    return value.tolist() if isinstance(value, Tensor) else repr(value)


def _digest(windows: Windows) -> str:
    content = hashlib.sha256(windows.series.cpu().numpy().tobytes())
    if windows.regressors is not None:
        content.update(windows.regressors.cpu().numpy().tobytes())
    content.update(f"{windows.past} {windows.horizon} {len(windows)}".encode())
    return content.hexdigest()[:16]


class _Run:
    """What has to survive a kill: weights, the best weights, the optimizer, the schedule and the history."""

    def __init__(self, path, settings, model, optimizer, scheduler):
        self.path, self.settings = path, settings
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.history, self.waited, self.best = [], 0, math.inf
        self.best_weights = _copy(model)
        if path is not None and Path(path).exists():
            self._resume()

    def finish_epoch(self, train_loss: float, validation_loss: float, rate: float, *, write: bool) -> None:
        better = validation_loss < self.best
        if better:
            self.best, self.best_weights, self.waited = validation_loss, _copy(self.model), 0
        else:
            self.waited += 1
        row = dict(train=train_loss, validation=validation_loss, learning_rate=rate, best=better)
        self.history.append({"epoch": len(self.history) + 1} | row)
        if self.path is not None and write:
            moments, groups = checkpoints.flatten_optimizer(self.optimizer.state_dict())
            parts = {"model": self.model.state_dict(), "best": self.best_weights, "optimizer": moments}
            tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
            facts = {"settings": self.settings, "history": self.history, "waited": self.waited, "optimizer": groups}
            checkpoints.write(self.path, tensors, facts | {"scheduler": self.scheduler.state_dict()})

    def _resume(self) -> None:
        tensors, facts = checkpoints.read(self.path)
        theirs = facts.get("settings", {})
        if theirs != self.settings:
            differ = [name for name in self.settings if theirs.get(name) != self.settings[name]]
            raise ValueError(
                f"{self.path} belongs to a run that differs in {', '.join(differ)}: delete it or name another file"
            )
        parts = {"model": {}, "best": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = value
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(checkpoints.restore_optimizer(parts["optimizer"], facts["optimizer"]))
        self.scheduler.load_state_dict(facts["scheduler"])
        self.best_weights, self.history, self.waited = parts["best"], facts["history"], facts["waited"]
        self.best = min(row["validation"] for row in self.history)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _why_not_finite(train, validation, history, learning_rate, augment) -> str:
    targets = torch.cat([batch.future.flatten(1) for batch in validation.batches(256)])
    if bool(train.series.isinf().any()):
        cause = "the training data hold infinite values"
    elif bool(targets.isnan().all()):
        cause = "the validation part has no observed target"
    elif not history and bool(train.series.isnan().any()):
        cause = "the past holds missing values (NaN) and the network passes them on: fill them or mask them"
    elif augment is not None and _spoils(augment, train[: min(len(train), 256)]):
        cause = "the augmentation makes values of the past missing or infinite"
    else:
        cause = f"the learning rate {learning_rate:g} is too large; try a tenth of it, or scale the data first"
    return cause


def _spoils(augment, batch: Batch) -> bool:
    changed = augment(batch, torch.Generator().manual_seed(0))
    return bool(batch.past.isfinite().all()) and not bool(changed.past.isfinite().all())
