"""Passenger cars and vans by parametric rules: saloon, hatchback, estate, SUV, van and pickup."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.simulation.actors.solids import Assembly

PAINT_SHARES = {
    "car_white": 0.23, "car_silver": 0.16, "car_grey": 0.17, "car_black": 0.15, "car_red": 0.07, "car_blue": 0.06,
    "car_navy": 0.05, "car_green": 0.02, "car_beige": 0.03, "car_brown": 0.02, "car_teal": 0.02, "car_maroon": 0.02,
}  # fmt: skip
"""How often each paint is seen on roads."""


@dataclass(frozen=True)
class CarStyle:
    """Proportions of a body style: shares of the length from the rear (x), shares of the height (z).

    Attributes:
        deck: (x, z) outline of the body's upper edge from the rear end to the front end, below the cabin too.
        glasshouse: x of the cabin's rear foot, rear roof edge, front roof edge and front foot.
        roof_share: width of the roof relative to the cabin's foot.
        windows: shares along the cabin's side at which each side window begins and ends, from the front.
        axles: x of the rear and the front axle.
        wheel_radius_m: smallest and largest.
        clearance: height of the sill.
    """

    deck: tuple[tuple[float, float], ...]
    glasshouse: tuple[float, float, float, float]
    roof_share: float
    windows: tuple[tuple[float, float], ...]
    axles: tuple[float, float]
    wheel_radius_m: tuple[float, float] = (0.31, 0.34)
    clearance: float = 0.13


TWO_DOORS = ((0.06, 0.46), (0.52, 0.93))
THREE_PANES = ((0.05, 0.35), (0.39, 0.67), (0.71, 0.95))

CAR_STYLES = {
    "saloon": CarStyle(
        deck=((0.0, 0.60), (0.03, 0.66), (0.17, 0.68), (0.70, 0.655), (0.95, 0.54), (1.0, 0.46)),
        glasshouse=(0.09, 0.25, 0.52, 0.73), roof_share=0.76, windows=TWO_DOORS, axles=(0.20, 0.80),
    ),
    "hatchback": CarStyle(
        deck=((0.0, 0.56), (0.03, 0.62), (0.5, 0.635), (0.72, 0.62), (0.95, 0.53), (1.0, 0.45)),
        glasshouse=(0.02, 0.13, 0.54, 0.76), roof_share=0.78, windows=TWO_DOORS, axles=(0.17, 0.81),
    ),
    "estate": CarStyle(
        deck=((0.0, 0.56), (0.03, 0.63), (0.5, 0.65), (0.72, 0.645), (0.95, 0.53), (1.0, 0.45)),
        glasshouse=(0.015, 0.08, 0.52, 0.73), roof_share=0.78, windows=THREE_PANES, axles=(0.20, 0.80),
    ),
    "suv": CarStyle(
        deck=((0.0, 0.55), (0.03, 0.61), (0.5, 0.63), (0.74, 0.62), (0.96, 0.565), (1.0, 0.46)),
        glasshouse=(0.02, 0.08, 0.57, 0.74), roof_share=0.82, windows=THREE_PANES, axles=(0.19, 0.81),
        wheel_radius_m=(0.36, 0.40), clearance=0.16,
    ),
    "van": CarStyle(
        deck=((0.0, 0.50), (0.02, 0.54), (0.5, 0.54), (0.80, 0.53), (0.97, 0.42), (1.0, 0.34)),
        glasshouse=(0.006, 0.025, 0.74, 0.885), roof_share=0.86, windows=THREE_PANES, axles=(0.19, 0.82),
        wheel_radius_m=(0.32, 0.36), clearance=0.11,
    ),
    "pickup": CarStyle(
        deck=((0.0, 0.56), (0.02, 0.58), (0.38, 0.58), (0.40, 0.61), (0.73, 0.61), (0.96, 0.56), (1.0, 0.46)),
        glasshouse=(0.385, 0.43, 0.62, 0.745), roof_share=0.82, windows=TWO_DOORS, axles=(0.22, 0.82),
        wheel_radius_m=(0.38, 0.42), clearance=0.18,
    ),
}  # fmt: skip
"""Body styles of `vehicle.car`."""


def draw_paint(rng: np.random.Generator) -> str:
    """A car paint's material name, drawn as often as it is seen on roads."""
    return str(rng.choice(list(PAINT_SHARES), p=list(PAINT_SHARES.values())))


