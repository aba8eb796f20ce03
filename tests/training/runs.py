"""A short run with everything that has to survive an interruption."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from perception.data.gt_paste import GroundTruthPaste
from perception.data.loading import LidarLoading
from perception.data.transforms import BevAugmentation
from perception.runtime.config import build_detector
from perception.structures import Batch
from perception.training.averaging import WeightEma
from perception.training.callbacks import WeightsWriter
from perception.training.checkpoints import StepCheckpoint, VerifiedCheckpoints
from perception.training.data import LoaderSettings, NuScenesDataModule
from perception.training.module import TrainingModule
from perception.training.schedules import OneCycle
from tests.tiny_config import tiny_detector

NUM_EPOCHS = 2
BATCHES_PER_EPOCH = 5  # five classes in two samples make ten visits of an epoch


class NoisyModule(TrainingModule):
    """Draws from every generator in a step, as dropout does from one."""

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        noise = float(torch.rand(())) + random.random() + float(np.random.rand())
        return super().training_step(batch, batch_index) * (1 + noise)


def tiny_run(dataroot: Path, folder: Path, *callbacks: Callback, num_workers: int = 0, **arguments: Any) -> Trainer:
    """Trains: class-balanced, pasting in the first epoch, averaging, accumulating two batches, checkpoints every step.

    Args:
        dataroot: of a set in nuScenes' format.
        folder: of the run.
        callbacks: further ones.
        num_workers: that load.
        arguments: of `Trainer.fit`.

    Returns:
        The trainer after training.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    seed_everything(0, verbose=False)
    module = NoisyModule(
        detector=build_detector(tiny_detector(cameras=False)),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        schedule=OneCycle(),
        base_batch_size=8,
    )
    data = NuScenesDataModule(
        dataroot=str(dataroot),
        index=str(folder.parent / "index"),
        val="mini_val" if num_workers == 0 else None,  # validation changes nothing of training
        lidar=LidarLoading(max_points=1000),
        transforms=[
            GroundTruthPaste(counts={"car": 4, "pedestrian": 3}, min_points=1, until_epoch=1),
            BevAugmentation(rotation_range_rad=(-0.5, 0.5)),
        ],
        loader=LoaderSettings(batch_size=2, num_workers=num_workers, balance_classes=True),
    )
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[WeightEma(decay=0.9), WeightsWriter(every_n_epochs=0), StepCheckpoint(every_n_steps=1), *callbacks],
        plugins=[VerifiedCheckpoints()],
        max_epochs=NUM_EPOCHS,
        accumulate_grad_batches=2,
        gradient_clip_val=5.0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data, weights_only=True, **arguments)
    return trainer


def last_state(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run says of model, average, optimizer and schedule."""
    path = max((folder / "checkpoints").glob("*.ckpt"))
    content = VerifiedCheckpoints().load_checkpoint(path)
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    return {name: content[name] for name in names}


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Names of values that are not equal to the bit."""
    if isinstance(first, Mapping):
        assert first.keys() == second.keys(), name
        return [found for key in first for found in differences(first[key], second[key], f"{name}/{key}")]
    if isinstance(first, list | tuple):
        assert len(first) == len(second), name
        pairs = enumerate(zip(first, second, strict=True))
        return [found for key, (a, b) in pairs for found in differences(a, b, f"{name}/{key}")]
    equal = torch.equal(first, second) if isinstance(first, Tensor) else first == second
    return [] if equal else [name]
