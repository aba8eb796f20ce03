"""Which row goes with which column of a table of costs: the cheapest pairs first, or the least sum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Assignment = Callable[[np.ndarray], np.ndarray]
"""Costs (N, K), infinite where a pair is not allowed -> (P, 2) int64 pairs of row and column, rows rising."""


def assign_greedy(costs: np.ndarray) -> np.ndarray:
    """Takes the cheapest pair, then the cheapest of what is left, and so on.

    Args:
        costs: (N, K) float, infinite or NaN where a pair is not allowed; of equal costs the first in the table goes
            first.

    Returns:
        (P, 2) int64 row and column of each pair, rows rising.
    """
    rows, columns = np.nonzero(np.isfinite(costs))
    order = np.argsort(costs[rows, columns], kind="stable")
    column_of: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in column_of and column not in taken:
            column_of[row] = column
            taken.add(column)
    return _pairs(column_of)


def assign_hungarian(costs: np.ndarray) -> np.ndarray:
    """Takes as many pairs as can be, and among all such choices one of the least sum.

    Args:
        costs: (N, K) float, infinite or NaN where a pair is not allowed.

    Returns:
        (P, 2) int64 row and column of each pair, rows rising.

    Source:
        Jonker and Volgenant, "A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems",
        Computing 38, 1987.
    """
    allowed = np.isfinite(costs)
    group_of_row, group_of_column = _groups(allowed)
    column_of: dict[int, int] = {}
    for group in np.unique(group_of_row[allowed.any(axis=1)]):
        rows, columns = np.flatnonzero(group_of_row == group), np.flatnonzero(group_of_column == group)
        inner = np.ix_(rows, columns)
        for row, column in _most_pairs(costs[inner].astype(np.float64), allowed[inner]):
            column_of[int(rows[row])] = int(columns[column])
    return _pairs(column_of)


def _groups(allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of rows (N,) and columns (K,), equal where allowed pairs connect them; N for what stands alone."""
    none = len(allowed)
    of_row = np.arange(none)
    while True:
        of_column = np.where(allowed, of_row[:, None], none).min(axis=0, initial=none)
        lowest = np.where(allowed, of_column, none).min(axis=1, initial=none)
        if (lowest >= of_row).all():
            return of_row, of_column
        of_row = np.minimum(of_row, lowest)


def _most_pairs(costs: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """Row and column of as many allowed pairs as can be, of the least sum; at least one is allowed."""
    costs = costs - costs[allowed].min()
    costs[~allowed] = (costs[allowed].max() + 1) * (min(costs.shape) + 1)  # dearer than all allowed pairs together
    wide = len(costs) <= costs.shape[1]
    column_of = _least_sum(costs if wide else costs.T)
    found = [(row, column) if wide else (column, row) for row, column in enumerate(column_of.tolist())]
    return [pair for pair in found if allowed[pair]]


def _pairs(column_of: dict[int, int]) -> np.ndarray:
    return np.array(sorted(column_of.items()), dtype=np.int64).reshape(-1, 2)


def _least_sum(costs: np.ndarray) -> np.ndarray:
    """(N,) column of each row, all different, of the least sum; costs (N, K) finite, N <= K.

    Rows enter one after the other; each takes the shortest path of swaps to a free column. Prices keep all reduced
    costs `cost - row_price - column_price` at 0 or more, and at 0 on the chosen pairs.
    """
    num_rows, num_columns = costs.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns + 1)
    row_of = np.full(num_columns + 1, -1)  # the last column is where the entering row stands
    for entering in range(num_rows):
        row_of[num_columns] = entering
        column = num_columns
        length, came_from = np.full(num_columns, np.inf), np.full(num_columns, num_columns)
        done = np.zeros(num_columns + 1, dtype=bool)
        while row_of[column] >= 0:
            done[column] = True
            reduced = costs[row_of[column]] - row_price[row_of[column]] - column_price[:-1]  # (K,)
            shorter = (reduced < length) & ~done[:-1]
            length[shorter], came_from[shorter] = reduced[shorter], column
            nearest = int(np.where(done[:-1], np.inf, length).argmin())
            step = length[nearest]
            row_price[row_of[done]] += step
            column_price[done] -= step
            length[~done[:-1]] -= step
            column = nearest
        while column != num_columns:
            row_of[column] = row_of[came_from[column]]
            column = int(came_from[column])
    column_of = np.empty(num_rows, dtype=np.int64)
    taken = np.flatnonzero(row_of[:-1] >= 0)
    column_of[row_of[taken]] = taken
    return column_of
