import copy
import csv
import json
import random
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from perception.data.loading import CameraLoading, LidarLoading
from perception.data.truths import TruthLoading
from perception.models.temporal.history import BevHistory
from perception.runtime.checkpoint import load_weights
from perception.runtime.config import build_detector
from perception.training.callbacks import WeightsWriter
from perception.training.checkpoints import VerifiedCheckpoints
from perception.training.data import LoaderSettings, NuScenesDataModule
from perception.training.module import TrainingModule
from perception.training.schedules import WarmupCosine
from tests.tiny_config import tiny_detector

CAMERAS, LIDAR = CameraLoading(image_size_px=(64, 96)), LidarLoading(max_points=2000)


def make_module(kind: type[TrainingModule] = TrainingModule, **arguments) -> TrainingModule:
    """A tiny detector in its training module."""
    return kind(
        detector=build_detector(tiny_detector()),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
        **arguments,
    )


def make_data(dataroot, **arguments) -> NuScenesDataModule:
    """Two samples an epoch, of one scene."""
    values = {"cameras": CAMERAS, "lidar": LIDAR, "loader": LoaderSettings(batch_size=1)} | arguments
    return NuScenesDataModule(dataroot=str(dataroot), **values)


def make_trainer(folder, **arguments) -> Trainer:
    """A quiet trainer on the CPU that writes to a folder."""
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    values = {"max_steps": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False}
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=CSVLogger(folder, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **(values | arguments),
    )


def test_a_run_logs_each_loss_and_leaves_verified_weights(dataroot, tmp_path):
    module = make_module(schedule=WarmupCosine(warmup=0.5, start_factor=0.1))
    before = {name: value.clone() for name, value in module.detector.state_dict().items()}
    trainer = make_trainer(tmp_path, callbacks=[WeightsWriter()], gradient_clip_val=1.0)
    trainer.fit(module, datamodule=make_data(dataroot, val="mini_val"))
    assert any(not torch.equal(value, before[name]) for name, value in module.detector.state_dict().items())
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"train/loss", "train/boxes/heatmap", "train/boxes/yaw", "val/loss", "lr"} <= set(rows[0])
    training = [row for row in rows if row["train/loss"]]
    parts = [float(row[name]) for row in training for name in row if name.startswith("train/boxes/")]
    assert sum(parts) == pytest.approx(sum(float(row["train/loss"]) for row in training), rel=1e-5)
    # One tenth of 0.01 at the first step, all of it after half of the run.
    assert [float(row["lr"]) for row in training] == pytest.approx([0.001, 0.01])
    again = build_detector(tiny_detector())
    load_weights(again, tmp_path / "weights.safetensors")
    for name, value in module.detector.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_every_parameter_gets_a_gradient_when_a_sensor_is_missing(dataroot, tmp_path):
    module = make_module()
    seen: dict[str, torch.Tensor | None] = {}
    module.on_before_optimizer_step = lambda optimizer: seen.update(  # type: ignore[method-assign]
        {name: parameter.grad for name, parameter in module.named_parameters()}
    )
    make_trainer(tmp_path, max_steps=1).fit(module, datamodule=make_data(dataroot, cameras=None))
    assert seen
    assert [name for name, grad in seen.items() if grad is None] == []
    assert all(not grad.any() for name, grad in seen.items() if "branches.camera" in name)
    assert any(grad.any() for name, grad in seen.items() if "branches.lidar" in name)


def with_history() -> TrainingModule:
    """The tiny detector with a memory."""
    module = make_module()
    module.detector.temporal = BevHistory(channels=dict(module.detector.fuser.out_channels))
    return module


def test_a_history_is_learnt_from_the_batch_before(dataroot, tmp_path):
    module, pulled = with_history(), []
    module.on_before_optimizer_step = lambda optimizer: pulled.append(  # type: ignore[method-assign]
        {name: bool(parameter.grad.any()) for name, parameter in module.detector.temporal.named_parameters()}
    )
    loader = LoaderSettings(batch_size=1, follow_drives=True)
    make_trainer(tmp_path, max_steps=3).fit(module, datamodule=make_data(dataroot, val="mini_val", loader=loader))
    first, second, next_epoch = pulled
    assert not any(first.values())
    assert all(second.values())
    assert not any(next_epoch.values())  # the drive begins anew: what came before lies in its future


def test_a_history_needs_data_that_follow_drives(dataroot, tmp_path):
    with pytest.raises(ValueError, match="follow_drives must be true for a detector with a history, got false"):
        make_trainer(tmp_path).fit(with_history(), datamodule=make_data(dataroot))
    both = LoaderSettings(follow_drives=True, balance_classes=True)
    with pytest.raises(ValueError, match="follow_drives or balance_classes, got both"):
        make_data(dataroot, loader=both)


def test_a_loss_that_is_not_finite_names_head_and_samples_and_leaves_a_dump(dataroot, tmp_path):
    module = make_module()
    torch.nn.init.constant_(module.detector.heads["boxes"].regressions[0][-1].bias, float("inf"))
    with pytest.raises(
        FloatingPointError,
        match=r"every loss must be finite, got boxes/\w+ = .* at step 0 for samples \w+; report and state are in",
    ):
        make_trainer(tmp_path).fit(module, datamodule=make_data(dataroot))
    (folder,) = tmp_path.glob("diverged-*")
    assert folder.name == "diverged-step-0-rank-0"
    report = json.loads((folder / "report.json").read_text())
    assert report["stage"] == "train"
    assert len(report["samples"]) == 1
    assert any(name.startswith("boxes/") and value in {"inf", "nan"} for name, value in report["losses"].items())
    state = VerifiedCheckpoints().load_checkpoint(folder / "state.ckpt")
    assert state["state_dict"].keys() == module.state_dict().keys()
    assert len(state["optimizer_states"]) == 1


