import pytest
import torch
from lightning.pytorch import Callback

from perception.data.loading import LidarLoading
from perception.runtime.checkpoint import load_weights
from perception.runtime.config import build_detector
from perception.training.averaging import WeightEma
from perception.training.callbacks import WeightsWriter
from perception.training.checkpoints import StepCheckpoint, VerifiedCheckpoints
from tests.tiny_config import tiny_detector
from tests.training.test_module import make_data, make_module, make_trainer


class Follow(Callback):
    """Averages by itself, and notes what validation sees."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}
        self.steps = 0
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        share = min(0.9, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        for name, value in pl_module.state_dict().items():
            old = self.average.get(name, value).double()
            exact = share * old + (1 - share) * value.double()
            self.average[name] = exact if value.is_floating_point() else value.clone()
        self.steps += 1

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def test_validation_weights_and_checkpoints_use_the_average(dataroot, tmp_path):
    module, follow = make_module(), Follow()
    callbacks = [follow, WeightEma(decay=0.9), WeightsWriter(), StepCheckpoint(every_n_steps=1, keep=9)]
    settings = {"max_epochs": 2, "max_steps": -1, "enable_checkpointing": True, "plugins": [VerifiedCheckpoints()]}
    trainer = make_trainer(tmp_path, callbacks=callbacks, **settings)
    data = make_data(dataroot, val="mini_val", cameras=None, lidar=LidarLoading(max_points=500))
    trainer.fit(module, datamodule=data)
    assert follow.steps == 4
    for seen in (follow.validated[-1], module.state_dict()):
        for name, value in follow.average.items():
            assert torch.allclose(seen[name].double(), value.double(), rtol=1e-4, atol=1e-7), name
    written, kept = build_detector(tiny_detector()), build_detector(tiny_detector())
    load_weights(written, tmp_path / "weights.safetensors")
    load_weights(kept, tmp_path / "checkpoints" / "step-00000004.ckpt")
    for name, value in module.detector.state_dict().items():
        assert torch.equal(written.state_dict()[name], value)
        assert torch.equal(kept.state_dict()[name], value)
    last = torch.load(tmp_path / "checkpoints" / "step-00000004.ckpt", weights_only=True)["current_model_state"]
    assert any(not torch.equal(last[name], value) for name, value in module.state_dict().items())


def test_decay_is_checked():
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.0"):
        WeightEma(decay=1.0)
