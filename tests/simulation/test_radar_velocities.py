"""Radars and boxes of a simulated set agree on how fast things move."""

from pathlib import Path

import pytest
import torch

from benchmarks.radar_velocities import velocity_pairs
from perception.data.index import Index
from perception.data.index_build import build_index

pytestmark = pytest.mark.slow


def test_returns_on_what_moves_have_its_velocity_along_the_line_of_sight(simulated: Path, tmp_path: Path) -> None:
    build_index(simulated, "v1.0-mini", tmp_path / "index")
    pairs = velocity_pairs(simulated, Index.open(tmp_path / "index"))
    gaps = torch.tensor([abs(it.along_mps - it.measured_mps) for it in pairs])
    gaps = gaps[~gaps.isnan()]  # what is annotated in one sample alone has no velocity
    assert len(gaps) >= 20
    assert gaps.median() < 0.3
    assert (gaps < 1.0).float().mean() > 0.9
