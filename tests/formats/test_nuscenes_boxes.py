"""Boxes, poses and velocities at the border to nuScenes."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from nuscenes import NuScenes
from nuscenes.eval.common.utils import quaternion_yaw
from pyquaternion import Quaternion

from perception.formats.nuscenes_boxes import (
    box_velocities,
    boxes_from_nuscenes,
    boxes_to_nuscenes,
    pose_matrices,
    rotation_matrices,
    yaw_of_rotations,
)
from perception.formats.nuscenes_tables import read_tables

component = st.floats(-1, 1).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(st.tuples(component, component, component, component).filter(any))
def test_rotations_are_pyquaternions(quaternion: tuple[float, float, float, float]) -> None:
    theirs = Quaternion(quaternion)
    np.testing.assert_allclose(rotation_matrices(np.array(quaternion)), theirs.rotation_matrix, atol=1e-14)
    turn = yaw_of_rotations(np.array(quaternion)) - quaternion_yaw(theirs)
    assert np.hypot(theirs.rotation_matrix[0, 0], theirs.rotation_matrix[1, 0]) < 1e-6 or abs(np.sin(turn / 2)) < 1e-7


def test_special_rotations() -> None:
    np.testing.assert_array_equal(rotation_matrices(np.zeros((2, 4))), np.tile(np.eye(3), (2, 1, 1)))
    assert np.isnan(rotation_matrices(np.array([np.nan, 0, 0, 1]))).any()
    assert yaw_of_rotations(np.array([0.0, 0.0, 0.0, 1.0])) == -np.pi
    assert pose_matrices(np.zeros((0, 3)), np.zeros((0, 4))).shape == (0, 4, 4)


def test_pose_moves_a_point() -> None:
    pose = pose_matrices(np.array([10.0, 20.0, 1.0]), np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)]))
    np.testing.assert_allclose(pose @ [2, 3, 4, 1], [10 - 3, 20 + 2, 5, 1])


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0.01, 50), st.floats(-3.14159, 3.14159)), max_size=5))
def test_boxes_come_back(values: list[tuple[float, float, float]]) -> None:
    boxes = np.array([[x, -x, 1, size, 2 * size, 3, yaw, 1, np.nan] for x, size, yaw in values]).reshape(-1, 9)
    translations, sizes, rotations, velocities = boxes_to_nuscenes(boxes)
    np.testing.assert_array_equal(sizes[:, 0], boxes[:, 4])  # width first
    np.testing.assert_allclose(boxes_from_nuscenes(translations, sizes, rotations, velocities), boxes, atol=1e-12)


def test_unknown_velocity_and_wrong_shape() -> None:
    assert np.isnan(boxes_from_nuscenes(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 4)))[:, 7:]).all()
    with pytest.raises(ValueError, match=r"boxes_to_nuscenes: boxes must be \(M, 9\), got \(2, 7\)"):
        boxes_to_nuscenes(np.zeros((2, 7)))


def test_velocities_are_the_devkits_bit_by_bit(real_data: Path) -> None:
    dataroot = real_data / "nuscenes"
    devkit = NuScenes("v1.0-mini", str(dataroot), verbose=False)
    rows = read_tables(dataroot / "v1.0-mini").sample_annotation
    number = {row.token: i for i, row in enumerate(rows)} | {"": -1}
    velocities = box_velocities(
        np.array([row.translation for row in rows]),
        np.array([devkit.get("sample", row.sample_token)["timestamp"] for row in rows]),
        np.array([number[row.prev] for row in rows]),
        np.array([number[row.next] for row in rows]),
    )
    theirs = np.array([devkit.box_velocity(row.token) for row in rows])
    np.testing.assert_array_equal(velocities, theirs)
    assert 0 < np.isnan(theirs[:, 0]).sum() < len(rows)


def test_velocities_across_gaps() -> None:
    times_us = np.array([0, 1_400_000, 3_100_000, 4_500_000])
    x = np.array([0.0, 7.0, 31.0, 45.0])
    previous, following = np.array([-1, 0, 1, -1]), np.array([1, 2, -1, -1])
    velocities = box_velocities(np.stack([x, 0 * x, 0 * x], axis=1), times_us, previous, following)
    np.testing.assert_allclose(velocities[:, 0], [5.0, np.nan, np.nan, np.nan])  # 3.1 s around, 1.7 s back, alone
    velocities = box_velocities(np.stack([x, 0 * x, 0 * x], axis=1), times_us // 2, previous, following)
    np.testing.assert_allclose(velocities[:, 0], [10.0, 20.0, 24 / 0.85, np.nan])
