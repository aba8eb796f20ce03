"""What the point encoders share: points in the augmented ego frame with named extra columns."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.geometry.transforms import transform_points
from perception.structures import PointBatch

MOST = 10.0
"""Of scaled fields, which are about 1: a sensor that works says no more, and a broken one must not drown the rest."""


class PointReader(nn.Module):
    """Moves points into the augmented ego frame and picks their extra columns by name.

    A field that is not finite reads as 0, one beyond 10 after scaling as 10.

    Args:
        fields: extra columns of the points to read -> factor that brings the column to about 1.
    """

    field_scales: Tensor

    def __init__(self, *, fields: dict[str, float]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.register_buffer("field_scales", torch.tensor(list(fields.values())), persistent=False)

    def forward(self, points: PointBatch, ego2aug: Tensor) -> Tensor:
        """Reads the points.

        Args:
            points: points of S samples in their ego frames.
            ego2aug: (S, 4, 4).

        Returns:
            (P, 3 + F) x y z in metres in the augmented ego frame, then the scaled fields.

        Raises:
            ValueError: the points lack a field.
        """
        fields = (named_columns(points, self.fields) * self.field_scales).nan_to_num(0.0, 0.0, 0.0).clamp(-MOST, MOST)
        counts = torch.bincount(points.batch_index, minlength=len(points.present)).tolist()
        parts = points.points[:, :3].split(counts)
        moved = [transform_points(move, part) for move, part in zip(ego2aug, parts, strict=True)]
        return torch.cat((torch.cat(moved), fields), dim=1)


def named_columns(points: PointBatch, names: Sequence[str]) -> Tensor:
    """Picks extra columns of points by name.

    Args:
        points: of any number of samples.
        names: of the columns.

    Returns:
        (P, F), as they are.

    Raises:
        ValueError: the points lack one.
    """
    missing = [name for name in names if name not in points.fields]
    if missing:
        raise ValueError(f"PointReader: points must have the fields {missing}, got {list(points.fields)}")
    return points.points[:, [3 + points.fields.index(name) for name in names]]
