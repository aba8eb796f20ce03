"""The training step around a detector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from perception.models.detector import Detector
from perception.structures import Batch
from perception.training.schedules import WarmupCosine


class TrainingModule(LightningModule):
    """Trains a detector on the sum of its losses; gradients are clipped by the Trainer.

    Args:
        detector: the model; it also computes and weights its losses.
        optimizer: class and settings, such as `torch.optim.AdamW` with `lr`; gets the parameters.
        schedule: changes the learning rate step by step over the run; None keeps it.
    """

    def __init__(
        self, *, detector: Detector, optimizer: OptimizerCallable, schedule: WarmupCosine | None = None
    ) -> None:
        super().__init__()
        self.detector = detector
        self.make_optimizer = optimizer
        self.schedule = schedule

    def setup(self, stage: str) -> None:
        """Checks that model and data speak of the same classes.

        Args:
            stage: what the trainer is about to do.

        Raises:
            ValueError: the class names differ.
        """
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", None)
        if names is not None and tuple(names) != tuple(self.detector.class_names):
            raise ValueError(
                f"TrainingModule: detector and data must have the same class_names, got "
                f"{list(self.detector.class_names)} and {list(names)}"
            )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Computes the loss of one batch.

        Args:
            batch: B samples.
            batch_index: number of the batch in its epoch.

        Returns:
            The sum of all losses, a scalar.

        Raises:
            FloatingPointError: a loss is NaN or infinite; names the loss and the samples.
        """
        total = self._total_loss(batch, "train")
        self.log("lr", self.optimizers().param_groups[0]["lr"], batch_size=len(batch))  # type: ignore[union-attr]
        return total

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Logs the losses of one batch.

        Args:
            batch: B samples with annotations.
            batch_index: number of the batch.

        Raises:
            FloatingPointError: a loss is NaN or infinite.
        """
        self._total_loss(batch, "val")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimizer for the trainable parameters, and the schedule over the whole run.

        Returns:
            What Lightning expects.
        """
        optimizer = self.make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        if self.schedule is None:
            return optimizer
        schedule, num_steps = self.schedule, max(int(self.trainer.estimated_stepping_batches), 1)
        scheduler = LambdaLR(optimizer, lambda step: schedule.factor(step / num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _total_loss(self, batch: Batch, stage: str) -> Tensor:
        losses = self.detector.losses(self.detector(batch), batch)
        self._check_finite(losses, batch)
        total = torch.stack(list(losses.values())).sum()  # N x () -> ()
        values = {f"{stage}/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(values, batch_size=len(batch), sync_dist=stage == "val")
        self.log(f"{stage}/loss", total.detach(), batch_size=len(batch), prog_bar=True, sync_dist=stage == "val")
        return total

    def _check_finite(self, losses: Mapping[str, Tensor], batch: Batch) -> None:
        finite = torch.stack([value.detach().isfinite() for value in losses.values()]).tolist()  # one wait for the GPU
        if all(finite):
            return
        broken = [
            f"{name} = {value.item()}" for (name, value), good in zip(losses.items(), finite, strict=True) if not good
        ]
        raise FloatingPointError(
            f"TrainingModule: every loss must be finite, got {', '.join(broken)} at step {self.global_step} "
            f"for samples {', '.join(batch.tokens)}"
        )
