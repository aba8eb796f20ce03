"""Boxes: hand-made corners, and corners that move with their box through every kind of transform."""

import math

import pytest
import torch
from hypothesis import given

from perception.geometry.boxes import box_corners, transform_boxes
from perception.geometry.transforms import transform_points, yaw_matrix
from tests.geometry.strategies import bev_augmentations, boxes


def test_corners_of_a_box_that_looks_left() -> None:
    box = torch.tensor([[10.0, 0.0, 1.0, 4.0, 2.0, 2.0, math.pi / 2]])
    expected = torch.tensor(
        [[9.0, 2, 0], [9, -2, 0], [11, -2, 0], [11, 2, 0], [9, 2, 2], [9, -2, 2], [11, -2, 2], [11, 2, 2]]
    )
    torch.testing.assert_close(box_corners(box)[0], expected, atol=1e-6, rtol=0)


@given(bev_augmentations(), boxes())
def test_corners_move_with_the_box(ego2aug: torch.Tensor, source: torch.Tensor) -> None:
    moved = box_corners(transform_boxes(ego2aug, source))
    expected = transform_points(ego2aug, box_corners(source))
    if torch.linalg.det(ego2aug[:3, :3]) < 0:  # a mirror swaps left and right
        expected = expected[:, [3, 2, 1, 0, 7, 6, 5, 4]]
    torch.testing.assert_close(moved, expected, atol=1e-9, rtol=0)


@given(bev_augmentations(), boxes(1))
def test_velocity_moves_like_a_displacement(ego2aug: torch.Tensor, source: torch.Tensor) -> None:
    later = source.clone()
    later[:, :2] += source[:, 7:]
    moved, moved_later = transform_boxes(ego2aug, source), transform_boxes(ego2aug, later)
    torch.testing.assert_close(moved_later[:, :2] - moved[:, :2], moved[:, 7:], atol=1e-9, rtol=0)


@given(bev_augmentations(), boxes(1))
def test_the_inverse_brings_boxes_back(ego2aug: torch.Tensor, source: torch.Tensor) -> None:
    back = transform_boxes(torch.linalg.inv(ego2aug), transform_boxes(ego2aug, source))
    torch.testing.assert_close(
        back[:, [0, 1, 2, 3, 4, 5, 7, 8]], source[:, [0, 1, 2, 3, 4, 5, 7, 8]], atol=1e-8, rtol=0
    )
    torch.testing.assert_close(torch.cos(back[:, 6] - source[:, 6]), torch.ones(len(source)).double())


@given(boxes(1))
def test_yaw_stays_in_range_in_float32(source: torch.Tensor) -> None:
    yaw = transform_boxes(torch.eye(4), source.float())[:, 6]
    assert bool(((yaw >= -math.pi - 1e-6) & (yaw < math.pi)).all())


def test_unknown_velocity_stays_unknown_and_input_is_untouched() -> None:
    source = torch.tensor([[1.0, 2, 3, 4, 2, 1, 0.5, math.nan, math.nan]])
    before = source.clone()
    moved = transform_boxes(yaw_matrix(torch.tensor(0.3)), source)
    assert bool(moved[:, 7:].isnan().all())
    assert bool(moved[:, :7].isfinite().all())
    torch.testing.assert_close(source, before, equal_nan=True)


@pytest.mark.parametrize("columns", [7, 9])
def test_no_boxes_stay_no_boxes(columns: int) -> None:
    none = torch.zeros(0, columns)
    assert transform_boxes(torch.eye(4), none).shape == (0, columns)
    assert box_corners(none).shape == (0, 8, 3)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"box_corners: boxes must be \(M, 7\) or \(M, 9\), got \(2, 8\)"):
        box_corners(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"transform_boxes: a2b must be \(4, 4\), got \(3, 3\)"):
        transform_boxes(torch.eye(3), torch.zeros(1, 9))
    with pytest.raises(ValueError, match="must scale all axes alike"):
        transform_boxes(torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0])), torch.zeros(1, 9))
