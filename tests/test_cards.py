"""The baseline errors on the cards are those that the code computes today."""

import baselines
import pytest

from stlib.data import datasets

MADE = ["storm", "nasa", "chicago", "co2", "tropical-winds", "elnino", "stage4", "measles", "us-income", "nyc-flights"]
MADE += ["nyc-airports", "sunspots", "stocks", "dengue", "a1b", "e1"]


@pytest.mark.parametrize("name", MADE)
def test_baseline_errors_on_the_card_are_current(name):
    card = datasets.card(name)
    table = [line.split("|") for line in baselines.MADE[name]().splitlines() if line.startswith("|")]
    on_card = [line.split("|") for line in card[card.index(baselines.MARK) :].splitlines() if line.startswith("|")]
    assert len(table) > 5
    for row, stored in zip(table, on_card, strict=True):
        assert row[1:3] == stored[1:3]
        for value, printed in zip(row[3:-1], stored[3:-1], strict=True):
            if row is not table[0] and set(value) != {"-"}:
                assert float(value) == pytest.approx(float(printed), rel=0.011)  # one unit of the third digit


def test_only_events_and_tracks_have_no_baselines():
    without = [name for name in datasets.available().index if baselines.MARK not in datasets.card(name)]
    assert without == ["atlantic-storms", "metr-la", "pems-bay", "ridgecrest"]
    for name in ("atlantic-storms", "ridgecrest"):
        assert "None. " in datasets.card(name).split("## Baseline errors")[1]
