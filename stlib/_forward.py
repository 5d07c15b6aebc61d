"""What a network's forward asks for, also of one that is compiled or spread over devices."""

import inspect

from torch import nn


def arguments(model: nn.Module) -> list[inspect.Parameter]:
    """The arguments of ``model.forward``, without self.

    >>> from stlib.models.baselines import Persistence
    >>> [argument.name for argument in arguments(Persistence(horizon=2))]
    ['past']
    """
    inner = getattr(model, "_orig_mod", getattr(model, "module", model))
    return list(inspect.signature(inner.forward).parameters.values())


def asks_for(model: nn.Module, name: str) -> bool:
    return any(argument.name == name for argument in arguments(model))
