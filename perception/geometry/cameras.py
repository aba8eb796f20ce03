"""Pinhole and Kannala-Brandt fisheye cameras: project, unproject, and which points and pixels are valid.

Camera frame: x right, y down, z forward. Pixel (0, 0) is the centre of the top-left pixel. The result at an invalid
point or pixel is finite and means nothing. Every function is differentiable in all its floating-point arguments.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

CameraModel = Literal["pinhole", "kannala_brandt"]

MIN_DEPTH_M = 1e-3
_NEWTON_STEPS = 12


def project_pinhole(points: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Projects points with a pinhole camera.

    Args:
        points: (..., 3), metres in the camera frame.
        intrinsics: (..., 3, 3), broadcast against the leading axes of `points`.

    Returns:
        Pixels (..., 2) u v and whether each point lies in front of the camera (...) bool.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check("project_pinhole", "points", points, 3, intrinsics)
    depth = points[..., 2]
    valid = (depth > MIN_DEPTH_M) & points.isfinite().all(-1)
    safe_depth = torch.where(valid, depth, torch.ones_like(depth))
    safe_points = torch.where(valid[..., None], points[..., :2], torch.zeros_like(points[..., :2]))
    return _to_pixels(safe_points / safe_depth[..., None], intrinsics), valid


def unproject_pinhole(pixels: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Gives the viewing ray of each pixel of a pinhole camera.

    Args:
        pixels: (..., 2) u v.
        intrinsics: (..., 3, 3), broadcast against the leading axes of `pixels`.

    Returns:
        Unit rays (..., 3) in the camera frame and whether each is valid (...) bool (finite pixels).

    Raises:
        ValueError: the shapes do not fit.
    """
    _check("unproject_pinhole", "pixels", pixels, 2, intrinsics)
    plane = _to_plane(pixels, intrinsics)
    rays = torch.cat((plane, torch.ones_like(plane[..., :1])), dim=-1)  # (..., 2) -> (..., 3)
    return rays / rays.norm(dim=-1, keepdim=True), pixels.isfinite().all(-1)


def kannala_brandt_theta_max(distortion: Tensor) -> Tensor:
    """Finds the angle up to which a Kannala-Brandt camera is one-to-one: the first root of dr/dtheta, at most pi.

    Published calibrations do turn back, some inside the picture; beyond this angle neither points nor pixels are valid.

    Args:
        distortion: (..., 4) k1 k2 k3 k4.

    Returns:
        (...) angles in radians from the optical axis, without gradient; 0 where a coefficient is not finite, so that
        the camera sees nothing.

    Raises:
        ValueError: the last axis is not 4.
    """
    if distortion.shape[-1:] != (4,):
        raise ValueError(f"kannala_brandt_theta_max: distortion must be (..., 4), got {tuple(distortion.shape)}")
    rows = distortion.detach().cpu().to(torch.float64).reshape(-1, 4).numpy()
    angles = []
    for k1, k2, k3, k4 in rows:
        if not np.isfinite((k1, k2, k3, k4)).all():
            angles.append(0.0)
            continue
        roots = np.roots((9 * k4, 7 * k3, 5 * k2, 3 * k1, 1.0))  # in theta squared
        squares = roots.real[(np.abs(roots.imag) < 1e-9 * np.maximum(1.0, np.abs(roots))) & (roots.real > 0)]
        angles.append(min(math.sqrt(squares.min()), math.pi) if squares.size else math.pi)
    return torch.tensor(angles, dtype=distortion.dtype, device=distortion.device).reshape(distortion.shape[:-1])


