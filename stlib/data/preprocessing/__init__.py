"""Preprocessing: outliers, gaps, time steps and grids, and tables for models that want them."""

from stlib.data.preprocessing.cleaning import hampel
from stlib.data.preprocessing.features import calendar_features, feature_table
from stlib.data.preprocessing.imputation import (
    ClimatologyFill,
    EOFFill,
    Filled,
    Imputed,
    NeighbourFill,
    TimeInterpolation,
    gaps_like_real,
    impute,
)
from stlib.data.preprocessing.resampling import regrid, to_step

__all__ = [
    "ClimatologyFill",
    "EOFFill",
    "Filled",
    "Imputed",
    "NeighbourFill",
    "TimeInterpolation",
    "calendar_features",
    "feature_table",
    "gaps_like_real",
    "hampel",
    "impute",
    "regrid",
    "to_step",
]
