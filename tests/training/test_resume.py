"""A run that is killed and goes on ends as one that was never killed, to the bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from safetensors.torch import load_file

from perception.data.loading import LidarLoading
from perception.training.checkpoints import StepCheckpoint, VerifiedCheckpoints, latest_checkpoint
from perception.training.data import LoaderSettings, NuScenesDataModule
from tests.training.runs import BATCHES_PER_EPOCH, NUM_EPOCHS, differences, last_state, tiny_run

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import os, signal, sys
import torch
from pathlib import Path
from lightning.pytorch import Callback
from perception.training.checkpoints import latest_checkpoint
from tests.training.runs import tiny_run

class Kill(Callback):
    def __init__(self, batch):
        self.batch = batch
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    torch.set_num_threads(1)
    dataroot, folder, batch, resume = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "resume"
    checkpoint = latest_checkpoint(folder / "checkpoints") if resume else None
    tiny_run(dataroot, folder, Kill(batch), num_workers=2, ckpt_path=checkpoint)
"""


class Stop(Exception):
    """Ends a run at once, as far as a process can without dying."""


class StopAt(Callback):
    """Stops after a batch, before its checkpoint is written (Lightning calls those callbacks last)."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            raise Stop


@pytest.fixture(scope="module")
def whole(dataroot, tmp_path_factory):
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp("resume") / "whole"
    VerifiedCheckpoints().save_checkpoint({"step": 0, "card": "of another callback"}, folder / "checkpoints/best.ckpt")
    tiny_run(dataroot, folder)
    return folder


# Between two batches of one step, or after a step whose checkpoint is not written yet; at the last batch of an epoch;
# twice in one epoch.
@pytest.mark.parametrize("stops", [[3], [4], [5, 7]], ids=str)
def test_a_stopped_run_ends_as_if_it_had_not_stopped(dataroot, whole, stops):
    folder = whole.parent / f"stopped-{'-'.join(map(str, stops))}"
    checkpoint = None
    for stop in stops:
        with pytest.raises(Stop):
            tiny_run(dataroot, folder, StopAt(stop), ckpt_path=checkpoint)
        checkpoint = latest_checkpoint(folder / "checkpoints")
        assert checkpoint is not None
    trainer = tiny_run(dataroot, folder, ckpt_path=checkpoint)
    assert trainer.fit_loop.epoch_loop.total_batch_idx + 1 == NUM_EPOCHS * BATCHES_PER_EPOCH
    assert trainer.global_step == NUM_EPOCHS * 3  # two batches each, the fifth alone
    assert differences(last_state(whole), last_state(folder)) == []
    first, second = (load_file(run / "weights.safetensors") for run in (whole, folder))
    assert differences(first, second) == []
    card = (folder / "weights.safetensors.md").read_text()
    assert card.count("python") >= len(stops) + 1  # a command for each part of the run
    kept = sorted(path.name for path in (whole / "checkpoints").glob("*.ckpt"))
    assert len(kept) == 3 and kept[0] == "best.ckpt"


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been_killed(dataroot, whole):
    folder = whole.parent / "killed"
    (folder / "checkpoints").mkdir(parents=True)
    half = folder / "checkpoints" / ".step-00000001.ckpt.1.tmp"
    half.write_bytes(b"half a checkpoint")  # as of a process that was killed while it wrote
    for batch, mode, status in ((3, "start", -signal.SIGKILL), (6, "resume", -signal.SIGKILL), (99, "resume", 0)):
        command = [sys.executable, "-c", RUN, str(dataroot), str(folder), str(batch), mode]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == status, result.stderr
    assert differences(last_state(whole), last_state(folder)) == []
    assert differences(load_file(whole / "weights.safetensors"), load_file(folder / "weights.safetensors")) == []
    assert not half.exists()


def test_the_newest_whole_checkpoint_is_found(tmp_path, caplog):
    assert latest_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        VerifiedCheckpoints().save_checkpoint({"step": step, "card": f"step {step}\n"}, tmp_path / f"step-{step}.ckpt")
        os.utime(tmp_path / f"step-{step}.ckpt", ns=(step, step))
    assert (tmp_path / "step-3.ckpt.md").read_text() == "step 3\n"
    newest = tmp_path / "step-3.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1])
    os.utime(newest, ns=(3, 3))
    assert latest_checkpoint(tmp_path) == tmp_path / "step-2.ckpt"
    assert "step-3.ckpt is passed over" in caplog.text
    VerifiedCheckpoints().remove_checkpoint(tmp_path / "step-2.ckpt")
    assert sorted(path.name for path in tmp_path.glob("step-2*")) == []
    with pytest.raises(ValueError, match="every_n_steps and keep must be >= 1, got 0 and 2"):
        StepCheckpoint(every_n_steps=0)


def test_a_run_goes_on_with_the_data_it_began_with(dataroot, whole):
    checkpoint = latest_checkpoint(whole / "checkpoints")
    data = NuScenesDataModule(
        dataroot=str(dataroot),
        index=str(whole.parent / "index"),
        lidar=LidarLoading(),
        loader=LoaderSettings(batch_size=3, balance_classes=True),
    )
    data.setup("fit")
    state = VerifiedCheckpoints().load_checkpoint(checkpoint)["NuScenesDataModule"]
    with pytest.raises(ValueError, match="must go on with the batch_size it began with, 2, got 3"):
        data.load_state_dict(state)