def project_kannala_brandt(
    points: Tensor, intrinsics: Tensor, distortion: Tensor, theta_max_rad: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Projects points with a fisheye camera; points beside and behind the camera are fine up to `theta_max_rad`.

    Args:
        points: (..., 3), metres in the camera frame.
        intrinsics: (..., 3, 3), broadcast against the leading axes of `points`.
        distortion: (..., 4) k1 k2 k3 k4, broadcast likewise.
        theta_max_rad: (...) largest angle from the axis; found from the distortion if not given.

    Returns:
        Pixels (..., 2) u v and whether each point lies within the largest angle (...) bool.

    Raises:
        ValueError: the shapes do not fit.

    Source:
        Kannala and Brandt 2006, section 2, with OpenCV's four coefficients.
    """
    _check("project_kannala_brandt", "points", points, 3, intrinsics)
    theta_max = kannala_brandt_theta_max(distortion) if theta_max_rad is None else theta_max_rad
    finite = points.isfinite().all(-1)
    x, y, z = torch.where(finite[..., None], points, torch.ones_like(points)).unbind(-1)
    squared = x.square() + y.square()
    off_axis = squared > 0
    side = torch.where(off_axis, squared, torch.ones_like(x)).sqrt()
    theta = torch.atan2(torch.where(off_axis, side, torch.zeros_like(side)), z)
    in_front = z > 0
    on_axis_scale = 1 / torch.where(in_front, z, torch.ones_like(z))
    radius_per_metre = torch.where(off_axis, _kannala_brandt_radius(theta, distortion) / side, on_axis_scale)
    valid = finite & (theta < theta_max) & (off_axis | in_front)
    plane = torch.stack((x * radius_per_metre, y * radius_per_metre), dim=-1)
    return _to_pixels(plane, intrinsics), valid


def unproject_kannala_brandt(
    pixels: Tensor, intrinsics: Tensor, distortion: Tensor, theta_max_rad: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gives the viewing ray of each pixel of a fisheye camera.

    Args:
        pixels: (..., 2) u v.
        intrinsics: (..., 3, 3), broadcast against the leading axes of `pixels`.
        distortion: (..., 4) k1 k2 k3 k4, broadcast likewise.
        theta_max_rad: (...) largest angle from the axis; found from the distortion if not given.

    Returns:
        Unit rays (..., 3) in the camera frame and whether each pixel lies inside the image circle (...) bool.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check("unproject_kannala_brandt", "pixels", pixels, 2, intrinsics)
    theta_max = kannala_brandt_theta_max(distortion) if theta_max_rad is None else theta_max_rad
    finite = pixels.isfinite().all(-1)
    plane = _to_plane(torch.where(finite[..., None], pixels, torch.zeros_like(pixels)), intrinsics)
    squared = plane.square().sum(-1)
    off_axis = squared > 0
    radius = torch.where(off_axis, squared, torch.ones_like(squared)).sqrt()
    valid = finite & (~off_axis | (radius <= _kannala_brandt_radius(theta_max, distortion)))
    theta = _solve_theta(torch.where(valid, radius, torch.zeros_like(radius)), distortion, theta_max)
    sine_per_radius = torch.where(off_axis, theta.sin() / radius, torch.ones_like(radius))
    forward = torch.where(off_axis, theta.cos(), torch.ones_like(theta))
    return torch.cat((plane * sine_per_radius[..., None], forward[..., None]), dim=-1), valid


def project(
    points: Tensor, camera_model: CameraModel, intrinsics: Tensor, distortion: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Projects points with the named camera model.

    Args:
        points: (..., 3), metres in the camera frame.
        camera_model: "pinhole" or "kannala_brandt".
        intrinsics: (..., 3, 3).
        distortion: (..., 4) for "kannala_brandt"; not read for "pinhole".

    Returns:
        Pixels (..., 2) u v and validity (...) bool.

    Raises:
        ValueError: unknown model, missing distortion, or shapes that do not fit.
    """
    if camera_model == "pinhole":
        return project_pinhole(points, intrinsics)
    return project_kannala_brandt(points, intrinsics, _require_fisheye("project", camera_model, distortion))


def unproject(
    pixels: Tensor, camera_model: CameraModel, intrinsics: Tensor, distortion: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gives the viewing ray of each pixel of the named camera model.

    Args:
        pixels: (..., 2) u v.
        camera_model: "pinhole" or "kannala_brandt".
        intrinsics: (..., 3, 3).
        distortion: (..., 4) for "kannala_brandt"; not read for "pinhole".

    Returns:
        Unit rays (..., 3) in the camera frame and validity (...) bool.

    Raises:
        ValueError: unknown model, missing distortion, or shapes that do not fit.
    """
    if camera_model == "pinhole":
        return unproject_pinhole(pixels, intrinsics)
    return unproject_kannala_brandt(pixels, intrinsics, _require_fisheye("unproject", camera_model, distortion))


def within_lens(points: Tensor, theta_max_rad: Tensor | None) -> Tensor:
    """Tells which points lie within the largest angle from the axis that a camera is said to see.

    Args:
        points: (..., 3) in the camera frame, at any distance.
        theta_max_rad: broadcast against the leading axes of `points`; None where nothing is said.

    Returns:
        (...) bool; everything where nothing is said.
    """
    if theta_max_rad is None:
        return torch.ones_like(points[..., 0], dtype=torch.bool)
    return points[..., 2] >= points.norm(dim=-1) * theta_max_rad.cos()


def transform_pixels(image2aug: Tensor, pixels: Tensor) -> Tensor:
    """Moves pixels of the recorded picture to those of the augmented one.

    Args:
        image2aug: (..., 3, 3) affine, broadcast against the leading axes of `pixels`.
        pixels: (..., 2) u v.

    Returns:
        (..., 2) pixels of the augmented picture.
    """
    return _to_pixels(pixels, image2aug)


def _kannala_brandt_radius(theta: Tensor, distortion: Tensor) -> Tensor:
    k1, k2, k3, k4 = distortion.unbind(-1)
    t = theta.square()
    return theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4))))


def _kannala_brandt_slope(theta: Tensor, distortion: Tensor) -> Tensor:
    k1, k2, k3, k4 = distortion.unbind(-1)
    t = theta.square()
    return 1 + t * (3 * k1 + t * (5 * k2 + t * (7 * k3 + t * 9 * k4)))


def _solve_theta(radius: Tensor, distortion: Tensor, theta_max: Tensor) -> Tensor:
    """Inverts the radius by Newton steps kept inside a shrinking bracket; the last step carries the gradient."""
    with torch.no_grad():
        low = torch.zeros_like(radius)
        high = theta_max.expand(radius.shape).clone()
        theta = torch.minimum(radius, high)
        for _ in range(_NEWTON_STEPS * 2):
            error = _kannala_brandt_radius(theta, distortion) - radius
            low = torch.where(error < 0, theta, low)
            high = torch.where(error > 0, theta, high)
            step = theta - error / _kannala_brandt_slope(theta, distortion)
            theta = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    slope = _kannala_brandt_slope(theta, distortion).clamp(min=1e-6)
    refined = theta - (_kannala_brandt_radius(theta, distortion) - radius) / slope
    return torch.minimum(refined.clamp(min=0), theta_max.expand(refined.shape))


def _to_pixels(plane: Tensor, intrinsics: Tensor) -> Tensor:
    x, y = plane.unbind(-1)
    u = intrinsics[..., 0, 0] * x + intrinsics[..., 0, 1] * y + intrinsics[..., 0, 2]
    v = intrinsics[..., 1, 0] * x + intrinsics[..., 1, 1] * y + intrinsics[..., 1, 2]
    return torch.stack((u, v), dim=-1)


def _to_plane(pixels: Tensor, intrinsics: Tensor) -> Tensor:
    v = (pixels[..., 1] - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    u = (pixels[..., 0] - intrinsics[..., 0, 2] - intrinsics[..., 0, 1] * v) / intrinsics[..., 0, 0]
    return torch.stack((u, v), dim=-1)


def _require_fisheye(function: str, camera_model: str, distortion: Tensor | None) -> Tensor:
    if camera_model != "kannala_brandt":
        raise ValueError(f"{function}: camera_model must be 'pinhole' or 'kannala_brandt', got {camera_model!r}")
    if distortion is None:
        raise ValueError(f"{function}: distortion must be (..., 4) for 'kannala_brandt', got None")
    return distortion


def _check(function: str, name: str, value: Tensor, size: int, intrinsics: Tensor) -> None:
    if value.shape[-1:] != (size,):
        raise ValueError(f"{function}: {name} must be (..., {size}), got {tuple(value.shape)}")
    if intrinsics.shape[-2:] != (3, 3):
        raise ValueError(f"{function}: intrinsics must be (..., 3, 3), got {tuple(intrinsics.shape)}")
