"""Rigid transforms as 4x4 matrices named `a2b`: `p_b = a2b @ p_a`, composed from right to left."""

import math

import torch
from torch import Tensor


def wrap_angle(angle_rad: Tensor) -> Tensor:
    """Wraps angles into [-pi, pi).

    Args:
        angle_rad: any shape, radians.

    Returns:
        The same shape and dtype; NaN stays NaN.
    """
    wrapped = torch.remainder(angle_rad + math.pi, 2 * math.pi) - math.pi
    # The remainder of a tiny negative number rounds up to 2 pi, which would give +pi.
    return torch.where(wrapped >= math.pi, wrapped - 2 * math.pi, wrapped)


def quaternion_to_matrix(quaternion_wxyz: Tensor) -> Tensor:
    """Turns quaternions into rotation matrices; the quaternions are normalised first.

    Args:
        quaternion_wxyz: (..., 4), scalar part first.

    Returns:
        (..., 3, 3) rotation matrices.

    Raises:
        ValueError: the last axis is not 4, or a quaternion has (almost) no length or is not finite.
    """
    if quaternion_wxyz.shape[-1:] != (4,):
        raise ValueError(f"quaternion_to_matrix: quaternion_wxyz must be (..., 4), got {tuple(quaternion_wxyz.shape)}")
    norm = quaternion_wxyz.norm(dim=-1, keepdim=True)
    if not bool((norm.isfinite() & (norm > 1e-6)).all()):
        raise ValueError("quaternion_to_matrix: quaternion_wxyz must have a finite length above 1e-6")
    w, x, y, z = (quaternion_wxyz / norm).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))  # (..., 9) -> (..., 3, 3)


def matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """Turns rotation matrices into unit quaternions with w >= 0.

    Args:
        rotation: (..., 3, 3).

    Returns:
        (..., 4) quaternions, scalar part first.

    Raises:
        ValueError: the last axes are not (3, 3).

    Source:
        Bar-Itzhack 2000: the eigenvector of the largest eigenvalue is the quaternion, at every angle alike.
    """
    if rotation.shape[-2:] != (3, 3):
        raise ValueError(f"matrix_to_quaternion: rotation must be (..., 3, 3), got {tuple(rotation.shape)}")
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotation.flatten(-2).unbind(-1)
    symmetric = torch.stack(
        (
            m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01,
            m21 - m12, m00 - m11 - m22, m10 + m01, m20 + m02,
            m02 - m20, m10 + m01, m11 - m00 - m22, m21 + m12,
            m10 - m01, m20 + m02, m21 + m12, m22 - m00 - m11,
        ),
        dim=-1,
    ).unflatten(-1, (4, 4))  # fmt: skip
    quaternion = torch.linalg.eigh(symmetric).eigenvectors[..., -1]  # (..., 4, 4) -> (..., 4)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """Puts a rotation and a translation into one transform.

    Args:
        rotation: (..., 3, 3).
        translation: (..., 3), metres.

    Returns:
        (..., 4, 4) transforms.

    Raises:
        ValueError: the shapes do not fit.
    """
    if rotation.shape[-2:] != (3, 3) or translation.shape[-1:] != (3,):
        raise ValueError(
            f"rigid: rotation must be (..., 3, 3) and translation (..., 3), "
            f"got {tuple(rotation.shape)} and {tuple(translation.shape)}"
        )
    batch = torch.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    transform = torch.zeros(*batch, 4, 4, dtype=rotation.dtype, device=rotation.device)
    transform[..., :3, :3] = rotation
    transform[..., :3, 3] = translation
    transform[..., 3, 3] = 1
    return transform


def rigid_from_quaternion(translation: Tensor, rotation_wxyz: Tensor) -> Tensor:
    """Builds transforms from nuScenes-style translation and quaternion.

    Args:
        translation: (..., 3), metres.
        rotation_wxyz: (..., 4), scalar part first.

    Returns:
        (..., 4, 4) transforms.

    Raises:
        ValueError: the shapes do not fit, or a quaternion has no length.
    """
    return rigid(quaternion_to_matrix(rotation_wxyz), translation)


def yaw_matrix(yaw_rad: Tensor) -> Tensor:
    """Builds rotations about +z.

    Args:
        yaw_rad: (...), radians, counter-clockwise from +x.

    Returns:
        (..., 4, 4) transforms without translation.
    """
    transform = torch.eye(4, dtype=yaw_rad.dtype, device=yaw_rad.device).repeat(*yaw_rad.shape, 1, 1)
    transform[..., 0, 0] = yaw_rad.cos()
    transform[..., 0, 1] = -yaw_rad.sin()
    transform[..., 1, 0] = yaw_rad.sin()
    transform[..., 1, 1] = yaw_rad.cos()
    return transform


def invert_rigid(a2b: Tensor) -> Tensor:
    """Inverts rigid transforms exactly, by transposing the rotation.

    Args:
        a2b: (..., 4, 4) rigid transforms (no scale, no mirror).

    Returns:
        (..., 4, 4): `b2a`.

    Raises:
        ValueError: the last axes are not (4, 4).
    """
    if a2b.shape[-2:] != (4, 4):
        raise ValueError(f"invert_rigid: a2b must be (..., 4, 4), got {tuple(a2b.shape)}")
    rotation = a2b[..., :3, :3].transpose(-1, -2)
    return rigid(rotation, -(rotation @ a2b[..., :3, 3:]).squeeze(-1))


def transform_points(a2b: Tensor, points: Tensor) -> Tensor:
    """Moves points from frame a to frame b; columns after the third are kept as they are.

    Args:
        a2b: (..., 4, 4), any affine transform; leading axes broadcast against those of `points` before its last two.
        points: (..., P, 3 + C), metres in frame a.

    Returns:
        (..., P, 3 + C) in frame b, in the dtype of `points`.

    Raises:
        ValueError: the shapes do not fit.
    """
    if a2b.shape[-2:] != (4, 4):
        raise ValueError(f"transform_points: a2b must be (..., 4, 4), got {tuple(a2b.shape)}")
    if points.ndim < 2 or points.shape[-1] < 3:
        raise ValueError(f"transform_points: points must be (..., P, 3 + C), got {tuple(points.shape)}")
    matrix = a2b.double()  # which autocast leaves alone; it would round coordinates to a quarter of a metre
    moved = points[..., :3].double() @ matrix[..., :3, :3].transpose(-1, -2) + matrix[..., None, :3, 3]
    moved = moved.to(points.dtype)
    if points.shape[-1] == 3:
        return moved
    extra = points[..., 3:].expand(*moved.shape[:-1], -1)
    return torch.cat((moved, extra), dim=-1)
