"""The near field: where the vehicle would run into something, first on a coarse map and then cell by cell."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.flips import Flip
from perception.models.heads.near_field_decoding import decode_near_field
from perception.models.heads.near_field_output import NearFieldOutput
from perception.models.heads.near_field_targets import near_field_targets
from perception.models.layers import conv_block, gather_samples, known_samples, scatter_samples
from perception.models.losses.near_field import NearFieldLoss
from perception.models.parts import Head
from perception.structures import Batch, FusedFeatures, NearFieldPrediction

# Obstacles are rare: starting at a probability of 0.1 keeps the first losses small.
_COARSE_BIAS = -2.2


class NearFieldHead(Head):
    """Tells occupied from free ground in two stages.

    A coarse map, with a loss of its own, sees far around every cell and says roughly where something is. At full
    resolution, features and the coarse map give the correction that makes it fine.

    Args:
        in_channels: channels of the map.
        channels: channels at full resolution.
        coarse_channels: channels of the coarse map.
        coarse_stride: a power of two; so many cells along x and along y become one of the coarse map.
        coarse_layers: convolutions on the coarse map.
        level: the grid level to read.
        loss: weights of the losses.

    Raises:
        ValueError: `coarse_stride` is no power of two above 1, or `coarse_layers` below 0.

    Source:
        The idea of a two-stage occupancy decoder from Das et al. 2024, "Fisheye Camera and Ultrasonic Sensor Fusion
        For Near-Field Obstacle Perception in Bird's-Eye-View"; the layers are this project's own.
    """

    predicts = "near_field"
    class_names = ()

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int = 32,
        coarse_channels: int = 64,
        coarse_stride: int = 4,
        coarse_layers: int = 2,
        level: str = "near",
        loss: NearFieldLoss = NearFieldLoss(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if coarse_stride < 2 or coarse_stride & (coarse_stride - 1) or coarse_layers < 0:
            raise ValueError(
                "NearFieldHead: coarse_stride must be a power of two above 1 and coarse_layers at least 0, "
                f"got {coarse_stride} and {coarse_layers}"
            )
        self.in_channels = {level: in_channels}
        self.level = level
        self.coarse_stride = coarse_stride
        self.loss = loss
        self.shared = conv_block(in_channels, channels)
        halvings = coarse_stride.bit_length() - 1
        widths = [channels] + [coarse_channels] * (halvings + coarse_layers)
        self.coarse = nn.Sequential(
            *(
                conv_block(wide_in, wide_out, stride=2 if number < halvings else 1)
                for number, (wide_in, wide_out) in enumerate(itertools.pairwise(widths))
            )
        )
        self.coarse_logits = nn.Conv2d(coarse_channels, 1, 1)
        nn.init.constant_(self.coarse_logits.bias, _COARSE_BIAS)  # type: ignore[arg-type]
        self.narrow = conv_block(coarse_channels, channels, kernel=1)
        self.refinement = nn.Sequential(
            conv_block(2 * channels + 1, channels), conv_block(channels, channels), nn.Conv2d(channels, 1, 3, padding=1)
        )

    def forward(self, fused: FusedFeatures) -> NearFieldOutput:
        """Runs the network.

        Args:
            fused: what the neck gave.

        Returns:
            Logits of both stages for every cell of the level, of the samples that it knows anything of.

        Raises:
            ValueError: the level's rows and columns are no multiple of `coarse_stride`.
        """
        level = fused.bev[self.level]
        if level.grid.num_y % self.coarse_stride or level.grid.num_x % self.coarse_stride:
            raise ValueError(
                f"NearFieldHead: level {self.level!r} must have rows and columns in multiples of {self.coarse_stride}, "
                f"got {level.grid.num_y} and {level.grid.num_x}"
            )
        maps, known = level.features, known_samples(level)
        size, side = maps.shape[-2:], self.coarse_stride
        logits = maps.new_zeros(0, *size)
        coarse_logits = maps.new_zeros(0, size[0] // side, size[1] // side)
        if len(known) > 0:
            logits, coarse_logits = self._look(gather_samples(maps, known))
        return NearFieldOutput(
            logits=scatter_samples(logits, known, len(maps)),
            coarse_logits=scatter_samples(coarse_logits, known, len(maps)),
            grid=level.grid,
            known=known.new_zeros(len(maps), dtype=torch.bool).index_fill_(0, known, True),
        )

    def _look(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(S, C, Y, X) maps -> logits (S, Y, X) and the coarse ones."""
        shared = self.shared(maps)
        coarse = self.coarse(shared)  # (S, C, Y, X) -> (S, C', Y / s, X / s)
        coarse_logits = self.coarse_logits(coarse)
        rough = torch.cat((self.narrow(coarse), coarse_logits), dim=1)
        rough = functional.interpolate(rough, size=shared.shape[-2:], mode="bilinear", align_corners=False)
        logits = rough[:, -1:] + self.refinement(torch.cat((shared, rough), dim=1))  # (S, 1, Y, X)
        return logits[:, 0], coarse_logits[:, 0]

    def losses(self, output: NearFieldOutput, batch: Batch, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Compares an output with the truth, in the augmented ego frame.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples; those without truth, and those of which the level knows nothing, do not count.
            class_names: the detector's classes, of which there are none here.

        Returns:
            Weighted scalars "occupancy", "boundary" and "coarse".
        """
        return self.loss(output, near_field_targets(batch, output.grid, output.coarse_stride, output.known))

    def predict(
        self, output: NearFieldOutput, batch: Batch, class_names: Sequence[str]
    ) -> tuple[NearFieldPrediction, ...]:
        """Decodes an output.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.
            class_names: the detector's classes, of which there are none here.

        Returns:
            The probability of occupied for every cell of the level in the true ego frame; NaN, which is none, for
            samples of which the level knows nothing.
        """
        return decode_near_field(output, batch.ego2aug)

    def merge_flips(self, outputs: Mapping[Flip, NearFieldOutput]) -> NearFieldOutput:
        """Turns mirrored outputs back and takes their mean, as probabilities.

        Args:
            outputs: how the frame was mirrored -> what the network gave there.

        Returns:
            Maps as of the frame that was not mirrored.
        """
        merged = {name: _mean_of_flips(outputs, name) for name in ("logits", "coarse_logits")}
        first = next(iter(outputs.values()))
        return NearFieldOutput(**merged, grid=first.grid, known=first.known)


def _mean_of_flips(outputs: Mapping[Flip, NearFieldOutput], name: str) -> Tensor:
    """(B, Y, X) logits of the mean probability over the frames, turned back."""
    turned = [
        getattr(output, name).float().flip([-1] * ("x" in flip) + [-2] * ("y" in flip)).sigmoid()
        for flip, output in outputs.items()
    ]
    return torch.stack(turned).mean(0).logit(eps=1e-6)
