"""Lightning's checkpoints: written whole or not at all, with a checksum beside them, verified before they are read."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from perception.formats.files import atomic_writer
from perception.runtime.checkpoint import checksum_path, write_checksum

_LOG = logging.getLogger(__name__)
CARD_KEY = "card"
"""Entry of a checkpoint whose text is written beside it."""
CHECKPOINT_FOLDER = "checkpoints"
"""Where checkpoints lie in a run's folder."""


class VerifiedCheckpoints(TorchCheckpointIO):
    """Writes PATH.sha256 beside every checkpoint, and reads none whose checksum is wrong or that would need pickle.

    A checkpoint with a text under `CARD_KEY` gets PATH.md with that text.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint under another name, syncs and renames it.

        Args:
            checkpoint: state of model and trainer.
            path: the file; its folder is made.
            storage_options: must be None.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_writer(path) as file:
            file.write(content.getbuffer())
        write_checksum(path)
        if CARD_KEY in checkpoint:
            with atomic_writer(_card_path(path)) as file:
                file.write(checkpoint[CARD_KEY].encode())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Reads a checkpoint.

        Args:
            path: the file.
            map_location: as in `torch.load`.
            weights_only: makes no difference; nothing but tensors and plain values is ever read.

        Returns:
            State of model and trainer.

        Raises:
            ValueError: the file or its checksum is missing, or they do not fit.
        """
        verify_checkpoint(path)
        state: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint, its checksum and its card.

        Args:
            path: the file.
        """
        super().remove_checkpoint(path)
        checksum_path(path).unlink(missing_ok=True)
        _card_path(path).unlink(missing_ok=True)


class StepCheckpoint(Checkpoint):
    """Writes `checkpoints/step-N.ckpt` in the run's folder every so many steps of the optimizer; keeps the newest.

    A run that goes on from one gives the weights of a run that never stopped, to the bit on a CPU; only a history of
    maps begins anew. Lightning's own
    `ModelCheckpoint` would, in a run that has been resumed, also write between the batches that one step accumulates,
    and its checkpoints of an epoch's last batch miscount the batches of the next epoch. Here a step that ends an
    epoch is written when the epoch is over.

    Args:
        every_n_steps: steps between two checkpoints.
        keep: how many to keep; with two or more, a crash while one is written leaves another.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(self, *, every_n_steps: int = 1000, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ValueError(f"StepCheckpoint: every_n_steps and keep must be >= 1, got {every_n_steps} and {keep}")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._step_before = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes what a run that was killed while writing has left.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        if trainer.is_global_zero:
            for path in (Path(trainer.default_root_dir) / CHECKPOINT_FOLDER).glob(".*.tmp"):
                path.unlink()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes how many steps were taken.

        Args:
            trainer: the trainer.
            pl_module: the module.
            batch: the batch.
            batch_idx: its number in the epoch.
        """
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a checkpoint if this batch ended a step and it is time.

        Args:
            trainer: the trainer.
            pl_module: the module.
            outputs: of the training step.
            batch: the batch.
            batch_idx: its number in the epoch.
        """
        if not trainer.is_last_batch:
            self._write_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes a checkpoint if it is time after the step that ended the epoch.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        if trainer.is_last_batch:  # a run may end within an epoch
            self._write_if_due(trainer)

    def _write_if_due(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step == self._step_before or step % self.every_n_steps or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir) / CHECKPOINT_FOLDER
        trainer.save_checkpoint(folder / f"step-{step:08d}.ckpt")
        if trainer.is_global_zero:
            for path in _newest_first(folder, "step-*.ckpt")[self.keep :]:  # others write here too
                trainer.strategy.remove_checkpoint(path)


def verify_checkpoint(path: str | Path) -> None:
    """Compares a checkpoint with its checksum.

    Args:
        path: the file.

    Raises:
        ValueError: the file or its checksum is missing, or they do not fit.
    """
    sidecar = checksum_path(path)
    try:
        wanted = sidecar.read_text(encoding="ascii").split()[:1]
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"load_checkpoint: {path} and {sidecar} must be readable: {error}") from error
    if wanted != [found]:
        raise ValueError(f"load_checkpoint: {path} must have the sha256 in {sidecar}, got {found}")


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Finds the newest checkpoint that is whole; others are told in the log.

    Args:
        folder: of checkpoints.

    Returns:
        The file, or None where there is none.
    """
    for path in _newest_first(Path(folder)):
        try:
            verify_checkpoint(path)
        except ValueError as error:
            _LOG.warning("%s is passed over: %s", path, error)
        else:
            return path
    return None


def _newest_first(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    return sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _card_path(path: str | Path) -> Path:
    return Path(f"{path}.md")
