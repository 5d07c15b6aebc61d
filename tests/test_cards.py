"""The baseline errors on the cards are those that the code computes today."""

import baselines
import pytest

from stlib.data import datasets


@pytest.mark.parametrize("name", ["storm", "nasa", "chicago", "co2"])
def test_baseline_errors_on_the_card_are_current(name):
    card = datasets.card(name)
    table = [line.split("|") for line in getattr(baselines, name)().splitlines() if line.startswith("|")]
    on_card = [line.split("|") for line in card[card.index(baselines.MARK) :].splitlines() if line.startswith("|")]
    assert len(table) > 5
    for row, stored in zip(table, on_card, strict=True):
        assert row[1:3] == stored[1:3]
        for value, printed in zip(row[3:-1], stored[3:-1], strict=True):
            if row is not table[0] and set(value) != {"-"}:
                assert float(value) == pytest.approx(float(printed), rel=0.011)  # one unit of the third digit
