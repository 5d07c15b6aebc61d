"""Buffers for what a statistical model estimates: empty until it is fitted or loads the state of another one."""

import torch
from torch import Tensor, nn


def reserve(model: nn.Module, names: tuple[str, ...], settings: str = "") -> None:
    """Register empty buffers that take the shapes of any state that is loaded.

    ``settings`` says in words what the estimates mean. It is part of the state, and a state of other settings is
    refused with a ValueError.

    >>> class Mean(nn.Module):
    ...     def __init__(self, kind):
    ...         super().__init__()
    ...         reserve(self, ("mean",), f"kind={kind}")
    >>> fitted, fresh = Mean("plain"), Mean("plain")
    >>> fitted.mean = torch.tensor([3.0, 4.0])
    >>> fresh.load_state_dict(fitted.state_dict()), fresh.mean
    (<All keys matched successfully>, tensor([3., 4.]))
    """
    for name in names:
        model.register_buffer(name, torch.empty(0))
    model._reserved = names
    if settings:
        model.register_buffer("settings", torch.tensor(list(settings.encode()), dtype=torch.uint8))
    model.register_load_state_dict_pre_hook(_take_shapes)


def unfitted(estimate: Tensor) -> bool:
    """Whether a reserved buffer is still empty; an estimate has a dim for each of its channels and places."""
    return estimate.shape == (0,)


def _take_shapes(model: nn.Module, state: dict, prefix: str, *_: object) -> None:
    given = state.get(f"{prefix}settings")
    if given is not None and not torch.equal(given.cpu(), model.settings.cpu()):
        own, other = (bytes(text.tolist()).decode() for text in (model.settings, given))
        raise ValueError(f"the state loaded is of a {type(model).__name__} with {other}, this one has {own}")
    for name in model._reserved:
        value = state.get(prefix + name)
        if value is not None:
            setattr(model, name, torch.empty_like(value, device=getattr(model, name).device))
