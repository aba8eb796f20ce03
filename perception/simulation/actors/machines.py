"""Construction machines by parametric rules: tracked excavator, wheel loader and road roller."""

from __future__ import annotations

import numpy as np

from perception.simulation.actors.solids import Assembly, shifted

MACHINE_STYLES = ("excavator", "loader", "roller")
MACHINE_PAINTS = ("machine_yellow", "machine_yellow", "car_orange")


def build_machine(style: str, size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A construction machine standing on z = 0, its tool forward.

    Args:
        style: one of `MACHINE_STYLES`.
        size_lwh_m: (3,) intended length, width and height.
        rng: source of paint and posture.

    Returns:
        The machine, about `size_lwh_m` large.
    """
    size = (float(size_lwh_m[0]), float(size_lwh_m[1]), float(size_lwh_m[2]))
    machine = Assembly()
    paint = str(rng.choice(MACHINE_PAINTS))
    builders = {"excavator": _add_excavator, "loader": _add_loader, "roller": _add_roller}
    builders[style](machine, size, paint, rng)
    return machine


def _add_cab(
    machine: Assembly, lower: tuple[float, float, float], upper: tuple[float, float, float], paint: str
) -> None:
    """A driver's cab with panes on four sides."""
    faces = machine.block(lower, upper, paint, top=(0.86, 0.9))
    for face in faces[:4]:
        machine.panel(face, (0.1, 0.9), (0.3, 0.92), "car_glass")


def _add_excavator(machine: Assembly, size: tuple[float, float, float], paint: str, rng: np.random.Generator) -> None:
    """Two tracks, a slewing platform with cab and counterweight, and a folded three-piece arm."""
    length, width, height = size
    track = 0.22 * width
    rear = -length / 2
    track_rear, track_front = rear + 0.25, rear + 0.25 + 0.56 * length
    profile = np.array([(0.0, 0.0), (1.0, 0.0), (1.1, 0.42), (0.98, 0.85), (0.02, 0.85), (-0.1, 0.42)])
    for side in (-1, 1):
        outline = np.column_stack(
            (track_rear + (0.08 + 0.84 * profile[:, 0]) * (track_front - track_rear), profile[:, 1])
        )
        near, far = side * (width / 2 - track), side * width / 2
        low, high = max(near, far), min(near, far)
        rings = np.stack([np.column_stack((outline[:, 0], np.full(6, y), outline[:, 1])) for y in (low, high)])
        machine.skin(rings, "chassis", ("tyre", "tyre"))
    middle = (track_rear + track_front) / 2
    machine.block((middle - 0.9, -0.25 * width, 0.4), (middle + 0.9, 0.25 * width, 0.95), "chassis")
    deck = 0.96
    machine.block((rear, -0.46 * width, deck), (middle + 0.9, 0.46 * width, deck + 0.28), "chassis")
    machine.block(
        (rear, -0.46 * width, deck + 0.285), (rear + 1.5, 0.46 * width, 0.66 * height), paint, top=(0.9, 0.92)
    )
    machine.block((rear + 1.55, -0.46 * width, deck + 0.285), (middle + 0.5, -0.1 * width, 0.58 * height), paint)
    _add_cab(machine, (middle - 0.75, 0.08 * width, deck + 0.285), (middle + 0.85, 0.46 * width, 0.94 * height), paint)
    shoulder = np.array([middle + 0.6, 0.0, deck + 0.5])
    elbow = np.array([length / 2 - 0.30 * length * rng.uniform(0.75, 1.0), 0.0, height - 0.17])
    wrist = np.array([length / 2 - 0.45, 0.0, rng.uniform(0.75, 1.2)])
    knee = 0.55 * shoulder + 0.45 * elbow + np.array([-0.25, 0, 0.35])
    machine.limb((shoulder, np.minimum(knee, height - 0.25), elbow), (0.34, 0.30, 0.2), paint)
    machine.limb((shifted(elbow, -0.15), wrist), (0.22, 0.15), paint)
    machine.tube(shifted(shoulder, 0.3, 0.16), 0.4 * shoulder + 0.6 * elbow, (0.07, 0.07), "chrome", sides=4)
    _add_bucket(machine, wrist[0] + 0.12, 0.36 * width, (max(0.05, wrist[2] - 0.75), wrist[2] + 0.1), reach=-0.75)


def _add_bucket(machine: Assembly, front: float, half_width: float, z_range: tuple[float, float], reach: float) -> None:
    """A bucket whose open side looks towards `reach` (its depth, backwards where negative)."""
    low, high = z_range
    middle = (low + high) / 2
    if reach < 0:
        outline = [(front + 0.45 * reach, middle), (front, high), (front - 0.15 * reach, middle), (front, low)]
        outline.append((front + reach, low))
    else:
        outline = [
            (front + 0.3 * reach, high),
            (front + reach, low),
            (front, low),
            (front - 0.1, middle),
            (front, high),
        ]
    x, z = np.array(outline).T
    rings = np.stack([np.column_stack((x, np.full(5, y), z)) for y in (-half_width, half_width)])  # (2, 5, 3)
    machine.skin(rings, "steel_dark", ("steel_dark", "steel_dark"))


def _add_loader(machine: Assembly, size: tuple[float, float, float], paint: str, rng: np.random.Generator) -> None:
    """Four tall wheels, engine behind, cab in the middle, lifting arms and a broad bucket in front."""
    length, width, height = size
    rear, front = -length / 2, length / 2
    radius = min(0.24 * height, 0.78)
    tyre = 0.2 * width
    axles = (rear + 0.22 * length, rear + 0.64 * length)
    for axle in axles:
        for side in (-1, 1):
            machine.wheel(
                (axle, side * (0.44 * width - tyre / 2), radius), radius, tyre, paint, sides=12, open_behind=True
            )
    machine.block((rear + 0.1, -0.2 * width, 0.55), (rear + 0.72 * length, 0.2 * width, 1.1), "chassis")
    hood = machine.block(
        (rear, -0.33 * width, 1.0), (rear + 0.36 * length, 0.33 * width, 0.62 * height), paint, top=(0.95, 0.85)
    )
    machine.panel(hood[1], (0.1, 0.9), (0.1, 0.9), "plastic_black")
    _add_cab(machine, (rear + 0.34 * length, -0.27 * width, 1.1), (rear + 0.58 * length, 0.27 * width, height), paint)
    machine.block((rear + 0.585 * length, -0.2 * width, 0.8), (rear + 0.70 * length, 0.2 * width, 1.6), paint)
    lift = float(rng.uniform(0.0, 0.5))
    tip = np.array([front - 0.95, 0.0, 0.5 + lift])
    for arm_y in (-0.16 * width, 0.16 * width):
        machine.tube((rear + 0.66 * length, arm_y, 1.5), shifted(tip, y=arm_y), (0.16, 0.12), paint, sides=4)
    _add_bucket(machine, front - 0.95, width / 2, (0.05 + lift, 1.15 + lift), reach=0.95)


def _add_roller(machine: Assembly, size: tuple[float, float, float], paint: str, rng: np.random.Generator) -> None:
    """Two steel drums, a body between them and an open driver's stand under a roof."""
    length, width, height = size
    radius = min(0.2 * length, 0.7)
    for x in (-length / 2 + radius, length / 2 - radius):
        machine.tube((x, -0.46 * width, radius), (x, 0.46 * width, radius), (radius, radius), "steel", sides=14)
        for side in (-1, 1):
            low, high = sorted((side * 0.47 * width, side * 0.5 * width))
            machine.block((x - 0.2, low, 0.8 * radius), (x + 0.2, high, 2 * radius + 0.15), paint)
        machine.block(
            (x - 0.9 * radius, -0.5 * width, 2 * radius + 0.05),
            (x + 0.9 * radius, 0.5 * width, 2 * radius + 0.3),
            paint,
        )
    hood = machine.block(
        (0.25, -0.36 * width, 0.6), (length / 2 - 0.25 * radius, 0.36 * width, 0.62 * height), paint, top=(0.9, 0.9)
    )
    machine.panel(hood[0], (0.1, 0.9), (0.45, 0.9), "plastic_black")
    machine.block((-length / 2 + 1.6 * radius, -0.36 * width, 0.5), (0.24, 0.36 * width, 0.45 * height), "chassis")
    machine.block((-0.75, -0.12 * width, 0.45 * height), (-0.3, 0.12 * width, 0.62 * height), "leather")
    roof_low = height - 0.1
    for x in (-1.05, 0.35):
        for y in (-0.33 * width, 0.33 * width):
            machine.tube((x, y, 0.45 * height), (x, y, roof_low), (0.05, 0.05), "plastic_black", sides=3)
    machine.block((-1.2 - float(rng.uniform(0, 0.1)), -0.38 * width, roof_low), (0.5, 0.38 * width, height), paint)
