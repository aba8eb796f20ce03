"""Street furniture, each piece standing on the origin with the road towards -y."""

from __future__ import annotations

import numpy as np

from perception.simulation.mesh import Mesh, cuboid, cylinder, loft, merge, moved, paint, placed, quads, tube

LAMP_RADIUS_M = 0.13
LAMP_STEP_M = 0.34


def _disc(radius_m: float, corners: int, thick_m: float, turn_rad: float, material: str) -> Mesh:
    """A plate in the x z plane around the origin that faces -y."""
    angles = turn_rad + 2 * np.pi * np.arange(corners) / corners
    ring = radius_m * np.column_stack([np.cos(angles), np.sin(angles)])  # (N, 2) x z
    sections = [np.column_stack([ring[:, 0], np.full(corners, y), ring[:, 1]]) for y in (thick_m / 2, -thick_m / 2)]
    return loft(np.stack(sections), paint(material))


def lamp_post(height_m: float, arm_m: float, material: str) -> Mesh:
    """A street lamp with an arm over the road; without an arm a ball on a post.

    Args:
        height_m: height of the light.
        arm_m: reach of the arm, 0 for none.
        material: paint of the post.

    Returns:
        Post, arm and lamp.
    """
    post = paint(material)
    meshes = [cylinder(0.13, (0, 0.9), post, 5), tube((0, 0, 0.9), (0, 0, height_m), (0.085, 0.05), post, 5)]
    if arm_m == 0:
        meshes.append(cylinder(0.2, (height_m, height_m + 0.45), paint("lamp"), 6))
        return merge([*meshes, cylinder(0.26, (height_m + 0.45, height_m + 0.55), post, 6)])
    meshes.append(tube((0, 0, height_m - 0.05), (0, -arm_m, height_m + 0.35), (0.05, 0.035), post, 4))
    meshes.append(cuboid((0.26, 0.75, 0.12), post, (0, -arm_m - 0.2, height_m + 0.37)))
    meshes.append(cuboid((0.2, 0.6, 0.03), paint("lamp"), (0, -arm_m - 0.2, height_m + 0.295)))
    return merge(meshes)


def _lens(material: str) -> Mesh:
    """A lamp's glass around the origin, facing -y."""
    angles = 2 * np.pi * np.arange(6) / 6
    x, z = LAMP_RADIUS_M * np.cos(angles), LAMP_RADIUS_M * np.sin(angles)
    ring = np.column_stack([x, 0 * x, z])  # (6, 3)
    return quads(np.array([ring[[0, 1, 2, 3]], ring[[3, 4, 5, 0]]]), paint(material))


def signal_face() -> Mesh:
    """A traffic light's housing that faces -y, its middle lamp in the origin, unlit.

    Returns:
        The housing, its back plate and three lamps.
    """
    housing = paint("signal_housing")
    meshes = [cuboid((0.36, 0.2, 1.12), housing, (0, 0.13, 0)), cuboid((0.62, 0.02, 1.38), housing, (0, 0.15, 0))]
    for z in (LAMP_STEP_M, 0.0, -LAMP_STEP_M):
        meshes.append(moved(_lens("signal_dark"), _lifted(0.02, z)))
        meshes.append(cuboid((0.3, 0.2, 0.02), housing, (0, -0.06, z + LAMP_RADIUS_M + 0.02)))
    return merge(meshes)


def _lifted(y: float, z: float) -> np.ndarray:
    a2b = np.eye(4)
    a2b[1:3, 3] = y, z
    return a2b


def lit_lamp(color: str) -> Mesh:
    """The lit lamp of a traffic light, to be shown before its unlit face.

    Args:
        color: "red", "amber" or "green".

    Returns:
        A disc in the frame of the signal head: x y z of the head, x axis along its yaw, the way that it faces.

    Raises:
        ValueError: another colour.
    """
    steps = {"red": 1, "amber": 0, "green": -1}
    if color not in steps:
        raise ValueError(f"lit_lamp: color must be one of {tuple(steps)}, got {color!r}")
    return placed(moved(_lens(f"signal_{color}"), _lifted(0.01, steps[color] * LAMP_STEP_M)), (0, 0, 0), np.pi / 2)


