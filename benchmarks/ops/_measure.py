"""Times ours and peers in one run, interleaved, so that what else the machine does falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypedDict

import torch

_REPEATS = 11
_COPY_BYTES = 1 << 28
_MATRIX_SIZE = 1024


class Row(TypedDict):
    """One comparison: p50 times in milliseconds, and the least that this machine's memory and arithmetic would take."""

    op: str
    case: str
    ours_ms: float
    peer: str
    peer_ms: float | None
    ratio: float | None
    limit_ms: float
    limit_share: float


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
        peers: name -> runs a peer once; None for one that is not installed, which is listed without a time.
        least_bytes: bytes that any implementation must read and write.
        least_flops: additions and multiplications that it must do; the limit is the longer of the times for both.

    Returns:
        One row per peer; `ratio` is how many times faster ours is, `limit_share` how much of the limit it reaches.
    """
    installed = {name: peer for name, peer in peers.items() if peer is not None}
    times: dict[str, float | None] = {**dict.fromkeys(peers), **medians_ms({"": ours, **installed})}
    ours_ms = times[""] or 0.0
    limit_ms = max(least_bytes / bytes_per_ms(), least_flops / flops_per_ms() if least_flops else 0.0)
    return [
        Row(
            op=op,
            case=case,
            ours_ms=ours_ms,
            peer=name if name in installed else f"{name} (absent)",
            peer_ms=times[name],
            ratio=(times[name] or 0.0) / ours_ms if name in installed else None,
            limit_ms=limit_ms,
            limit_share=limit_ms / ours_ms,
        )
        for name in peers
    ]


def medians_ms(functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Gives the median time of each function, in milliseconds, after one warm-up call."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(_REPEATS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


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
