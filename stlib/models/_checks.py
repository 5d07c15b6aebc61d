"""Checks that several networks share."""


def check_positive(**sizes: int) -> None:
    """Raise ValueError for a size below 1, by name.

    >>> check_positive(hidden=8, layers=0)
    Traceback (most recent call last):
    ValueError: hidden and layers must be at least 1, got 8 and 0
    """
    if min(sizes.values()) < 1:
        *names, last = sizes
        *values, final = sizes.values()
        which = f"{', '.join(names)} and {last}" if names else last
        given = f"{', '.join(map(str, values))} and {final}" if names else final
        raise ValueError(f"{which} must be at least 1, got {given}")


def check_among(name: str, value: str, allowed) -> None:
    """Raise ValueError for a word that is not one of those allowed.

    >>> check_among("cell", "rnn", ("lstm", "gru"))
    Traceback (most recent call last):
    ValueError: cell must be one of lstm, gru, got 'rnn'
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
