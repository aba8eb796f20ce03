"""Times ours and peers in one run, interleaved, so that what else the machine does falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypedDict

import torch

_REPEATS = 11
_COPY_BYTES = 1 << 28


class Row(TypedDict):
    """One comparison: p50 times in milliseconds, and what the memory bus alone would take."""

    op: str
    case: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    limit_ms: float
    limit_share: float


def compare(
    op: str, case: str, ours: Callable[[], Any], peers: Mapping[str, Callable[[], Any]], least_bytes: int
) -> list[Row]:
    """Measures ours against each peer.

    Args:
        op: name of the op.
        case: sizes, in words.
        ours: runs our op once.
        peers: name -> runs a peer once.
        least_bytes: bytes that any implementation must read and write; the limit is the time to move them.

    Returns:
        One row per peer; `ratio` is how many times faster ours is, `limit_share` how much of the limit it reaches.
    """
    times = medians_ms({"": ours, **peers})
    limit_ms = least_bytes / bytes_per_ms()
    return [
        Row(
            op=op,
            case=case,
            ours_ms=times[""],
            peer=peer,
            peer_ms=times[peer],
            ratio=times[peer] / times[""],
            limit_ms=limit_ms,
            limit_share=limit_ms / times[""],
        )
        for peer in peers
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


def num_bytes(*tensors: torch.Tensor) -> int:
    """Adds up the sizes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
