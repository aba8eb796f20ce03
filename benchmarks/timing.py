"""Two sides of one comparison, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def pair_row(
    op: str, case: str, ours: Callable[[], Any], peer_name: str, peer: Callable[[], Any], repeats: int
) -> dict[str, Any]:
    """Times ours and a peer in turn, so that a busy machine is as busy for the one as for the other.

    Args:
        op: what is done.
        case: on what.
        ours: does it.
        peer_name: who else does.
        peer: does it too.
        repeats: timed runs of each, after one that warms up.

    Returns:
        op, case, ours_ms, peer, peer_ms (medians) and ratio (above 1: ours is faster).
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for times, function in zip(seconds, (ours, peer), strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    ours_ms, peer_ms = (1e3 * statistics.median(times[1:]) for times in seconds)  # the first run warms up
    return {
        "op": op,
        "case": case,
        "ours_ms": ours_ms,
        "peer": peer_name,
        "peer_ms": peer_ms,
        "ratio": peer_ms / ours_ms,
    }
