"""Times ours and peers in one run, interleaved, so that what else the machine does falls on all alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NotRequired, TypedDict

import torch

_REPEATS = 11
_TURN_MS = 5.0
_COPY_BYTES = 1 << 28
_MATRIX_SIZE = 1024


class Row(TypedDict):
    """One comparison: p50 times in milliseconds, and the least that this machine's memory and arithmetic would take.

    Rows of a CUDA device say more: what was measured on, and how fast memory was used and can be.
    """

    op: str
    case: str
    ours_ms: float
    peer: str
    peer_ms: float | Literal["absent"]
    ratio: float | None
    limit_ms: float
    limit_share: float
    ours_peak_mb: NotRequired[float]
    peer_peak_mb: NotRequired[float]
    achieved_gb_s: NotRequired[float]
    ceiling_gb_s: NotRequired[float]
    hardware: NotRequired[str]


def compare(
    op: str,
    case: str,
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any] | None],
    least_bytes: int,
    least_flops: int = 0,
) -> list[Row]:
    """Measures ours against each peer.

    Args:
        op: name of the op.
        case: sizes, in words.
        ours: runs our op once.
        peers: name -> runs a peer once; None for one that is not installed, whose time is "absent".
        least_bytes: bytes that any implementation must read and write.
        least_flops: additions and multiplications that it must do; the limit is the longer of the times for both.

    Returns:
        One row per peer; `ratio` is how many times faster ours is, `limit_share` how much of the limit it reaches.
    """
    times = medians_ms({"": ours, **{name: peer for name, peer in peers.items() if peer is not None}})
    limit_ms = max(least_bytes / bytes_per_ms(), least_flops / flops_per_ms() if least_flops else 0.0)
    return rows(op, case, times.pop(""), {name: times.get(name) for name in peers}, limit_ms)


def rows(op: str, case: str, ours_ms: float, peers_ms: Mapping[str, float | None], limit_ms: float) -> list[Row]:
    """Lays out times.

    Args:
        op: name of the op.
        case: sizes, in words.
        ours_ms: our time.
        peers_ms: name -> time of a peer; None for one that is not installed.
        limit_ms: the least time that the machine allows.

    Returns:
        One row per peer.
    """
    return [
        Row(
            op=op,
            case=case,
            ours_ms=ours_ms,
            peer=name,
            peer_ms="absent" if peer_ms is None else peer_ms,
            ratio=None if peer_ms is None else peer_ms / ours_ms,
            limit_ms=limit_ms,
            limit_share=limit_ms / ours_ms,
        )
        for name, peer_ms in peers_ms.items()
    ]


def medians_ms(functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Gives the median time of a call of each function, in milliseconds, after two calls to warm up.

    Functions take turns. In its turn a function is called so often that this takes a few milliseconds: a single call
    of a short one would be charged for what the function before it left of the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    calls = {name: _calls_per_turn(function) for name, function in functions.items()}
    for _ in range(_REPEATS):
        for name, function in functions.items():
            times[name].append(_time_ms(function, calls[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def _calls_per_turn(function: Callable[[], Any]) -> int:
    _time_ms(function, 1)
    return max(1, math.ceil(_TURN_MS / _time_ms(function, 1)))


def _time_ms(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) * 1e3 / calls


@cache
def bytes_per_ms() -> float:
    """Measures how fast this machine's memory reads and writes in a plain copy."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / medians_ms({"copy": lambda: target.copy_(source)})["copy"]


@cache
def flops_per_ms() -> float:
    """Measures how fast this machine multiplies float32 matrices, in additions and multiplications."""
    matrix = torch.ones(_MATRIX_SIZE, _MATRIX_SIZE)
    return 2 * _MATRIX_SIZE**3 / medians_ms({"product": lambda: matrix @ matrix})["product"]


def num_bytes(*tensors: torch.Tensor) -> int:
    """Adds up the sizes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