def build_car(style: str, size_lwh_m: np.ndarray, paint: str, rng: np.random.Generator) -> Assembly:
    """A passenger car standing on z = 0.

    Args:
        style: a key of `CAR_STYLES`.
        size_lwh_m: (3,) intended length, width and height.
        paint: the body's material.
        rng: source of the small differences between two cars of a style.

    Returns:
        The car, rear axle behind, about `size_lwh_m` large.
    """
    rule = CAR_STYLES[style]
    length, width, height = (float(value) for value in size_lwh_m)
    body_width = width - 0.16  # the mirrors are the widest part
    car = Assembly()
    radius = float(rng.uniform(*rule.wheel_radius_m))
    axles = [(share - 0.5) * length + float(rng.uniform(-0.04, 0.04)) for share in rule.axles]
    _add_body(car, rule, (length, body_width, height), axles, radius, paint)
    rim = "rim" if rng.random() < 0.8 else "plastic_black"
    for axle in axles:
        for side in (-1, 1):
            car.wheel((axle, side * (body_width / 2 - 0.13), radius), radius, 0.22, rim)
    _add_cabin(car, rule, (length, body_width, height), paint, blind=style == "van" and rng.random() < 0.5)
    _add_lamps(car, rule, (length, body_width, height))
    if style == "pickup":
        bed_end = (rule.glasshouse[0] - 0.5) * length - 0.05
        deck_z = 0.58 * height + 0.01
        car.quad([(bed_end, -0.4 * body_width, deck_z), (bed_end, 0.4 * body_width, deck_z),
                  (-0.48 * length, 0.4 * body_width, deck_z), (-0.48 * length, -0.4 * body_width, deck_z)],
                 "plastic_black")  # fmt: skip
    mirror_x = (rule.glasshouse[3] - 0.5) * length - 0.12 * height
    mirror_z = 0.66 * height if style != "van" else 0.56 * height
    for side in (-1, 1):
        inner, outer = side * (body_width / 2 - 0.06), side * width / 2
        low, high = sorted((inner, outer))
        car.block((mirror_x - 0.07, low, mirror_z), (mirror_x + 0.05, high, mirror_z + 0.13), paint, top=(0.8, 1.0))
    return car


def _add_body(
    car: Assembly, rule: CarStyle, size: tuple[float, float, float], axles: list[float], radius: float, paint: str
) -> None:
    """The lower body: one skin over cross-sections whose lower edge rises over the wheels."""
    length, width, height = size
    sill = rule.clearance * height
    arch = radius + 0.06
    angles = np.radians([165, 115, 65, 15])
    stations = [-length / 2, -0.475 * length, 0.475 * length, length / 2]
    stations += [axle + arch * np.cos(angle) * 1.02 for axle in axles for angle in angles]
    stations += [(x - 0.5) * length for x, _ in rule.deck if 0.1 < x < 0.95 and abs(x - 0.5) > 0.01]
    x = np.array(sorted(stations))  # (N,)
    bottom = np.full(len(x), sill)
    for axle in axles:
        reach = np.clip(1.06 - ((x - axle) / arch) ** 2, 0, 1)
        bottom = np.maximum(bottom, np.where(reach > 0, radius + arch * np.sqrt(reach) - 0.03, 0))
    ends = np.abs(x) > 0.48 * length
    bottom[ends] += 0.04 * height
    deck_x, deck_z = np.array(rule.deck).T
    top = height * np.interp(x / length + 0.5, deck_x, deck_z)
    plan = width / 2 * np.interp(np.abs(x) / length, [0.0, 0.40, 0.475, 0.5], [1.0, 0.99, 0.94, 0.84])
    shoulder = np.minimum(np.maximum(0.45 * height, bottom + 0.05), top - 0.05)
    upper, lower = 0.955 * plan, 0.96 * plan
    rings = np.empty((len(x), 6, 3))
    rings[..., 0] = x[:, None]
    rings[..., 1] = np.stack((lower, plan, upper, -upper, -plan, -lower), axis=1)
    rings[..., 2] = np.stack((bottom, shoulder, top, top, shoulder, bottom), axis=1)
    strips = [paint, paint, paint, paint, paint, "plastic_black"]
    car.skin(rings, strips, (paint, paint))


