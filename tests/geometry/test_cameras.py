"""Cameras: against OpenCV where it is right, against each other everywhere, and behind the camera."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perception.geometry.cameras import (
    kannala_brandt_theta_max,
    project,
    project_kannala_brandt,
    project_pinhole,
    transform_pixels,
    unproject,
    unproject_kannala_brandt,
    unproject_pinhole,
)

INTRINSICS = torch.tensor([[333.2, 0.0, 639.5], [0.0, 331.0, 402.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
SURROUND = torch.tensor([0.0141, 0.0484, -0.0187, 0.0025], dtype=torch.float64)
TURNS_BACK = torch.tensor([0.1, -0.3, 0.0, 0.0], dtype=torch.float64)


def rays_at(angle_rad: float, count: int = 36) -> torch.Tensor:
    around = torch.linspace(0, 2 * math.pi, count, dtype=torch.float64)
    side = math.sin(angle_rad)
    forward = torch.full_like(around, math.cos(angle_rad))
    return torch.stack((side * around.cos(), side * around.sin(), forward), -1)


def test_pinhole_agrees_with_opencv() -> None:
    points = torch.randn(200, 3, dtype=torch.float64) * 10
    points[:, 2] = points[:, 2].abs() + 0.5
    expected, _ = cv2.projectPoints(points.numpy(), np.zeros(3), np.zeros(3), INTRINSICS.numpy(), None)
    pixels, valid = project_pinhole(points, INTRINSICS)
    assert bool(valid.all())
    torch.testing.assert_close(pixels, torch.from_numpy(expected[:, 0]), atol=1e-9, rtol=0)


def test_fisheye_agrees_with_opencv_in_front() -> None:
    points = torch.cat([rays_at(a) for a in np.linspace(0.01, 1.55, 40)]) * 3
    expected, _ = cv2.fisheye.projectPoints(
        points.numpy()[None], np.zeros(3), np.zeros(3), INTRINSICS.numpy(), SURROUND.numpy()
    )
    pixels, valid = project_kannala_brandt(points, INTRINSICS, SURROUND)
    assert bool(valid.all())
    torch.testing.assert_close(pixels, torch.from_numpy(expected[0]), atol=1e-8, rtol=0)


def test_fisheye_grows_on_beyond_90_degrees() -> None:
    angles = [math.radians(a) for a in (80, 89, 91, 95, 100)]
    radii = []
    for angle in angles:
        pixels, valid = project_kannala_brandt(rays_at(angle, 1), INTRINSICS, SURROUND)
        assert bool(valid.all())
        radii.append(float((pixels[0] - INTRINSICS[:2, 2]).norm()))
    assert radii == sorted(radii)
    theta = angles[3]
    k1, k2, k3, k4 = SURROUND.tolist()
    by_hand = 333.2 * (theta + k1 * theta**3 + k2 * theta**5 + k3 * theta**7 + k4 * theta**9)
    assert radii[3] == pytest.approx(by_hand, abs=1e-9)


@given(st.floats(0, 1.74), st.floats(0, 2 * math.pi), st.floats(0.1, 100))
def test_fisheye_ray_returns_to_itself(theta: float, around: float, distance: float) -> None:
    ray = torch.tensor(
        [math.sin(theta) * math.cos(around), math.sin(theta) * math.sin(around), math.cos(theta)], dtype=torch.float64
    )
    pixels, valid = project_kannala_brandt(ray * distance, INTRINSICS, SURROUND)
    rays, pixel_valid = unproject_kannala_brandt(pixels, INTRINSICS, SURROUND)
    assert bool(valid) and bool(pixel_valid)
    torch.testing.assert_close(rays, ray, atol=1e-8, rtol=0)


@given(st.floats(-2000, 3000), st.floats(-2000, 3000))
def test_pinhole_pixel_returns_to_itself(u: float, v: float) -> None:
    pixel = torch.tensor([u, v], dtype=torch.float64)
    rays, _ = unproject_pinhole(pixel, INTRINSICS)
    back, valid = project_pinhole(rays * 7, INTRINSICS)
    assert bool(valid)
    torch.testing.assert_close(back, pixel, atol=1e-7, rtol=0)
    assert float(rays.norm()) == pytest.approx(1)


def test_lens_that_turns_back_is_cut_where_it_turns() -> None:
    theta_max = float(kannala_brandt_theta_max(TURNS_BACK))
    # d/dt (t + 0.1 t^3 - 0.3 t^5) = 1 + 0.3 t^2 - 1.5 t^4 = 0
    assert theta_max == pytest.approx(math.sqrt((0.3 + math.sqrt(0.09 + 6)) / 3))
    _, inside = project_kannala_brandt(rays_at(theta_max - 1e-3), INTRINSICS, TURNS_BACK)
    _, beyond = project_kannala_brandt(rays_at(theta_max + 1e-3), INTRINSICS, TURNS_BACK)
    assert bool(inside.all()) and not bool(beyond.any())
    edge = theta_max * (1 + 0.1 * theta_max**2 - 0.3 * theta_max**4)
    pixels = INTRINSICS[:2, 2] + torch.tensor([[333.2 * (edge - 1e-4), 0], [333.2 * (edge + 1e-4), 0]])
    rays, valid = unproject_kannala_brandt(pixels, INTRINSICS, TURNS_BACK)
    assert valid.tolist() == [True, False]
    assert bool(rays.isfinite().all())
    assert float(torch.acos(rays[0, 2])) < theta_max


def test_lens_without_turning_point_sees_all_round() -> None:
    assert float(kannala_brandt_theta_max(torch.zeros(4))) == pytest.approx(math.pi)
    assert kannala_brandt_theta_max(torch.zeros(2, 3, 4)).shape == (2, 3)


def test_lens_whose_distortion_is_not_finite_sees_nothing() -> None:
    distortion = torch.zeros(3, 4)
    distortion[0, 2], distortion[1, 0] = math.nan, math.inf
    assert kannala_brandt_theta_max(distortion).tolist() == pytest.approx([0, 0, math.pi])


@pytest.mark.parametrize("model", ["pinhole", "kannala_brandt"])
def test_behind_the_camera_is_invalid_and_finite(model: str) -> None:
    points = torch.tensor([[0.0, 0, -5], [0, 0, 0], [math.nan, 0, 1], [0, math.inf, 1]], dtype=torch.float64)
    pixels, valid = project(points, model, INTRINSICS, TURNS_BACK)
    assert valid.tolist() == [False] * 4
    assert bool(pixels.isfinite().all())


def test_on_the_axis_is_the_principal_point() -> None:
    for model in ("pinhole", "kannala_brandt"):
        pixels, valid = project(torch.tensor([0.0, 0.0, 4.0]).double(), model, INTRINSICS, SURROUND)
        rays, _ = unproject(INTRINSICS[:2, 2], model, INTRINSICS, SURROUND)
        assert bool(valid)
        torch.testing.assert_close(pixels, INTRINSICS[:2, 2])
        torch.testing.assert_close(rays, torch.tensor([0.0, 0.0, 1.0]).double())


@pytest.mark.parametrize("model", ["pinhole", "kannala_brandt"])
def test_gradients_are_right_and_finite_on_the_axis(model: str) -> None:
    points = torch.tensor([[0.3, -0.2, 1.0], [-1.0, 0.4, 0.5]], dtype=torch.float64, requires_grad=True)
    pixels = torch.tensor([[500.0, 300.0], [900.0, 420.0]], dtype=torch.float64, requires_grad=True)
    intrinsics = INTRINSICS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, k: project(p, model, k, SURROUND)[0], (points, intrinsics))
    assert torch.autograd.gradcheck(lambda p, k: unproject(p, model, k, SURROUND)[0], (pixels, intrinsics))
    axis = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0]], dtype=torch.float64, requires_grad=True)
    project(axis, model, INTRINSICS, SURROUND)[0].sum().backward()
    assert axis.grad is not None and bool(axis.grad.isfinite().all())


def test_fisheye_distortion_has_a_gradient() -> None:
    distortion = SURROUND.clone().requires_grad_()
    points = rays_at(1.2, 4)
    assert torch.autograd.gradcheck(lambda d: project_kannala_brandt(points, INTRINSICS, d)[0], (distortion,))
    pixels = project_kannala_brandt(points, INTRINSICS, SURROUND)[0]
    assert torch.autograd.gradcheck(lambda d: unproject_kannala_brandt(pixels, INTRINSICS, d)[0], (distortion,))


def test_cameras_broadcast_over_a_batch() -> None:
    points = torch.randn(2, 6, 50, 3, dtype=torch.float64)
    intrinsics = INTRINSICS.expand(2, 6, 1, 3, 3)
    pixels, valid = project_kannala_brandt(points, intrinsics, SURROUND.expand(2, 6, 1, 4))
    single, single_valid = project_kannala_brandt(points[1, 4], INTRINSICS, SURROUND)
    assert pixels.shape == (2, 6, 50, 2)
    torch.testing.assert_close(pixels[1, 4], single)
    assert bool((valid[1, 4] == single_valid).all())


def test_image_augmentation_moves_pixels() -> None:
    image2aug = torch.tensor([[0.5, 0.0, -10.25], [0.0, 0.5, -20.25], [0.0, 0.0, 1.0]])
    moved = transform_pixels(image2aug, torch.tensor([[100.0, 200.0]]))
    torch.testing.assert_close(moved, torch.tensor([[39.75, 79.75]]))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"project_pinhole: points must be \(\.\.\., 3\), got \(5, 2\)"):
        project_pinhole(torch.zeros(5, 2), INTRINSICS)
    with pytest.raises(ValueError, match=r"intrinsics must be \(\.\.\., 3, 3\), got \(4, 4\)"):
        unproject_pinhole(torch.zeros(5, 2), torch.eye(4))
    with pytest.raises(ValueError, match="camera_model must be 'pinhole' or 'kannala_brandt', got 'mei'"):
        project(torch.zeros(5, 3), "mei", INTRINSICS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"distortion must be \(\.\.\., 4\) for 'kannala_brandt', got None"):
        unproject(torch.zeros(5, 2), "kannala_brandt", INTRINSICS)
    with pytest.raises(ValueError, match=r"distortion must be \(\.\.\., 4\), got \(5,\)"):
        kannala_brandt_theta_max(torch.zeros(5))


def test_real_lenses_return_every_valid_pixel_and_two_turn_back(real_data: Path) -> None:
    turning_deg = []
    for path in sorted((real_data / "fisheye" / "yaml").glob("*.yaml")):
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        intrinsics = torch.from_numpy(storage.getNode("camera_matrix").mat())
        distortion = torch.from_numpy(storage.getNode("dist_coeffs").mat()).flatten()
        width, height = (int(v) for v in storage.getNode("resolution").mat().flatten())
        v, u = torch.meshgrid(torch.arange(0, height, 8), torch.arange(0, width, 8), indexing="ij")
        pixels = torch.stack((u, v), -1).double()
        rays, valid = unproject_kannala_brandt(pixels, intrinsics, distortion)
        theta_max = kannala_brandt_theta_max(distortion)
        back, _ = project_kannala_brandt(rays * 5, intrinsics, distortion)
        inner = valid & (torch.acos(rays[..., 2].clamp(-1, 1)) < theta_max - 0.02)
        torch.testing.assert_close(back[inner], pixels[inner], atol=1e-6, rtol=0)
        assert inner.float().mean() > 0.6
        turning_deg.append(round(math.degrees(float(theta_max)), 1))
    assert sorted(turning_deg)[:2] == [86.9, 108.9]
