import logging

import pytest
import torch

from perception.runtime.checkpoint import save_weights
from perception.runtime.config import build_detector
from perception.training.module import TrainingModule
from tests.tiny_config import tiny_detector
from tests.training.test_module import make_data, make_module, make_trainer


def rate_of(module: TrainingModule) -> float:
    """The learning rate that a module was trained with."""
    return module.optimizers().param_groups[0]["lr"]


def test_a_frozen_part_stays_as_it_is_batch_statistics_included(dataroot, tmp_path):
    module = make_module(frozen=["branches.lidar", "heads.boxes.shared"])
    before = {name: value.clone() for name, value in module.detector.state_dict().items()}
    make_trainer(tmp_path).fit(module, datamodule=make_data(dataroot, val="mini_val"))
    changed = {name for name, value in module.detector.state_dict().items() if not torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(("branches.lidar.", "heads.boxes.shared."))}
    assert frozen
    assert not changed & frozen
    assert any("branches.camera" in name and "running_mean" in name for name in changed)
    assert any(name.startswith("heads.boxes.regressions") for name in changed)
    module.train()
    assert not module.detector.branches["lidar"].training
    assert module.detector.branches["camera"].training


def test_parts_start_with_weights_of_another_run(tmp_path):
    torch.manual_seed(1)
    lidar = build_detector(tiny_detector(cameras=False))
    save_weights(lidar, tmp_path / "lidar.safetensors")
    path = str(tmp_path / "lidar.safetensors")
    fresh = build_detector(tiny_detector()).state_dict()
    module = make_module(initial_weights={"branches.lidar": path, "neck": path})
    for name, value in module.detector.state_dict().items():
        if name.startswith(("branches.lidar.", "neck.")):
            assert torch.equal(value, lidar.state_dict()[name])
    assert fresh.keys() == module.detector.state_dict().keys()
    with pytest.raises(ValueError, match=r"must hold the tensors of this detector, got \d+ missing"):
        make_module(initial_weights={"branches.camera": path})


def test_a_part_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"name must be a part of Detector, got 'branches.lider' \(did you mean 'br"):
        make_module(frozen=["branches.lider"])
    with pytest.raises(ValueError, match="name must be a part of Detector, got 'x'"):
        make_module(initial_weights={"x": "none.safetensors"})


def test_the_learning_rate_follows_the_samples_of_a_step(dataroot, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    module = make_module(base_batch_size=8)
    make_trainer(tmp_path, accumulate_grad_batches=2, max_steps=1).fit(module, datamodule=make_data(dataroot))
    assert rate_of(module) == pytest.approx(0.01 * (1 * 2 * 1) / 8)
    assert "learning rate x 0.25: a step sees 1 x 2 x 1 samples" in caplog.text
    module = make_module()
    make_trainer(tmp_path, max_steps=1).fit(module, datamodule=make_data(dataroot))
    assert rate_of(module) == 0.01
    assert "base_batch_size is not declared" in caplog.text
    with pytest.raises(ValueError, match="base_batch_size must be >= 1, got 0"):
        make_module(base_batch_size=0)
