"""Times ops on a CUDA device, and says how much of its memory's bandwidth they use.

Each call is timed by a pair of CUDA events on one stream. Before each, a buffer of twice the second-level cache is
written, so that inputs come from memory; that write also keeps the device busy while the call is launched, so that
short kernels are not charged for the launch. Ops that wait for the device inside (voxelize, the plans of sparse_conv,
suppression) are timed from the first kernel to the last, the wait included.
"""

import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.ops._measure import Row, rows
from perception.ops._library import has_kernels

_WARM_UPS = 5
_REPEATS = 50
_COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Case:
    """What to run.

    Args:
        name: sizes, in words.
        ours: runs our op once.
        least_bytes: bytes that any implementation must read and write.
        peers: name -> runs a peer once, on the same device.
        published_ms: name of an implementation with its hardware -> time that its authors report.
    """

    name: str
    ours: Callable[[], Any]
    least_bytes: int
    peers: Mapping[str, Callable[[], Any]]
    published_ms: Mapping[str, float] = field(default_factory=dict)


class CudaTimer:
    """Times functions on the current CUDA device.

    Raises:
        RuntimeError: torch sees no GPU, or the CUDA kernels are not built.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"--device cuda must find a GPU that torch can use, got torch {torch.__version__} and none"
            )
        self.device = torch.device("cuda", torch.cuda.current_device())
        if not has_kernels(self.device):
            raise RuntimeError("--device cuda must find the CUDA kernels: build them with `make cuda`")
        properties = torch.cuda.get_device_properties(self.device)
        self._flush = torch.empty(2 * properties.L2_cache_size, dtype=torch.uint8, device=self.device)
        self._hardware = (
            f"{properties.name}, driver {_driver_version()}, CUDA {torch.version.cuda}, torch {torch.__version__}"
        )
        source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        copy_ms = self.medians_ms({"copy": lambda: target.copy_(source)})["copy"]
        self._bytes_per_ms = 2 * _COPY_BYTES / copy_ms

    def compare(self, op: str, case: Case) -> list[Row]:
        """Measures ours against each peer and beside published figures.

        Args:
            op: name of the op.
            case: what to run.

        Returns:
            One row per peer. `achieved_gb_s` is `least_bytes` over our
            time, `ceiling_gb_s` what a copy of 1 GiB on the device reached in the same run.
        """
        times = self.medians_ms({"": case.ours, **case.peers})
        ours_ms = times.pop("")
        limit_ms = case.least_bytes / self._bytes_per_ms
        measured = rows(op, case.name, ours_ms, {**times, **case.published_ms}, limit_ms)
        for row in measured:
            row["achieved_gb_s"] = case.least_bytes / ours_ms / 1e6
            row["ceiling_gb_s"] = self._bytes_per_ms / 1e6
            row["hardware"] = self._hardware
        return measured

    def medians_ms(self, functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        """Times functions in turn, so that clocks and temperature change for all alike.

        Args:
            functions: name -> runs once.

        Returns:
            The median time of each in milliseconds.
        """
        events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in functions}
        for repeat in range(_WARM_UPS + _REPEATS):
            for name, function in functions.items():
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self._flush.zero_()
                begin.record()
                function()
                end.record()
                if repeat >= _WARM_UPS:
                    events[name].append((begin, end))
        torch.cuda.synchronize(self.device)
        return {name: statistics.median(b.elapsed_time(e) for b, e in pairs) for name, pairs in events.items()}


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
