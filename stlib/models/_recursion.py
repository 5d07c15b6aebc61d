"""A linear recursion over time, for many series at once and without a step of Python for each step of time."""

from math import isqrt

import torch
from torch import Tensor

WIDTH = {"cpu": 2**13, "cuda": 2**19}  # values handled by one operation, above which more of them bring no speed


def linear_recursion(u: Tensor, c: Tensor, start: Tensor) -> Tensor:
    r"""Solve :math:`y_t = u_t + \sum_k c_{k,t}\, y_{t-k}` for all :math:`t`.

    Time is cut into blocks. Each is solved from a start of 0, all blocks side by side; then the ends are carried from
    block to block, and each start's echo is added. So T steps of a few series cost about :math:`2\sqrt T` operations
    instead of T. Many series fill an operation by themselves; they are one block.

    Shapes: ``u (T, J, N)``, ``c (K, T, N)`` or ``(K, 1, N)`` if it does not change, ``start (K, J, N)`` with
    :math:`y_{-1}` first; returns ``(T, J, N)``. The result may take the memory of ``u``.

    >>> one = torch.ones(4, 1, 1)
    >>> linear_recursion(one, one[None, :1, 0] / 2, start=torch.zeros(1, 1, 1)).flatten().tolist()
    [1.0, 1.5, 1.75, 1.875]
    """
    steps, rows, series = u.shape
    lags = len(c)
    width = WIDTH.get(u.device.type, 2**16)
    blocks = max(1, min(isqrt(steps), width // (rows * series), steps // lags))
    length = -(-steps // blocks)
    blocks = -(-steps // length)
    padding = blocks * length - steps
    y = torch.cat([u, u.new_zeros(padding, rows, series)]) if padding else u
    y = y.unflatten(0, (blocks, length))
    if c.shape[1] > 1:
        c = torch.cat([c, c.new_zeros(lags, padding, series)], 1).unflatten(1, (blocks, length))
    else:
        c = c[:, None].expand(-1, 1, length, -1)
    c = c[:, :, :, None]  # (K, blocks, length, 1, N)

    first = y[0]
    for lag in range(1, lags + 1):  # the first block starts from the given values
        for step in range(min(lag, length)):
            first[step] += c[lag - 1, 0, step] * start[lag - step - 1]
    rows_of_y, rows_of_c = y.unbind(1), [one.unbind(1) for one in c]
    for step in range(1, length):
        for lag in range(1, min(lags, step) + 1):
            rows_of_y[step].addcmul_(rows_of_c[lag - 1][step], rows_of_y[step - lag])
    if blocks == 1:
        return y[0, :steps]

    echo = u.new_zeros(c.shape[1], lags + length, lags, series)  # of each of the lags values before a block
    for lag in range(1, lags + 1):
        echo[:, lags - lag, lag - 1] = 1
    rows_of_echo = echo.unbind(1)
    for step in range(length):
        for lag in range(1, lags + 1):
            rows_of_echo[lags + step].addcmul_(rows_of_c[lag - 1][step], rows_of_echo[lags + step - lag])
    echo = echo[:, lags:, :, None]  # (blocks or 1, length, K, 1, N)
    for block in range(1, blocks):
        response = echo[block if len(echo) > 1 else 0]
        before = y[block - 1, length - lags :].flip(0)  # (K, J, N)
        for lag in range(lags):
            y[block].addcmul_(response[:, lag], before[lag])
    return y.flatten(0, 1)[:steps]
