"""The training step around a detector."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from perception.models.detector import Detector, DetectorOutput
from perception.runtime.checkpoint import load_weights
from perception.structures import Batch
from perception.structures.state import DetectorState
from perception.training.divergence import gradients_not_finite, not_finite, write_dump
from perception.training.gradients import GradientMonitor, Places, gradient_figures, watched
from perception.training.parallel import count_batches, share_batch_statistics
from perception.training.parts import find_part, freeze
from perception.training.randomness import seed_step
from perception.training.schedules import Schedule

_LOG = logging.getLogger(__name__)
_TRUTHS = {"detections": "boxes"}  # a truth has the name of what is predicted, but for this one


class TrainingModule(LightningModule):
    """Trains a detector on the sum of its losses; gradients are clipped and accumulated by the Trainer.

    Args:
        detector: the model; it also computes and weights its losses.
        optimizer: class and settings, such as `torch.optim.AdamW` with `lr`; gets the trainable parameters.
        schedule: changes the learning rate step by step over the run; None keeps it.
        base_batch_size: samples per step that the learning rate was chosen for. The rate is scaled by the samples
            that a step really sees (batch size x accumulated batches x devices) over this; None uses it as it is.
        frozen: dotted names of parts that stay as they are, batch statistics included, such as "branches.lidar".
        initial_weights: files of weights by dotted name of the part to start with them; "" is the whole detector.
            A file holds a whole detector, of which that part is taken.
        seed: of what the training step draws, such as dropout.
        gradients: logs how the tasks pull at what they share; None logs the norm of the whole gradient alone.

    Raises:
        ValueError: a part does not exist, its weights do not fit, or `base_batch_size` is not positive.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        optimizer: OptimizerCallable,
        schedule: Schedule | None = None,
        base_batch_size: int | None = None,
        frozen: Sequence[str] = (),
        initial_weights: Mapping[str, str] | None = None,
        seed: int = 0,
        gradients: GradientMonitor | None = None,
    ) -> None:
        super().__init__()
        if base_batch_size is not None and base_batch_size < 1:
            raise ValueError(f"TrainingModule: base_batch_size must be >= 1, got {base_batch_size}")
        self.detector = detector
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.base_batch_size = base_batch_size
        self.frozen = tuple(frozen)
        self.seed = seed
        self.gradients = gradients
        self._tokens: list[str] = []  # of the samples whose gradient has not been used yet
        self._batches_before: dict[str, Tensor] = {}
        self._memories: dict[str, tuple[int, DetectorState | None]] = {}  # of each stage, with its number of drives
        for part, path in (initial_weights or {}).items():
            find_part(detector, part)
            load_weights(detector, path, part)
        freeze(detector, self.frozen)

    def train(self, mode: bool = True) -> Self:
        """Switches between training and evaluation; frozen parts stay in evaluation.

        Args:
            mode: whether to train.

        Returns:
            The module.
        """
        super().train(mode)
        for name in self.frozen:
            find_part(self.detector, name).eval()
        return self

    def setup(self, stage: str) -> None:
        """Checks that model and data speak of the same classes and that every head and a history can be learnt.

        Args:
            stage: what the trainer is about to do.

        Raises:
            ValueError: the class names differ, the truth of a head is not loaded, or the detector has a history and the
                data do not follow drives.
        """
        data = getattr(self.trainer, "datamodule", None)
        if self.detector.temporal is not None and not getattr(data, "follows_drives", True):
            raise ValueError(
                "TrainingModule: data.init_args.loader.follow_drives must be true for a detector with a history, got "
                "false"
            )
        names = getattr(data, "class_names", None)
        if names is not None and tuple(names) != tuple(self.detector.class_names):
            raise ValueError(
                f"TrainingModule: detector and data must have the same class_names, got "
                f"{list(self.detector.class_names)} and {list(names)}"
            )
        if getattr(data, "truths", None) is not None:
            self._check_truths(data)

    def _check_truths(self, data: Any) -> None:
        """A head without a truth would train on nothing, with losses of 0."""
        for name, head in self.detector.heads.items():
            answer = str(head.predicts)
            option = _TRUTHS.get(answer, answer)
            loaded = getattr(data.truths, option, True)
            if loaded is None or loaded is False:
                raise ValueError(
                    f"TrainingModule: data.init_args.loader.truths.{option} must be asked for to train the head "
                    f"{name!r}, got {loaded}"
                )
            if option == "near_field" and not getattr(data, "knows_near_field", True):
                _LOG.warning("the head %s learns nothing: %s/near_field has no drive of these", name, data.dataroot)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Makes the step's random numbers depend on its place in the run alone.

        Args:
            batch: B samples.
            batch_index: number of the batch in its epoch.
        """
        seed_step(self.seed, self.trainer.fit_loop.epoch_loop.total_batch_idx, self.trainer.global_rank)
        self._tokens += batch.tokens
        if self.trainer.world_size > 1:
            self._batches_before = count_batches(self.detector)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Computes the loss of one batch.

        Args:
            batch: B samples.
            batch_index: number of the batch in its epoch.

        Returns:
            The sum of all losses, a scalar.

        Raises:
            FloatingPointError: a loss is NaN or infinite; names the loss, the samples and the folder of the dump.
        """
        begins_step = batch_index % self.trainer.accumulate_grad_batches == 0
        if self.gradients is not None and begins_step and self.gradients.due(self.global_step):
            with watched(self.detector) as places:
                total = self._total_loss(batch, "train", places)
        else:
            total = self._total_loss(batch, "train")
        self.log("lr", self.optimizers().param_groups[0]["lr"], batch_size=len(batch))  # type: ignore[union-attr]
        return total

    def on_after_backward(self) -> None:
        """Shares batch statistics among the processes of a job."""
        if self.trainer.world_size > 1:
            share_batch_statistics(self.detector, self._batches_before)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the norm of the gradient before it is clipped.

        Args:
            optimizer: about to step.

        Raises:
            FloatingPointError: a gradient is NaN or infinite, and no scaler of half precision handles that.
        """
        gradients = [value.grad for value in self.parameters() if value.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.log("grad_norm", norm)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not scaled and not_finite({"norm": norm}):
            names = gradients_not_finite(self.named_parameters())
            self._stop(f"every gradient must be finite, got those of {', '.join(names)}", {"gradients": names})
        self._tokens = []

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
        self._scale_learning_rate(optimizer)
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule.build(optimizer, max(int(self.trainer.estimated_stepping_batches), 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _scale_learning_rate(self, optimizer: Optimizer) -> None:
        """Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017: the rate grows with the batch."""
        trainer = self.trainer
        per_device = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        if per_device is None or self.base_batch_size is None:
            _LOG.warning(
                "the learning rate is used as it is, whatever the batch: %s",
                "model.init_args.base_batch_size is not declared" if per_device else "the batch size is not known",
            )
            return
        effective = per_device * trainer.accumulate_grad_batches * trainer.world_size
        factor = effective / self.base_batch_size
        for group in optimizer.param_groups:
            group["lr"] *= factor
        _LOG.info(
            "learning rate x %g: a step sees %d x %d x %d samples (batch, accumulated, devices), chosen for %d",
            factor,
            per_device,
            trainer.accumulate_grad_batches,
            trainer.world_size,
            self.base_batch_size,
        )

    def _look(self, batch: Batch, stage: str) -> DetectorOutput:
        """The detector's output, with what it remembers of the last batch of this stage."""
        num_drives, memory = self._memories.get(stage, (0, None))
        output = self.detector(batch, state=memory if num_drives == len(batch) else None)
        self._memories[stage] = len(batch), output.state
        return output

    def _total_loss(self, batch: Batch, stage: str, places: Places | None = None) -> Tensor:
        losses = self.detector.losses(self._look(batch, stage), batch)
        if broken := not_finite(losses):
            if stage != "train":
                self._tokens = list(batch.tokens)
            told = ", ".join(f"{name} = {value}" for name, value in broken.items())
            report = {"stage": stage, "losses": {name: str(value.item()) for name, value in losses.items()}}
            self._stop(f"every loss must be finite, got {told}", report)
        if places is not None:
            # Not by `log_dict`, which would write the same figures again at every step until the next are due.
            figures = {name: float(value) for name, value in gradient_figures(losses, places).items()}
            for logger in self.loggers:
                logger.log_metrics(figures, self.global_step)
        total = torch.stack(list(losses.values())).sum()  # N x () -> ()
        values = {f"{stage}/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(values, batch_size=len(batch), sync_dist=stage == "val")
        self.log(f"{stage}/loss", total.detach(), batch_size=len(batch), prog_bar=True, sync_dist=stage == "val")
        return total

    def _stop(self, fault: str, report: Mapping[str, Any]) -> None:
        """Writes a dump and ends the run; nothing waits for other processes, which may have no such fault."""
        trainer, step = self.trainer, self.global_step
        state = {
            "state_dict": self.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "global_step": step,
        }
        place = {"step": step, "epoch": self.current_epoch, "rank": self.global_rank, "seed": self.seed}
        folder = Path(trainer.default_root_dir) / f"diverged-step-{step}-rank-{self.global_rank}"
        write_dump(folder, {"fault": fault, **place, **report}, self._tokens, state)
        raise FloatingPointError(
            f"TrainingModule: {fault} at step {step} for samples {', '.join(self._tokens)}; "
            f"report and state are in {folder}"
        )
