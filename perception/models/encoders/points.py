"""What the point encoders share: points in the augmented ego frame with named extra columns."""

import torch
from torch import Tensor, nn

from perception.geometry.transforms import transform_points
from perception.structures import PointBatch


class PointReader(nn.Module):
    """Moves points into the augmented ego frame and picks their extra columns by name.

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
        missing = [name for name in self.fields if name not in points.fields]
        if missing:
            raise ValueError(f"PointReader: points must have the fields {missing}, got {list(points.fields)}")
        columns = [3 + points.fields.index(name) for name in self.fields]
        counts = torch.bincount(points.batch_index, minlength=len(points.present)).tolist()
        parts = points.points[:, :3].split(counts)
        moved = [transform_points(move, part) for move, part in zip(ego2aug, parts, strict=True)]
        return torch.cat((torch.cat(moved), points.points[:, columns] * self.field_scales), dim=1)