def _add_cabin(car: Assembly, rule: CarStyle, size: tuple[float, float, float], paint: str, blind: bool) -> None:
    """The glasshouse: a painted frustum with a pane on every face; `blind` closes the rear panes of a van."""
    length, width, height = size
    rear_foot, rear_roof, front_roof, front_foot = (np.array(rule.glasshouse) - 0.5) * length
    deck_x, deck_z = np.array(rule.deck).T
    foot_z = height * np.interp(np.array(rule.glasshouse)[[0, 3]], deck_x, deck_z) - 0.02
    foot_y, roof_y = 0.94 * width / 2, 0.94 * width / 2 * rule.roof_share
    eave = 0.965 * height

    def rectangle(front: float, back: float, half_y: float, z_front: float, z_back: float) -> np.ndarray:
        """A level or sloping quadrilateral: front right, front left, back left, back right."""
        return np.array(
            [(front, -half_y, z_front), (front, half_y, z_front), (back, half_y, z_back), (back, -half_y, z_back)]
        )

    lid = rectangle(front_roof, rear_roof, roof_y, eave, eave)
    faces = car.frustum(rectangle(front_foot, rear_foot, foot_y, foot_z[1], foot_z[0]), lid, paint)
    crown = rectangle(front_roof - 0.1 * height, rear_roof + 0.06 * height, 0.86 * roof_y, height, height)
    car.frustum(lid, crown, paint)
    car.panel(faces[0], (0.05, 0.95), (0.06, 0.93), "car_glass")
    car.panel(faces[1], (0.09, 0.91), (0.22, 0.9), "car_glass")
    for start, end in rule.windows[:1] if blind else rule.windows:
        car.panel(faces[2], (start, end), (0.14, 0.9), "car_glass")
        car.panel(faces[3], (1 - end, 1 - start), (0.14, 0.9), "car_glass")


def _add_lamps(car: Assembly, rule: CarStyle, size: tuple[float, float, float]) -> None:
    """Headlamps, grille and plate in front; tail lamps, bumper and plate behind."""
    length, width, height = size
    half = 0.84 * width / 2 * 0.97
    nose_z, tail_z = rule.deck[-1][1] * height, rule.deck[0][1] * height
    low = (rule.clearance + 0.05) * height
    front = np.array(
        [(length / 2, -half, low), (length / 2, half, low), (length / 2, half, nose_z), (length / 2, -half, nose_z)]
    )
    back = np.array(
        [(-length / 2, half, low), (-length / 2, -half, low), (-length / 2, -half, tail_z), (-length / 2, half, tail_z)]
    )
    for start, end in ((0.01, 0.22), (0.78, 0.99)):
        car.panel(front, (start, end), (0.66, 0.95), "headlamp")
        car.panel(back, (start, end), (0.62, 0.93), "tail_lamp")
    car.panel(front, (0.26, 0.74), (0.52, 0.9), "plastic_black")
    car.panel(front, (0.04, 0.96), (0.02, 0.28), "plastic_black")
    car.panel(back, (0.04, 0.96), (0.0, 0.24), "plastic_black")
    for face in (front, back):
        car.panel(face, (0.37, 0.63), (0.32, 0.48), "number_plate")