def test_a_gradient_that_is_not_finite_names_parameter_and_all_samples_of_the_step(dataroot, tmp_path):
    module = make_module()
    weight = module.detector.neck.get_parameter(next(name for name, _ in module.detector.neck.named_parameters()))
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"every gradient must be finite, got those of detector.neck.* at step"
    ):
        make_trainer(tmp_path, accumulate_grad_batches=2).fit(module, datamodule=make_data(dataroot))
    report = json.loads((tmp_path / "diverged-step-0-rank-0" / "report.json").read_text())
    assert len(report["samples"]) == 2


def test_mixed_precision_trains_with_weights_in_full(dataroot, tmp_path):
    module = make_module()
    before = {name: value.clone() for name, value in module.detector.named_parameters()}
    seen = []
    module.detector.neck.register_forward_hook(lambda part, given, found: seen.append(found.bev["main"].features.dtype))
    make_trainer(tmp_path, precision="bf16-mixed", max_steps=1).fit(module, datamodule=make_data(dataroot))
    assert torch.bfloat16 in seen
    assert all(value.dtype is torch.float32 for value in module.detector.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in module.detector.named_parameters())


def test_a_step_draws_what_its_place_says(dataroot, tmp_path):
    class Draw(TrainingModule):
        def training_step(self, batch, batch_index):
            drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))
            return super().training_step(batch, batch_index)

    runs = []
    for seed, noise in ((0, 0), (0, 9), (1, 0)):
        drawn: list[tuple[float, ...]] = []
        torch.rand(noise)
        module = make_module(Draw, seed=seed)
        make_trainer(tmp_path).fit(module, datamodule=make_data(dataroot, cameras=None))
        runs.append(drawn)
    assert runs[0] == runs[1] != runs[2]
    assert len({number for draws in runs[0] + runs[2] for number in draws}) == 12


def test_detector_and_data_must_agree_on_classes(dataroot, tmp_path):
    data = make_data(dataroot, loader=LoaderSettings(class_names=("car", "pedestrian")))
    with pytest.raises(ValueError, match=r"the same class_names, got .*'truck'.* and \['car', 'pedestrian'\]"):
        make_trainer(tmp_path).fit(make_module(), datamodule=data)


@pytest.mark.parametrize(
    ("head", "loaded", "option"),
    [
        ("map", {}, "map must be asked for to train the head 'extra', got None"),
        ("occupancy", {}, "occupancy must be asked for to train the head 'extra', got False"),
        ("near_field", {"near_field": False}, "near_field must be asked for to train the head 'extra', got False"),
        ("detections", {"boxes": False}, "boxes must be asked for to train the head 'boxes', got False"),
    ],
)
def test_a_head_without_a_truth_is_named_before_training(dataroot, tmp_path, head, loaded, option):
    module = make_module()
    if head != "detections":
        module.detector.heads["extra"] = copy.deepcopy(module.detector.heads["boxes"])
        module.detector.heads["extra"].predicts = head
    data = make_data(dataroot, loader=LoaderSettings(truths=TruthLoading(**loaded)))
    with pytest.raises(ValueError, match=rf"data.init_args.loader.truths.{option}"):
        make_trainer(tmp_path).fit(module, datamodule=data)


def test_a_set_without_near_fields_is_told_to_whoever_trains_on_them(dataroot, tmp_path, caplog):
    module = make_module()
    module.detector.heads["boxes"].predicts = "near_field"
    make_trainer(tmp_path, max_steps=1).fit(module, datamodule=make_data(dataroot))
    assert f"the head boxes learns nothing: {dataroot}/near_field has no drive of these" in caplog.text


def test_weights_are_written_while_training_goes_on(dataroot, tmp_path):
    class Stop(WeightsWriter):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        make_trainer(tmp_path, callbacks=[Stop()], max_epochs=3, max_steps=-1).fit(
            make_module(), datamodule=make_data(dataroot)
        )
    load_weights(build_detector(tiny_detector()), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="every_n_epochs must be >= 0, got -1"):
        WeightsWriter(every_n_epochs=-1)


def test_a_run_goes_on_from_a_verified_checkpoint_alone(dataroot, tmp_path):
    first = make_trainer(tmp_path, enable_checkpointing=True, plugins=[VerifiedCheckpoints()])
    first.fit(make_module(), datamodule=make_data(dataroot))
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    load_weights(build_detector(tiny_detector()), checkpoint)
    second = make_trainer(tmp_path, max_steps=3, plugins=[VerifiedCheckpoints()])
    second.fit(make_module(), datamodule=make_data(dataroot), ckpt_path=str(checkpoint), weights_only=True)
    assert second.global_step == 3
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="must have the sha256 in"):
        second.fit(make_module(), datamodule=make_data(dataroot), ckpt_path=str(checkpoint), weights_only=True)
    VerifiedCheckpoints().remove_checkpoint(checkpoint)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    with pytest.raises(ValueError, match="must be readable"):
        VerifiedCheckpoints().load_checkpoint(checkpoint)