def signal_pole(reach_m: float) -> Mesh:
    """The pole of a traffic light with an arm of a given reach over the road; its faces are separate.

    Args:
        reach_m: length of the arm towards -y, 0 for none.

    Returns:
        Pole, arm and the box with the push button.
    """
    steel = paint("steel_dark")
    height = 5.9 if reach_m else 3.4
    meshes = [cylinder(0.16, (0, 0.35), steel, 6), tube((0, 0, 0.35), (0, 0, height), (0.1, 0.075), steel, 6)]
    meshes.append(cuboid((0.14, 0.1, 0.25), paint("sign_yellow"), (0, -0.13, 1.1)))
    if reach_m:
        meshes.append(tube((0, 0, 5.6), (0, -reach_m, 5.85), (0.075, 0.05), steel, 6))
    return merge(meshes)


def sign_post(kind: str) -> Mesh:
    """A road sign whose face looks towards -y.

    Args:
        kind: "stop", "yield", "crossing", "limit", "parking", "ban" or "street".

    Returns:
        Post and plate.
    """
    post = tube((0, 0.05, 0), (0, 0.05, 2.65), (0.03, 0.03), paint("steel"), 4)
    z = 2.35
    if kind == "stop":
        plate = [
            _disc(0.4, 8, 0.02, np.pi / 8, "sign_white"),
            placed(_disc(0.37, 8, 0.02, np.pi / 8, "sign_red"), (0, -0.006, 0)),
        ]
        plate.append(cuboid((0.5, 0.02, 0.14), paint("sign_white"), (0, -0.012, 0)))
    elif kind == "yield":
        plate = [
            _disc(0.46, 3, 0.02, -np.pi / 2, "sign_red"),
            placed(_disc(0.28, 3, 0.02, -np.pi / 2, "sign_white"), (0, -0.006, 0)),
        ]
    elif kind == "crossing":
        plate = [_disc(0.48, 4, 0.02, 0.0, "sign_yellow"), cuboid((0.1, 0.02, 0.4), paint("trim_dark"), (0, -0.006, 0))]
    elif kind == "limit":
        plate = [
            cuboid((0.5, 0.02, 0.62), paint("sign_white")),
            cuboid((0.26, 0.02, 0.26), paint("trim_dark"), (0, -0.006, -0.1)),
        ]
    elif kind == "ban":
        plate = [
            _disc(0.32, 8, 0.02, 0.0, "sign_red"),
            placed(_disc(0.22, 8, 0.02, 0.0, "sign_white"), (0, -0.006, 0)),
        ]
    elif kind == "parking":
        plate = [
            cuboid((0.46, 0.02, 0.46), paint("sign_blue")),
            cuboid((0.1, 0.02, 0.3), paint("sign_white"), (-0.06, -0.006, 0)),
        ]
    else:
        plate = [
            cuboid((0.95, 0.02, 0.2), paint("sign_green")),
            placed(cuboid((0.95, 0.02, 0.2), paint("sign_green"), (0, 0, 0.22)), (0, 0, 0), np.pi / 2),
        ]
    return merge([post, placed(merge(plate), (0, 0, z))])


def bench() -> Mesh:
    """A bench whose seat looks towards -y.

    Returns:
        Seat, back and legs.
    """
    wood, iron = paint("wood"), paint("steel_dark")
    boards = [cuboid((1.7, 0.42, 0.06), wood, (0, 0, 0.45)), cuboid((1.7, 0.05, 0.36), wood, (0, 0.22, 0.72))]
    return merge(boards + [cuboid((0.07, 0.4, 0.42), iron, (x, 0, 0.21)) for x in (-0.7, 0.7)])


def small_piece(kind: str) -> Mesh:
    """A hydrant, bin, post box, bollard or switch box.

    Args:
        kind: "hydrant", "bin", "post_box", "bollard" or "cabinet".

    Returns:
        Its mesh.
    """
    if kind == "hydrant":
        cap = cylinder(0.1, (0.62, 0.78), paint("hydrant"), 6)
        return merge(
            [
                cylinder(0.14, (0, 0.62), paint("hydrant"), 6),
                cap,
                cuboid((0.42, 0.12, 0.12), paint("hydrant"), (0, 0, 0.48)),
            ]
        )
    if kind == "bin":
        return merge([cylinder(0.27, (0, 0.85), paint("bin"), 6), cylinder(0.3, (0.85, 0.98), paint("steel_dark"), 6)])
    if kind == "post_box":
        return cuboid((0.5, 0.5, 1.15), paint("post_box"), (0, 0, 0.575))
    if kind == "bollard":
        return cylinder(0.08, (0, 0.95), paint("steel_dark"), 6)
    return cuboid((1.1, 0.4, 1.25), paint("steel_green"), (0, 0, 0.625))
