"""The map around the vehicle: what covers the ground, class by class."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.flips import Flip, check_mirrored
from perception.models.heads.map_decoding import decode_map, resample_map
from perception.models.heads.map_output import MapOutput
from perception.models.heads.map_targets import map_targets
from perception.models.layers import conv_block
from perception.models.losses.map import MapLoss
from perception.models.parts import Head
from perception.structures import Batch, FusedFeatures, MapPrediction

# Most cells belong to none of the classes: starting at a probability of 0.1 keeps the first losses small.
_START_BIAS = -2.2


class MapHead(Head):
    """Says of every cell of a grid of its own which classes of the map it belongs to; several may hold at once.

    Features are resampled to the head's grid first, so that its cells do not depend on the level's.

    Args:
        in_channels: channels of the level.
        map_classes: names of the layers to find, in the order of the outputs.
        grid: cells of the map in the augmented ego frame. What lies beyond the level takes the level's edge.
        channels: channels of the convolutions.
        num_layers: how many of them come before the one that gives the classes.
        level: the grid level to read.
        loss: weights of the losses.

    Raises:
        ValueError: there are no classes, two of one name, or no layers.

    Source:
        Liu et al. 2023, "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation",
        section III-C.
    """

    predicts = "map"
    class_names = ()

    def __init__(
        self,
        *,
        in_channels: int,
        map_classes: Sequence[str],
        grid: Grid = Grid.square(50.0, 0.5),  # noqa: B008 (frozen)
        channels: int = 64,
        num_layers: int = 2,
        level: str = "main",
        loss: MapLoss = MapLoss(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if not map_classes or len(set(map_classes)) != len(map_classes) or num_layers < 1:
            raise ValueError(
                "MapHead: map_classes must be distinct and not empty and num_layers at least 1, "
                f"got {list(map_classes)} and {num_layers}"
            )
        self.in_channels = {level: in_channels}
        self.map_classes = tuple(map_classes)
        self.grid = grid
        self.level = level
        self.loss = loss
        widths = [in_channels] + [channels] * num_layers
        self.layers = nn.Sequential(*(conv_block(before, after) for before, after in itertools.pairwise(widths)))
        self.logits = nn.Conv2d(channels, len(self.map_classes), 1)
        nn.init.constant_(self.logits.bias, _START_BIAS)  # type: ignore[arg-type]

    def forward(self, fused: FusedFeatures) -> MapOutput:
        """Runs the network.

        Args:
            fused: what the neck gave.

        Returns:
            Logits for every class and cell of the head's grid.
        """
        level = fused.bev[self.level]
        features = resample_map(level.features, torch.eye(4), self.grid, level.grid)  # (B, C, Y, X) -> (B, C, Y', X')
        return MapOutput(logits=self.logits(self.layers(features)), class_names=self.map_classes, grid=self.grid)

    def losses(self, output: MapOutput, batch: Batch, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Compares an output with the truth, in the augmented ego frame.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples; those without truth, and cells that the truth does not reach, do not count.
            class_names: the detector's classes, of which there are none here.

        Returns:
            Weighted scalar by class of the map.

        Raises:
            ValueError: a truth lacks a class.
        """
        return self.loss(output, map_targets(batch, self.map_classes, output.grid))

    def predict(self, output: MapOutput, batch: Batch, class_names: Sequence[str]) -> tuple[MapPrediction, ...]:
        """Decodes an output.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.
            class_names: the detector's classes, of which there are none here.

        Returns:
            The probability of every class for every cell of the head's grid in the true ego frame.
        """
        return decode_map(output, batch.ego2aug)

    def merge_flips(self, outputs: Mapping[Flip, MapOutput]) -> MapOutput:
        """Turns mirrored outputs back and takes their mean, as probabilities.

        Args:
            outputs: how the frame was mirrored -> what the network gave there.

        Returns:
            Maps as of the frame that was not mirrored.

        Raises:
            ValueError: the grid is not symmetric along a mirrored axis.
        """
        check_mirrored("MapHead: grid", outputs, self.grid)
        turned = [
            output.logits.float().flip([-1] * ("x" in flip) + [-2] * ("y" in flip)).sigmoid()
            for flip, output in outputs.items()
        ]
        merged = torch.stack(turned).mean(0).logit(eps=1e-6)
        return MapOutput(logits=merged, class_names=self.map_classes, grid=self.grid)
