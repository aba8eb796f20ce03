"""Objects as queries: each starts from a peak of a class heatmap, looks around and says one box."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from perception.models.flips import Flip
from perception.models.heads.centerpoint import RARE_BIAS, map_branch
from perception.models.heads.centerpoint_output import REGRESSION_CHANNELS
from perception.models.heads.centerpoint_targets import CenterPointTargets, annotated_samples, boxes_on_grid
from perception.models.heads.query_decoder import QueryDecoder, QueryDecoderSettings
from perception.models.heads.query_decoding import QueryDecoding
from perception.models.heads.query_output import QueryOutput, join_queries, mirror_queries
from perception.models.heads.query_proposals import QueryProposals
from perception.models.layers import conv_block
from perception.models.losses.query import QueryLoss, QueryTargets
from perception.models.parts import Head
from perception.structures import Batch, Detections, FusedFeatures


class QueryHead(Head):
    """Finds boxes by queries that a transformer decoder refines; one query answers for one object.

    Args:
        in_channels: channels of the map.
        class_names: classes to find.
        channels: of the shared convolution, the queries and the decoder.
        level: the grid level to read.
        proposals: how peaks of the heatmap become queries.
        decoder: sizes of the decoder.
        targets: how boxes become the heatmap's targets.
        loss: matching and weights of the losses.
        decoding: how queries become boxes.
        overlap: whether to guess how well each box fits its object, for `decoding.overlap_power`.

    Raises:
        ValueError: classes are missing, repeated or unknown, channels and heads do not fit, or the decoding asks for a
            guess that the head does not make.

    Source:
        Bai et al. 2022, "TransFusion: Robust LiDAR-Camera Fusion for 3D Object Detection with Transformers", sections
        3.1-3.3: its first decoder; deformable attention to the map is Zhu et al.'s ("Deformable DETR").
    """

    predicts = "detections"

    def __init__(
        self,
        *,
        in_channels: int,
        class_names: list[str],
        channels: int = 128,
        level: str = "main",
        proposals: QueryProposals = QueryProposals(),  # noqa: B008 (frozen)
        decoder: QueryDecoderSettings = QueryDecoderSettings(),  # noqa: B008 (frozen)
        targets: CenterPointTargets = CenterPointTargets(),  # noqa: B008 (frozen)
        loss: QueryLoss = QueryLoss(),  # noqa: B008 (frozen)
        decoding: QueryDecoding = QueryDecoding(),  # noqa: B008 (frozen)
        overlap: bool = False,
    ) -> None:
        super().__init__()
        if not class_names or len(set(class_names)) != len(class_names):
            raise ValueError(f"QueryHead: class_names must be distinct and not empty, got {list(class_names)}")
        if decoding.overlap_power > 0 and not overlap:
            raise ValueError("QueryHead: overlap must be True where decoding.overlap_power is above 0, got False")
        proposals.check_classes(class_names)
        self.class_names = tuple(class_names)
        self.in_channels = {level: in_channels}
        self.level = level
        self.proposals, self.targets, self.loss, self.decoding = proposals, targets, loss, decoding
        self.shared = conv_block(in_channels, channels)
        self.heatmap = map_branch(channels, channels, len(class_names), RARE_BIAS)
        self.kinds = nn.Embedding(len(class_names), channels)
        self.decoder = QueryDecoder(channels, decoder)
        self.readers = nn.ModuleList(_Reader(channels, len(class_names), overlap) for _ in range(decoder.num_layers))

    def forward(self, fused: FusedFeatures) -> QueryOutput:
        """Runs the network.

        Args:
            fused: what the neck gave.

        Returns:
            The heatmap, and what each query says after each layer.
        """
        level = fused.bev[self.level]
        shared = self.shared(level.features)
        heatmap = self.heatmap(shared)
        found = self.proposals.find(heatmap, self.class_names)
        memory = self.decoder.memory(shared)
        size = torch.tensor((level.grid.num_x, level.grid.num_y), device=shared.device)
        column, row = found.cells % level.grid.num_x, found.cells // level.grid.num_x
        position = torch.stack((column, row), dim=2) + 0.5  # (B, Q, 2) x y in cells
        queries = memory.cells.take_along_dim(found.cells[..., None], dim=1) + self.kinds(found.channels)  # (B, Q, C)
        said = []
        for layer, reader in zip(self.decoder.layers, self.readers, strict=True):
            places = position / size
            queries = layer(queries, self.decoder.embed(places), places, memory)
            said.append(reader(queries, position))
            position = said[-1][1][..., :2].detach()
        logits, regression, overlap = zip(*said, strict=True)
        peaks = heatmap.detach().float().sigmoid().flatten(1)  # (B, K, Y, X) -> (B, K Y X)
        return QueryOutput(
            heatmap=heatmap,
            channels=found.channels,
            peak_scores=peaks.gather(1, found.channels * memory.cells.shape[1] + found.cells),  # (B, Q)
            logits=torch.stack(logits),  # L x (B, Q, K) -> (L, B, Q, K)
            regression=torch.stack(regression),
            grid=level.grid,
            class_names=self.class_names,
            overlap=torch.stack(overlap) if overlap[0] is not None else None,
        )

    def losses(self, output: QueryOutput, batch: Batch, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Compares an output with the annotations, in the augmented ego frame.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples; those without annotations do not count.
            class_names: the detector's classes, which the labels index.

        Returns:
            Weighted scalars "heatmap" and, of the last layer, "classes", "offset", "height", "size", "yaw", "velocity"
            and, where guessed, "overlap"; "auxiliary" is the sum of those of all earlier layers.

        Raises:
            ImportError: `scipy` is not installed.
            ValueError: the network gave NaN or infinity for a sample with boxes.
        """
        truth = boxes_on_grid(batch, class_names, self.class_names, output.grid)
        heatmap = self.targets.heatmap(truth, len(batch), len(self.class_names), output.grid)
        targets = QueryTargets(heatmap=heatmap, annotated=annotated_samples(batch), truth=truth, tokens=batch.tokens)
        return self.loss(output, targets)

    def predict(self, output: QueryOutput, batch: Batch, class_names: Sequence[str]) -> tuple[Detections, ...]:
        """Decodes an output.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.
            class_names: the detector's classes, which the labels index.

        Returns:
            Boxes of each sample in the true ego frame.
        """
        return self.decoding.decode(output, batch.ego2aug, class_names)

    def merge_flips(self, outputs: Mapping[Flip, QueryOutput]) -> QueryOutput:
        """Turns mirrored outputs back and puts all their queries together; of repeated ones the best stays.

        A mean over frames is not defined: queries of one frame have no partners in another.

        Args:
            outputs: how the frame was mirrored -> what the network gave there.

        Returns:
            The queries of all frames in the frame that was not mirrored; those that say again what a better one says
            (`decoding.flip_radius_m`) have a peak score of 0.
        """
        turned = [mirror_queries(output, flip) for flip, output in outputs.items()]
        return self.decoding.drop_repeated(join_queries(turned))


class _Reader(nn.Module):
    """Reads class scores, a box and, where asked for, an overlap from each query."""

    def __init__(self, channels: int, num_classes: int, overlap: bool) -> None:
        super().__init__()
        self.classes = _perceptron(channels, num_classes)
        self.box = nn.ModuleList(_perceptron(channels, count) for count in REGRESSION_CHANNELS.values())
        self.overlap = _perceptron(channels, 1) if overlap else None
        nn.init.constant_(self.classes[-1].bias, RARE_BIAS)  # type: ignore[arg-type]

    def forward(self, queries: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, Q, C) queries at (B, Q, 2) cells -> logits (B, Q, K), regression (B, Q, 10), overlap (B, Q)."""
        offset, *others = (part(queries).float() for part in self.box)
        box = torch.cat((position + offset, *others), dim=2)
        overlap = None if self.overlap is None else self.overlap(queries).float().squeeze(2)
        return self.classes(queries).float(), box, overlap


def _perceptron(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, out_channels))
