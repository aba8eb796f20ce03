"""What is kept of a run beside Lightning's own checkpoints."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from perception.runtime.checkpoint import save_weights
from perception.training.module import TrainingModule


class WeightsWriter(Callback):
    """Writes the detector's weights and their checksum, whole or not at all.

    Args:
        name: file in the run's folder; `.sha256` is added for the checksum.
        every_n_epochs: how often to replace it during training; 0 writes at the end alone.

    Raises:
        ValueError: `every_n_epochs` is negative.
    """

    def __init__(self, *, name: str = "weights.safetensors", every_n_epochs: int = 1) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"WeightsWriter: every_n_epochs must be >= 0, got {every_n_epochs}")
        self.name = name
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the weights if it is time.

        Args:
            trainer: the trainer.
            pl_module: a `TrainingModule`.
        """
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._write(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the final weights.

        Args:
            trainer: the trainer.
            pl_module: a `TrainingModule`.
        """
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not isinstance(module, TrainingModule):
            raise TypeError(f"WeightsWriter: module must be a TrainingModule, got {type(module).__name__}")
        metadata = {"step": str(trainer.global_step), "class_names": ",".join(module.detector.class_names)}
        save_weights(module.detector, Path(trainer.default_root_dir) / self.name, metadata)
