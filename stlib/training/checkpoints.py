"""Checkpoints: tensors and plain numbers in one safetensors file, replaced in a single step."""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def write(path: str | Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write tensors and JSON-able facts to ``path`` so that a kill at any moment leaves the old file or the new one.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write(f"{folder.name}/a.safetensors", {"x": torch.ones(2)}, {"epoch": 1})
    >>> read(f"{folder.name}/a.safetensors")[1]
    {'epoch': 1}
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each tensor is copied: safetensors refuses memory shared between two names.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(own, {"facts": json.dumps(facts)})
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105 (tests kill the process here)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors (on the CPU) and the facts of a checkpoint. Raises OSError for a file that is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise OSError(f"{path} is not a checkpoint of this package or is damaged: {error}") from error


def flatten_optimizer(state: dict) -> tuple[dict[str, Tensor], dict]:
    """An optimizer's state_dict as named tensors and JSON-able facts."""
    tensors = {
        f"{index}.{name}": value if torch.is_tensor(value) else torch.tensor(value)
        for index, entry in state["state"].items()
        for name, value in entry.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def restore_optimizer(tensors: dict[str, Tensor], facts: dict) -> dict:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": facts["param_groups"]}
