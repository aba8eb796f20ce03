"""Samples in, predictions out."""

from collections.abc import Sequence

import torch

from perception.data.collate import collate
from perception.models.detector import Detector
from perception.structures import Predictions, Sample
from perception.structures.tensors import map_tensors


class Predictor:
    """Runs a detector in evaluation mode.

    Args:
        detector: the model; it is moved to the device and switched to evaluation.
        device: where to run.
    """

    def __init__(self, detector: Detector, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.detector = detector.to(self.device).eval()

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> tuple[Predictions, ...]:
        """Runs the detector on some samples at once.

        Args:
            samples: as many as fit into memory together; each with whatever sensors it has.

        Returns:
            Predictions of each sample, in order, on the CPU.

        Raises:
            ValueError: no samples, samples that do not go together, or one without a sensor that the detector reads.
        """
        batch = collate(samples).to(self.device)
        predictions = self.detector.predict(self.detector(batch), batch)
        return map_tensors(predictions, torch.Tensor.cpu)
