"""The looks of the book's lines: seen on white, and told apart with any eyes and in grey print."""

from itertools import combinations

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE
from matplotlib.colors import to_rgb

from stlib.plotting import LOOKS

COLOUR_BLIND = ["protanomaly", "deuteranomaly", "tritanomaly"]  # at severity 100 nothing of one kind of cone is left
VISIONS = ["all colours", "grey", *COLOUR_BLIND]
APART = 10  # units of CAM02-UCS, of which one is just seen side by side


def luminance(colour: str) -> float:
    """Relative luminance, 0 for black and 1 for white, as WCAG 2 defines it."""
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast_on_white(colour: str) -> float:
    return 1.05 / (luminance(colour) + 0.05)


def seen(colour: str, vision: str) -> np.ndarray:
    """The colour as sRGB in 0..1 for such eyes; colour blindness after Machado et al. (2009)."""
    rgb = np.array(to_rgb(colour))
    if vision == "grey":
        lightness = cspace_convert(rgb, "sRGB1", "CIELab")[0]
        rgb = cspace_convert([lightness, 0, 0], "CIELab", "sRGB1")
    elif vision in COLOUR_BLIND:
        rgb = cspace_convert(rgb, {"name": "sRGB1+CVD", "cvd_type": vision, "severity": 100}, "sRGB1")
    return np.clip(rgb, 0, 1)


def distance(first: str, second: str) -> float:
    """How far apart two colours are for the eyes that tell them apart worst."""
    return min(float(deltaE(seen(first, vision), seen(second, vision))) for vision in VISIONS)


@pytest.mark.parametrize("name", LOOKS)
def test_line_is_seen_on_white(name):
    colour, _, marker = LOOKS[name]
    contrast = contrast_on_white(colour)
    # Two light colours of Okabe & Ito reach 2.2; markers of four points carry those lines.
    assert contrast >= 3 or (contrast >= 2 and marker), f"{name}: {contrast:.2f}"


@pytest.mark.parametrize(("first", "second"), list(combinations(LOOKS, 2)))
def test_two_lines_are_told_apart(first, second):
    (colour, *strokes), (other, *others) = LOOKS[first], LOOKS[second]
    assert strokes != others or distance(colour, other) >= APART


def test_contrast_is_the_one_of_wcag():
    assert contrast_on_white("#000000") == pytest.approx(21)
    assert contrast_on_white("#ffffff") == pytest.approx(1)
    assert contrast_on_white("#767676") == pytest.approx(4.54, abs=0.005)  # the lightest grey that text may have


def test_red_and_green_are_one_colour_for_those_who_lack_red_or_green():
    red, green = "#a00000", "#4a5200"
    apart = {vision: float(deltaE(seen(red, vision), seen(green, vision))) for vision in VISIONS}
    assert apart["all colours"] > 30 and apart["tritanomaly"] > 30
    assert min(apart["protanomaly"], apart["deuteranomaly"]) < APART
    assert distance(red, green) < APART < distance("#000000", "#E69F00")
