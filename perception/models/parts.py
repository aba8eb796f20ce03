"""The kinds of part that a detector is put together from, and what each promises to the next.

A part names the channels that it reads and gives, so that the detector can refuse parts that do not fit when it is
built. Maps are in the augmented ego frame; what leaves `Head.predict` is in the true one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.flips import Flip
from perception.structures import Batch, BevMap, CameraImages, CameraViews, FusedFeatures, PointBatch, SensorFeatures
from perception.structures.state import PartState


class Branch(nn.Module, ABC):
    """Turns what one sensor kind saw into features; runs on the samples that have the sensor.

    Attributes:
        out_channels: level name -> channels of the map it gives there.
        sensor: the kind that it reads, such as "camera" or "radar4d"; empty where its name in the detector says that.
    """

    out_channels: Mapping[str, int]
    sensor: str = ""

    def plan(self, batch: Batch, grids: Mapping[str, Grid]) -> Any:
        """Computes what depends on calibration alone, for use with every batch that has the same.

        Args:
            batch: B samples.
            grids: level name -> grid.

        Returns:
            What `forward` takes as `plan`; None where the branch has nothing to plan.
        """
        return None

    @abstractmethod
    def forward(self, batch: Batch, grids: Mapping[str, Grid], plan: Any = None) -> SensorFeatures:
        """Encodes the batch.

        Args:
            batch: B samples, any of them without this sensor.
            grids: level name -> grid.
            plan: what `plan` gave for this calibration; None works it out.

        Returns:
            Features with a row per sample; zeros for a sample without the sensor.
        """


class View(nn.Module, ABC):
    """Moves camera features into the bird's-eye view.

    Attributes:
        in_channels: channels of the image features.
        out_channels: level name -> channels of the map it gives there.
        view_level: which level of the image features it reads, 0 the finest.
    """

    in_channels: int
    out_channels: Mapping[str, int]
    view_level: int

    @abstractmethod
    def plan(
        self, cameras: CameraImages, feature_size: tuple[int, int], ego2aug: Tensor, grids: Mapping[str, Grid]
    ) -> Any:
        """Computes what depends on calibration alone.

        Args:
            cameras: calibration of B samples; at least one camera is present.
            feature_size: rows and columns (h, w) of the image features that the view reads.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            What `forward` takes as `plan`; None where the view has nothing to plan.
        """

    @abstractmethod
    def forward(
        self, views: CameraViews, ego2aug: Tensor, grids: Mapping[str, Grid], plan: Any = None
    ) -> SensorFeatures:
        """Moves the features of the present cameras.

        Args:
            views: image features of B samples; at least one camera is present.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.
            plan: what `plan` gave for this calibration; None works it out.

        Returns:
            Map and auxiliary outputs with a row per sample.
        """


class PointEncoder(nn.Module, ABC):
    """Turns points into a map of one level.

    Attributes:
        level: the level that it fills.
        out_channels: that level's name -> channels.
    """

    level: str
    out_channels: Mapping[str, int]

    @abstractmethod
    def forward(self, points: PointBatch, ego2aug: Tensor, grids: Mapping[str, Grid]) -> BevMap:
        """Encodes the points.

        Args:
            points: points of S samples in their ego frames, all present; any sample may have none.
            ego2aug: (S, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The map.
        """


class Fuser(nn.Module, ABC):
    """Puts any non-empty subset of the sensors together.

    Attributes:
        in_channels: level name -> sensor name -> channels it reads.
        out_channels: level name -> channels it gives.
    """

    in_channels: Mapping[str, Mapping[str, int]]
    out_channels: Mapping[str, int]

    @abstractmethod
    def forward(self, features: Mapping[str, SensorFeatures]) -> FusedFeatures:
        """Fuses the features.

        Args:
            features: sensor name -> features. Rows of absent samples are never read.

        Returns:
            One map per level.
        """

    def auxiliary_losses(self) -> Mapping[str, "AuxiliaryLoss"]:
        """Gives the losses that train what it says beside its maps.

        Returns:
            Loss name -> loss on the detector's auxiliary outputs; none unless a fuser has some.
        """
        return {}


class Temporal(nn.Module, ABC):
    """Adds what earlier moments of a drive showed to the fused maps; what it remembers is passed in and out.

    Attributes:
        in_channels: level name -> channels it reads and gives; other levels pass unchanged.
    """

    in_channels: Mapping[str, int]

    @abstractmethod
    def forward(
        self, fused: FusedFeatures, batch: Batch, state: PartState | None = None
    ) -> tuple[FusedFeatures, PartState]:
        """Adds the past and remembers the present.

        Args:
            fused: what the fuser gave for B samples.
            batch: the samples: drive, time, motion and augmentation.
            state: what the last call gave for the same B drives, in this order; None remembers nothing.

        Returns:
            The maps with their past, and the state for the next call.
        """


class Neck(nn.Module, ABC):
    """Works on the fused maps before the heads.

    Attributes:
        in_channels: level name -> channels it reads.
        out_channels: level name -> channels it gives.
    """

    in_channels: Mapping[str, int]
    out_channels: Mapping[str, int]

    @abstractmethod
    def forward(self, fused: FusedFeatures) -> FusedFeatures:
        """Refines the maps.

        Args:
            fused: what the fuser gave.

        Returns:
            The levels that the neck works on.
        """


class Head(nn.Module, ABC):
    """Reads one kind of answer from the fused maps.

    Attributes:
        in_channels: level name -> channels it requires.
        predicts: the field of `Predictions` that it fills.
        class_names: classes it knows; a subset of the detector's.
    """

    in_channels: Mapping[str, int]
    predicts: str
    class_names: tuple[str, ...]

    @abstractmethod
    def forward(self, fused: FusedFeatures) -> Any:
        """Runs the network.

        Args:
            fused: what the neck gave.

        Returns:
            The head's own typed output.
        """

    @abstractmethod
    def losses(self, output: Any, batch: Batch, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Compares an output with the annotations; samples without annotations do not count.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.
            class_names: the detector's classes, which the labels index.

        Returns:
            Scalar per named loss, already weighted.
        """

    @abstractmethod
    def predict(self, output: Any, batch: Batch, class_names: Sequence[str]) -> tuple[Any, ...]:
        """Decodes an output.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.
            class_names: the detector's classes, which the labels index.

        Returns:
            One value of the field `predicts` per sample, in the true ego frame.
        """

    @abstractmethod
    def merge_flips(self, outputs: Mapping[Flip, Any]) -> Any:
        """Turns the outputs of mirrored frames back and averages them.

        Args:
            outputs: how the frame was mirrored -> what the network gave there; "" is the frame as it is.

        Returns:
            An output as `forward` gives it, of the frame as it is.
        """


class AuxiliaryLoss(nn.Module, ABC):
    """A loss on the named auxiliary outputs of other parts."""

    @abstractmethod
    def forward(self, aux: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Computes the loss.

        Args:
            aux: "<branch>/<name>" or "fused/<name>" -> auxiliary output; missing where a branch did not run.
            batch: B samples.

        Returns:
            A scalar, already weighted; zero where there is nothing to compare.
        """
