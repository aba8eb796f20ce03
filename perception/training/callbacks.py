"""The weights that a run leaves, with the card that says how they were made."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from perception.formats.files import atomic_writer
from perception.runtime.checkpoint import save_weights
from perception.training.averaging import WeightEma
from perception.training.cards import RunRecord, card_text, record_run, weights_metadata
from perception.training.checkpoints import CARD_KEY
from perception.training.module import TrainingModule


class WeightsWriter(Callback):
    """Writes the detector's weights, their checksum and a model card, each whole or not at all.

    Where the run averages weights (`WeightEma`), the average is written. Checkpoints get the card's text too.

    Args:
        name: file in the run's folder; `.sha256` is added for the checksum, `.md` for the card.
        every_n_epochs: how often to replace it during training; 0 writes at the end alone.
        half_precision: whether to write fractions as float16, in half the space.
        limits: text of the card's last section; "" says what holds for any weights.

    Raises:
        ValueError: `every_n_epochs` is negative.
    """

    def __init__(
        self,
        *,
        name: str = "weights.safetensors",
        every_n_epochs: int = 1,
        half_precision: bool = False,
        limits: str = "",
    ) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"WeightsWriter: every_n_epochs must be >= 0, got {every_n_epochs}")
        self.name = name
        self.every_n_epochs = every_n_epochs
        self.half_precision = half_precision
        self.limits = limits
        self._record: RunRecord | None = None
        self._earlier_commands: tuple[str, ...] = ()
        self._earlier_s = 0.0
        self._started_s = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the run.

        Args:
            trainer: the trainer.
            pl_module: a `TrainingModule`.
        """
        self._started_s = time.monotonic()
        self._record = record_run(trainer, self._earlier_commands)

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

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the card into a checkpoint.

        Args:
            trainer: the trainer.
            pl_module: a `TrainingModule`.
            checkpoint: changed in place.
        """
        checkpoint[CARD_KEY] = self._card(trainer, f"Checkpoint at step {trainer.global_step}")

    def state_dict(self) -> dict[str, Any]:
        """Gives what a run that goes on has to know.

        Returns:
            Commands and duration so far.
        """
        commands = self._record.commands if self._record else self._earlier_commands
        return {"commands": list(commands), "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what the run did before.

        Args:
            state_dict: as `state_dict` gave it.
        """
        self._earlier_commands = tuple(state_dict["commands"])
        self._earlier_s = float(state_dict["seconds"])

    def _seconds(self) -> float:
        return self._earlier_s + time.monotonic() - self._started_s

    def _card(self, trainer: Trainer, title: str) -> str:
        record = self._record or record_run(trainer, self._earlier_commands)
        metrics = {name: f"{float(value):.6g}" for name, value in sorted(trainer.callback_metrics.items())}
        figures = {
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "training time": f"{self._seconds() / 60:.1f} minutes",
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **metrics,
        }
        return card_text(record, title, figures, self.limits)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not isinstance(module, TrainingModule):
            raise TypeError(f"WeightsWriter: module must be a TrainingModule, got {type(module).__name__}")
        record = self._record or record_run(trainer, self._earlier_commands)
        path = Path(trainer.default_root_dir) / self.name
        metadata = weights_metadata(record, module.detector.class_names, trainer.global_step)
        detector = _averaged(trainer, module).detector
        save_weights(detector, path, metadata, half_precision=self.half_precision)
        with atomic_writer(f"{path}.md") as file:
            file.write(self._card(trainer, path.name).encode())


def _averaged(trainer: Trainer, module: TrainingModule) -> TrainingModule:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightEma) and isinstance(callback.averaged, TrainingModule):
            return callback.averaged
    return module
