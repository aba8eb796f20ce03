"""Samples in, predictions out."""

from collections.abc import Sequence

import torch

from perception.data.collate import collate
from perception.models.detector import Detector
from perception.structures import Predictions, Sample
from perception.structures.state import DetectorState
from perception.structures.tensors import map_tensors


class Predictor:
    """Runs a detector in evaluation mode.

    A detector with a history sees the samples one after the other, over all calls, each with what the ones before it
    showed; it forgets by itself where another drive begins or time jumps.

    Args:
        detector: the model; it is moved to the device and switched to evaluation.
        device: where to run.
    """

    def __init__(self, detector: Detector, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.detector = detector.to(self.device).eval()
        self._memory: DetectorState | None = None

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> tuple[Predictions, ...]:
        """Runs the detector on some samples at once.

        Args:
            samples: as many as fit into memory together, those of a drive in order of time; each with whatever
                sensors it has.

        Returns:
            Predictions of each sample, in order, on the CPU.

        Raises:
            ValueError: no samples, samples that do not go together, or one without a sensor that the detector reads.
        """
        together = self.detector.temporal is None
        return sum(map(self._look, [samples] if together or not samples else [[it] for it in samples]), ())

    def _look(self, samples: Sequence[Sample]) -> tuple[Predictions, ...]:
        batch = collate(samples).to(self.device)
        output = self.detector(batch, state=self._memory)
        self._memory = output.state
        return map_tensors(self.detector.predict(output, batch), torch.Tensor.cpu)
