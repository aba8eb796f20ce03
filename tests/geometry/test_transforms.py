"""Transforms: known turns, the group laws, and an independent quaternion library."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from perception.geometry.transforms import (
    invert_rigid,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rigid,
    rigid_from_quaternion,
    transform_points,
    wrap_angle,
    yaw_matrix,
)
from tests.geometry.strategies import rigids, vectors


def test_quarter_turn_takes_x_to_y_and_then_shifts() -> None:
    half = math.sqrt(0.5)
    a2b = rigid_from_quaternion(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([half, 0.0, 0.0, half]))
    moved = transform_points(a2b, torch.tensor([[1.0, 0.0, 0.0, 7.0]]))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 3.0, 3.0, 7.0]]))


@given(vectors(4, 1.0).filter(lambda q: q.norm() > 1e-2))
def test_quaternions_agree_with_scipy(quaternion: torch.Tensor) -> None:
    expected = Rotation.from_quat(quaternion.roll(-1).numpy()).as_matrix()
    rotation = quaternion_to_matrix(quaternion)
    torch.testing.assert_close(rotation, torch.from_numpy(expected), atol=1e-12, rtol=0)
    back = matrix_to_quaternion(rotation)
    unit = quaternion / quaternion.norm()
    assert back[0] >= 0
    assert min((back - unit).norm(), (back + unit).norm()) < 1e-7


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_half_turns_have_a_quaternion(axis: tuple[int, int, int]) -> None:
    expected = torch.tensor([0.0, *axis], dtype=torch.float64)
    quaternion = matrix_to_quaternion(quaternion_to_matrix(expected))
    torch.testing.assert_close(quaternion.abs(), expected, atol=1e-12, rtol=0)


@given(rigids(), rigids(), vectors(3))
def test_composition_reads_right_to_left_and_the_inverse_undoes(a2b: torch.Tensor, b2c: torch.Tensor, p: torch.Tensor):
    point = p[None]
    torch.testing.assert_close(
        transform_points(b2c @ a2b, point), transform_points(b2c, transform_points(a2b, point)), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(transform_points(invert_rigid(a2b) @ a2b, point), point, atol=1e-9, rtol=0)


@given(st.floats(-1e4, 1e4), st.sampled_from([torch.float32, torch.float64]))
def test_wrapped_angle_is_in_range_and_points_the_same_way(angle: float, dtype: torch.dtype) -> None:
    given_angle = torch.tensor(angle, dtype=dtype)
    wrapped = wrap_angle(given_angle)
    assert -math.pi - 1e-6 <= float(wrapped) < math.pi
    torch.testing.assert_close(wrapped.cos(), given_angle.cos(), atol=2e-3, rtol=0)
    torch.testing.assert_close(wrapped.sin(), given_angle.sin(), atol=2e-3, rtol=0)


def test_pi_wraps_to_minus_pi() -> None:
    angles = torch.tensor([math.pi, -math.pi, 3 * math.pi], dtype=torch.float64)
    torch.testing.assert_close(wrap_angle(angles), torch.full((3,), -math.pi, dtype=torch.float64))


def test_batched_transforms_move_their_own_points() -> None:
    a2b = yaw_matrix(torch.tensor([0.0, math.pi / 2]))
    moved = transform_points(a2b, torch.tensor([[[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]]))
    torch.testing.assert_close(moved, torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]), atol=1e-6, rtol=0)


def test_no_points_move_to_no_points() -> None:
    assert transform_points(torch.eye(4), torch.zeros(0, 5)).shape == (0, 5)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"quaternion_to_matrix: quaternion_wxyz must be \(\.\.\., 4\), got \(3,\)"):
        quaternion_to_matrix(torch.zeros(3))
    with pytest.raises(ValueError, match="finite length above"):
        quaternion_to_matrix(torch.zeros(4))
    with pytest.raises(ValueError, match="finite length above"):
        quaternion_to_matrix(torch.full((4,), math.nan))
    with pytest.raises(ValueError, match=r"transform_points: a2b must be \(\.\.\., 4, 4\), got \(3, 3\)"):
        transform_points(torch.eye(3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"points must be \(\.\.\., P, 3 \+ C\), got \(1, 2\)"):
        transform_points(torch.eye(4), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"invert_rigid: a2b must be \(\.\.\., 4, 4\), got \(3, 4\)"):
        invert_rigid(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="rigid: rotation must be"):
        rigid(torch.zeros(3, 4), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_does_not_round_places(dtype: torch.dtype) -> None:
    turn = yaw_matrix(torch.tensor(0.3, dtype=torch.float64))
    points = torch.tensor([[40.37, -33.61, 1.234, 7.0]])
    with torch.autocast("cpu", dtype):
        moved = transform_points(turn, points)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, transform_points(turn, points), rtol=0, atol=0)
