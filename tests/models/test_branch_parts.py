"""The branches and views that come as parts of configs: built, run on a made-up moment, as wide as they say."""

import torch

from benchmarks.branches import _GRIDS, every_sensor_batch, small_branches


def test_every_small_branch_runs_on_every_sensor() -> None:
    branches, batch = small_branches(), every_sensor_batch()
    assert {name.partition("_")[0] for name in branches} == {
        "camera", "fisheye", "lidar", "radar", "radar4d", "ultrasonic",
    }  # fmt: skip
    assert len(branches) == 8
    for name, branch in branches.items():
        with torch.no_grad():
            result = branch.eval()(batch, _GRIDS)
        assert set(result.bev) == set(branch.out_channels), name
        for level, bev in result.bev.items():
            grid = _GRIDS[level]
            assert bev.features.shape == (1, branch.out_channels[level], grid.num_y, grid.num_x), name
            assert bev.features.isfinite().all(), name
            assert bev.validity.any(), name
