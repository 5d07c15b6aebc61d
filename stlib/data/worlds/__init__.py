"""Worlds: made-up data whose best possible forecast is known, so that a model's distance from it can be measured."""

from stlib.data.worlds.advection import AdvectionDiffusion
from stlib.data.worlds.digits import MovingDigits
from stlib.data.worlds.drifting import Drifting
from stlib.data.worlds.graph import GraphDiffusion
from stlib.data.worlds.lorenz import Lorenz96
from stlib.data.worlds.switching import RegimeSwitching

__all__ = ["AdvectionDiffusion", "Drifting", "GraphDiffusion", "Lorenz96", "MovingDigits", "RegimeSwitching"]
