"""Times the fusers alone: `python -m benchmarks.fusion.latency --dataroot D --work W --weights F`.

Time depends on the machine's load, so it is taken for all at once when the machine is idle, not while runs are scored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.fusion.arms import FUSERS, SUBSETS, branches_of
from benchmarks.fusion.study import FEATURES, add_study_arguments, study_of
from perception.formats.files import atomic_writer
from perception.models.detector import Detector
from perception.training.feature_cache import FeatureCache

_NAME = "latency.json"
_TIMED = 15


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_study_arguments(parser)
    options = parser.parse_args()
    study = study_of(options)
    cache = FeatureCache(study.work / FEATURES)
    found = {}
    for fuser in FUSERS:
        detector = study.detector(fuser).eval()
        found[fuser] = {subset: latency_ms(detector, cache, subset) for subset in SUBSETS}
        print(fuser, " ".join(f"{subset} {value:.0f}" for subset, value in found[fuser].items()))
    with atomic_writer(study.work / _NAME) as file:
        file.write(json.dumps(found, indent=1).encode())


@torch.no_grad()
def latency_ms(detector: Detector, cache: FeatureCache, subset: str) -> float:
    """Median time of a fuser alone on one sample, float32.

    Args:
        detector: in evaluation mode.
        cache: the branches' maps; the first ones are taken.
        subset: of the sensors, such as "C+L".

    Returns:
        Milliseconds.
    """
    features = cache.read([0], [branches_of(subset)])
    seconds = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        detector.fuser(features)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[2:])


def times(work: Path) -> dict[str, dict[str, float]]:
    """The times that were taken.

    Args:
        work: folder of the study.

    Returns:
        Fuser -> subset -> milliseconds; empty before any was.
    """
    path = work / _NAME
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    main()
