"""Two processes on one machine: one has samples with cameras alone, the other with LiDAR alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perception.data.collate import collate
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import CameraLoading, LidarLoading, SampleLoader
from perception.formats.classes import DETECTION_CLASSES
from perception.runtime.config import build_detector
from perception.structures import Batch
from perception.training.module import TrainingModule
from tests.synthetic_nuscenes import VERSION
from tests.tiny_config import tiny_detector

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys, warnings
from pathlib import Path
import torch
from lightning.pytorch import Callback, Trainer
from tests.training.test_parallel import batch_of, make_module
from torch.utils.data import DataLoader

class Keep(Callback):
    def __init__(self):
        self.gradients, self.losses, self.statistics = [], [], []
    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({name: value.grad.clone() for name, value in module.detector.named_parameters()})
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].detach())
        self.statistics.append({name: value.clone() for name, value in module.detector.named_buffers()})

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    dataroot, folder = Path(sys.argv[1]), Path(sys.argv[2])
    keep, module = Keep(), make_module()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=2, default_root_dir=folder, callbacks=[keep], **quiet
    )
    batches = [batch_of(dataroot, folder / "index", trainer.global_rank)] * 2
    trainer.fit(module, DataLoader(batches, batch_size=None))
    state = {"weights": module.detector.state_dict(), "gradients": keep.gradients, "losses": keep.losses}
    state["statistics"] = keep.statistics
    torch.save(state, folder / f"rank{trainer.global_rank}.pt")
"""


def make_module() -> TrainingModule:
    """A tiny detector of cameras and LiDAR, always the same."""
    torch.manual_seed(0)
    return TrainingModule(
        detector=build_detector(tiny_detector()),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
        base_batch_size=2,
    )


def batch_of(dataroot: Path, index: Path, rank: int) -> Batch:
    """Two samples: cameras alone for rank 0, LiDAR alone for rank 1."""
    sensors = {"cameras": CameraLoading(image_size_px=(64, 96))} if rank == 0 else {"lidar": LidarLoading()}
    loader = SampleLoader(index=Index.open(index), dataroot=dataroot, class_names=DETECTION_CLASSES, **sensors)
    return collate([loader.load(0), loader.load(1)])


@pytest.fixture(scope="module")
def ranks(dataroot, tmp_path_factory):
    """What the two processes end with, and the batches that they trained on."""
    folder = tmp_path_factory.mktemp("parallel")
    build_index(dataroot, VERSION, folder / "index")
    (folder / "run.py").write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(folder / "run.py"), str(dataroot), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    states = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return states, [batch_of(dataroot, folder / "index", rank) for rank in range(2)]


def test_ranks_with_different_sensors_end_with_equal_weights(ranks):
    (first, second), _ = ranks
    assert first["weights"].keys() == second["weights"].keys()
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    fresh = make_module().detector.state_dict()
    for sensor in ("camera", "lidar"):
        changed = [name for name in fresh if not torch.equal(fresh[name], first["weights"][name])]
        assert any(name.startswith(f"branches.{sensor}") for name in changed)


def test_gradients_are_the_mean_over_the_ranks(ranks):
    (first, second), batches = ranks
    gradients = []
    for batch in batches:
        detector = make_module().detector.train()
        sum(detector.losses(detector(batch), batch).values()).backward()
        gradients.append({name: value.grad for name, value in detector.named_parameters()})
    for name, value in first["gradients"][0].items():
        assert torch.equal(value, second["gradients"][0][name]), name
        assert torch.allclose(value, (gradients[0][name] + gradients[1][name]) / 2, rtol=1e-4, atol=1e-6), name
    assert first["losses"][0] != second["losses"][0]


def test_batch_statistics_are_the_mean_over_the_ranks_that_have_the_sensor(ranks):
    (first, second), batches = ranks
    fresh = dict(make_module().detector.named_buffers())
    alone = []
    for batch in batches:
        detector = make_module().detector.train()
        detector.losses(detector(batch), batch)
        alone.append(dict(detector.named_buffers()))
    means = [name for name in fresh if name.endswith(("running_mean", "running_var"))]
    kinds = set()
    for name in means:
        assert torch.equal(first["statistics"][0][name], second["statistics"][0][name])
        changed = [rank[name] for rank in alone if not torch.equal(rank[name], fresh[name])]
        kinds.add(len(changed))
        assert torch.allclose(first["statistics"][0][name], torch.stack(changed).mean(0), rtol=1e-4, atol=1e-6), name
    assert kinds == {1, 2}  # of branches, which one rank saw, and of what both share
    counts = [int(value) for name, value in first["weights"].items() if name.endswith("num_batches_tracked")]
    assert set(counts) == {2}
