"""Hypothesis strategies for geometry."""

import math

import torch
from hypothesis import strategies as st

from perception.geometry.transforms import rigid_from_quaternion


def vectors(size: int, bound: float = 50.0) -> st.SearchStrategy[torch.Tensor]:
    number = st.floats(-bound, bound, allow_nan=False, allow_subnormal=False)
    return st.lists(number, min_size=size, max_size=size).map(lambda v: torch.tensor(v, dtype=torch.float64))


def rigids() -> st.SearchStrategy[torch.Tensor]:
    quaternions = vectors(4, 1.0).filter(lambda q: q.norm() > 1e-2)
    return st.builds(rigid_from_quaternion, vectors(3), quaternions)


def boxes(min_boxes: int = 0, max_boxes: int = 5) -> st.SearchStrategy[torch.Tensor]:
    size = st.floats(0.1, 20, allow_subnormal=False)
    yaw = st.floats(-math.pi, math.pi - 1e-9, allow_subnormal=False)
    place = st.floats(-50, 50, allow_subnormal=False)
    row = st.tuples(place, place, place, size, size, size, yaw, place, place)
    rows = st.lists(row, min_size=min_boxes, max_size=max_boxes)
    return rows.map(lambda r: torch.tensor(r, dtype=torch.float64).reshape(-1, 9))


def bev_augmentations() -> st.SearchStrategy[torch.Tensor]:
    """Turns, scales, mirrors and shifts about the vertical axis, as BEV augmentation makes them."""

    def build(yaw: float, scale: float, flip_x: bool, flip_y: bool, shift: torch.Tensor) -> torch.Tensor:
        matrix = torch.eye(4, dtype=torch.float64)
        mirror_x, mirror_y = (-1.0 if flip_x else 1.0), (-1.0 if flip_y else 1.0)
        c, s = math.cos(yaw), math.sin(yaw)
        rows = [[c * mirror_x, -s * mirror_y, 0], [s * mirror_x, c * mirror_y, 0], [0, 0, 1]]
        matrix[:3, :3] = scale * torch.tensor(rows, dtype=torch.float64)
        matrix[:3, 3] = shift
        return matrix

    return st.builds(
        build, st.floats(-math.pi, math.pi), st.floats(0.8, 1.25), st.booleans(), st.booleans(), vectors(3, 5.0)
    )
