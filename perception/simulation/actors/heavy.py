"""Lorries, buses and trailers by parametric rules."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from perception.simulation.actors.solids import PANEL_OFFSET_M, Assembly

TRUCK_STYLES = ("box", "curtain", "flatbed", "tanker", "tipper")
BUS_STYLES = ("city", "coach", "school")
TRAILER_STYLES = ("box", "curtain", "flatbed", "tanker")

CAB_PAINTS = ("car_white", "car_red", "car_blue", "car_silver", "car_green", "car_orange")
CARGO_SKINS = ("car_white", "cargo_metal", "cargo_metal", "car_beige", "car_blue", "car_orange")
TARPAULINS = ("tarpaulin", "car_navy", "car_maroon", "car_teal")
BUS_PAINTS = ("car_white", "car_silver", "car_red", "car_blue", "car_green")

WHEEL_M = 0.48
TYRE_M = 0.30
FLOOR_M = 1.02
"""Height of a load floor over the road."""


def build_truck(style: str, size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A rigid lorry standing on z = 0.

    Args:
        style: one of `TRUCK_STYLES`.
        size_lwh_m: (3,) intended length, width (over the mirrors) and height.
        rng: source of paint and of small differences.

    Returns:
        The lorry, about `size_lwh_m` large.
    """
    length, width, height = (float(value) for value in size_lwh_m)
    body_width = width - 0.30
    truck = Assembly()
    cab_length = min(0.36 * length, float(rng.uniform(1.75, 2.3)))
    bonnet = float(rng.uniform(0.8, 1.1)) if rng.random() < 0.25 and length > 6.5 else 0.0
    cab_height = min(height, float(rng.uniform(2.45, 2.9)))
    front = length / 2
    _add_cab(truck, (front, cab_length, bonnet), (body_width, cab_height, width), str(rng.choice(CAB_PAINTS)))
    load_front = front - bonnet - cab_length - 0.12
    truck.block((-front + 0.05, -0.45, 0.55), (front - 0.6, 0.45, 0.92), "plastic_black")
    axles = [front - bonnet * 0.45 - 0.75, -front + 0.23 * length]
    if length > 8:
        axles.append(axles[-1] - 1.25)
    _add_axles(truck, axles, body_width)
    _add_load(truck, style, (-front, load_front), (body_width, height), rng)
    _add_tail(truck, -front, body_width)
    return truck


def build_trailer(style: str, size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A trailer with a drawbar, standing on z = 0, its drawbar towards +x.

    Args:
        style: one of `TRAILER_STYLES`.
        size_lwh_m: (3,) intended length (with the drawbar), width and height.
        rng: source of colours and of small differences.

    Returns:
        The trailer, about `size_lwh_m` large.
    """
    length, width, height = (float(value) for value in size_lwh_m)
    trailer = Assembly()
    front, bar = length / 2, min(1.1, 0.1 * length)
    trailer.block((-front + 0.05, -0.5, 0.6), (front - bar - 0.1, 0.5, 0.9), "plastic_black")
    for side in (-1, 1):
        trailer.tube((front - bar - 0.2, side * 0.55, 0.75), (front, 0.0, 0.7), (0.07, 0.05), "steel", sides=4)
    axles = [front - bar - 0.9, -front + 0.2 * length, -front + 0.2 * length + 1.25]
    _add_axles(trailer, axles, width)
    _add_load(trailer, style, (-front, front - bar), (width, height), rng)
    _add_tail(trailer, -front, width)
    return trailer


def build_bus(style: str, size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A bus standing on z = 0, its doors on the right.

    Args:
        style: one of `BUS_STYLES`.
        size_lwh_m: (3,) intended length, width (over the mirrors) and height.
        rng: source of the livery.

    Returns:
        The bus, about `size_lwh_m` large.
    """
    length, width, height = (float(value) for value in size_lwh_m)
    body_width = width - 0.30
    bus = Assembly()
    paint = "car_yellow" if style == "school" else str(rng.choice(BUS_PAINTS))
    bonnet = 1.1 if style == "school" else 0.0
    front, half = length / 2 - bonnet, body_width / 2
    top = height if style == "school" else height - 0.22
    faces = bus.block((-length / 2, -half, 0.34), (front, half, top), paint, top=(0.992, 0.94))
    if style != "school":
        bus.block(
            (-0.3 * length, -0.36 * width, top), (0.1 * length, 0.36 * width, height), "car_white", top=(0.95, 0.9)
        )
    if bonnet:
        nose = bus.block((front, -0.8 * half, 0.45), (length / 2, 0.8 * half, 1.55), paint, top=(0.9, 0.9))
        _add_face(bus, nose[0], lamps_at=(0.45, 0.7))
    else:
        _add_face(bus, faces[0], lamps_at=(0.08, 0.15))
    low = 0.42 if style in ("coach", "school") else 0.33
    bus.panel(faces[0], (0.05, 0.95), (low, 0.82), "car_glass")
    bus.panel(faces[0], (0.2, 0.8), (0.86, 0.95), "signal_amber")
    _add_bus_windows(bus, faces, style, low)
    _add_axles(bus, [length / 2 - 0.24 * length, -length / 2 + 0.26 * length], body_width, faces_flush=True)
    for side in (-1, 1):
        low_y, high_y = sorted((side * (half - 0.06), side * width / 2))
        bus.block((front - 0.12, low_y, 0.62 * height), (front - 0.02, high_y, 0.62 * height + 0.4), "plastic_black")
    _add_tail(bus, -length / 2, body_width)
    return bus


def _add_bus_windows(bus: Assembly, faces: np.ndarray, style: str, low: float) -> None:
    """Side windows, two doors on the right, the rear window and a stripe in a second colour."""
    panes = np.linspace(0.02, 0.98, 9 if style == "school" else 7)
    gap = 0.012
    for start, end in pairwise(panes):
        bus.panel(faces[2], (start + gap, end - gap), (low + 0.03, 0.86), "car_glass")
    doors = [(0.905, 0.98)] if style in ("coach", "school") else [(0.905, 0.98), (0.45, 0.56)]
    for start, end in doors:
        bus.panel(faces[3], (start, end), (0.03, 0.86), "car_glass")
    for start, end in pairwise(panes):
        if not any(start < door_end and end > door_start for door_start, door_end in doors):
            bus.panel(faces[3], (start + gap, end - gap), (low + 0.03, 0.86), "car_glass")
    bus.panel(faces[1], (0.12, 0.88), (0.5, 0.84), "car_glass")
    stripe = "plastic_black" if style == "school" else "car_blue"
    bus.panel(faces[2], (0.0, 1.0), (low - 0.07, low - 0.02), stripe)
    bus.panel(faces[1], (0.0, 1.0), (low - 0.07, low - 0.02), stripe)


def _add_cab(truck: Assembly, place: tuple[float, float, float], size: tuple[float, float, float], paint: str) -> None:
    """A lorry's cab with panes, lamps, bumper and mirrors; `place` is front x, cab length and bonnet length."""
    front, cab_length, bonnet = place
    body_width, cab_height, full_width = size
    half = body_width / 2 - 0.02
    start = front - bonnet
    sill = 0.55
    foot = np.array(
        [(start, -half, sill), (start, half, sill), (start - cab_length, half, sill), (start - cab_length, -half, sill)]
    )
    lean = 0.30 if bonnet else 0.12
    lid = foot + np.array([(-lean, 0.08, 0), (-lean, -0.08, 0), (0, -0.08, 0), (0, 0.08, 0)])
    lid[:, 2] = cab_height
    faces = truck.frustum(foot, lid, paint)
    if bonnet:
        nose = truck.block((start - 0.02, -0.78 * half, sill), (front, 0.78 * half, 1.55), paint, top=(0.9, 0.9))
        _add_face(truck, nose[0], lamps_at=(0.35, 0.6))
        truck.panel(faces[0], (0.08, 0.92), (0.56, 0.93), "car_glass")
    else:
        _add_face(truck, faces[0], lamps_at=(0.05, 0.14))
        truck.panel(faces[0], (0.05, 0.95), (0.47, 0.88), "car_glass")
        truck.panel(faces[0], (0.2, 0.8), (0.2, 0.42), "plastic_black")
    truck.panel(faces[2], (0.1, 0.62), (0.47, 0.86), "car_glass")
    truck.panel(faces[3], (0.38, 0.9), (0.47, 0.86), "car_glass")
    for side in (-1, 1):
        low_y, high_y = sorted((side * (half - 0.12), side * full_width / 2))
        truck.block(
            (start - 0.28, low_y, 0.68 * cab_height), (start - 0.18, high_y, 0.68 * cab_height + 0.4), "plastic_black"
        )


def _add_face(vehicle: Assembly, face: np.ndarray, lamps_at: tuple[float, float]) -> None:
    """Headlamps, bumper and plate on a front face."""
    vehicle.panel(face, (0.03, 0.2), lamps_at, "headlamp")
    vehicle.panel(face, (0.8, 0.97), lamps_at, "headlamp")
    vehicle.panel(face, (0.24, 0.76), (lamps_at[0] - 0.04, lamps_at[1]), "plastic_black")
    vehicle.panel(face, (0.4, 0.6), (0.0, 0.035), "number_plate")


def _add_axles(vehicle: Assembly, axles: list[float], width: float, faces_flush: bool = False) -> None:
    """Wheels and the dark arches over them; `faces_flush` lets the rims stand out of a skirted side."""
    proud = 0.02 if faces_flush else -0.04
    for axle in axles:
        for side in (-1, 1):
            hub_y = side * (width / 2 + proud - TYRE_M / 2)
            vehicle.wheel((axle, hub_y, WHEEL_M), WHEEL_M, TYRE_M, "rim", open_behind=True)
            if faces_flush:
                _add_arch(vehicle, axle, side, width / 2 + PANEL_OFFSET_M)


def _add_arch(vehicle: Assembly, axle: float, side: int, y: float) -> None:
    """A dark half disc on a vehicle's side, a hand wider than the wheel before it."""
    turn = np.linspace(0, np.pi, 7)[::-side]
    outline = np.stack(
        (axle + (WHEEL_M + 0.1) * np.cos(turn), np.full(7, side * y), WHEEL_M + (WHEEL_M + 0.1) * np.sin(turn)), 1
    )
    outline[:, 2] = np.maximum(outline[:, 2], WHEEL_M)
    vehicle.add(outline, np.array([(0, k, k + 1) for k in range(1, 6)]), "plastic_black")


def _add_tail(vehicle: Assembly, rear: float, width: float) -> None:
    """Under-run bar with tail lamps and plate at the rear end."""
    faces = vehicle.block((rear, -0.46 * width, 0.5), (rear + 0.1, 0.46 * width, 0.68), "plastic_black")
    for start, end in ((0.01, 0.17), (0.83, 0.99)):
        vehicle.panel(faces[1], (start, end), (0.08, 0.92), "tail_lamp")
    vehicle.panel(faces[1], (0.4, 0.6), (0.15, 0.85), "number_plate")


def _add_load(
    vehicle: Assembly, style: str, along: tuple[float, float], size: tuple[float, float], rng: np.random.Generator
) -> None:
    """What a lorry or trailer carries between two x, up to its full height."""
    rear, front = along
    width, height = size
    half = width / 2
    if style in ("box", "curtain"):
        skin = str(rng.choice(CARGO_SKINS if style == "box" else TARPAULINS))
        faces = vehicle.block((rear, -half, FLOOR_M), (front, half, height), skin)
        vehicle.panel(faces[1], (0.02, 0.49), (0.02, 0.97), "car_silver")
        vehicle.panel(faces[1], (0.51, 0.98), (0.02, 0.97), "car_silver")
        if rng.random() < 0.6:
            mark = str(rng.choice(("car_red", "car_blue", "car_green", "car_orange")))
            for face in faces[2:4]:
                vehicle.panel(face, (0.12, 0.88), (0.38, 0.66), mark)
    elif style == "tanker":
        middle, radius = (FLOOR_M + height) / 2, (height - FLOOR_M) / 2
        steps = np.array([0.02, 0.06, 0.94, 0.98])
        ring = _ellipse(half * 0.96, radius)
        rings = np.empty((4, len(ring), 3))
        for index, (share, scale) in enumerate(zip(steps, (0.86, 1.0, 1.0, 0.86), strict=True)):
            rings[index, :, 0] = rear + share * (front - rear)
            rings[index, :, 1:] = ring * scale + (0, middle)
        vehicle.skin(rings, "cargo_metal", ("cargo_metal", "cargo_metal"))
        vehicle.block((rear, -0.3 * width, FLOOR_M - 0.1), (front, 0.3 * width, FLOOR_M + 0.2), "plastic_black")
    elif style == "tipper":
        foot = np.array(
            [
                (front - 0.2, -0.8 * half, FLOOR_M),
                (front - 0.2, 0.8 * half, FLOOR_M),
                (rear + 0.5, 0.8 * half, FLOOR_M),
                (rear + 0.5, -0.8 * half, FLOOR_M),
            ]
        )
        lid = np.array(
            [(front, -half, height), (front, half, height), (rear, half, height - 0.3), (rear, -half, height - 0.3)]
        )
        faces = vehicle.frustum(foot, lid, str(rng.choice(("car_orange", "car_red", "car_grey", "car_green"))))
        vehicle.panel(faces[4], (0.05, 0.95), (0.04, 0.96), "soil")
        for face in faces[2:4]:
            for start in (0.2, 0.45, 0.7):
                vehicle.panel(face, (start, start + 0.03), (0.05, 0.95), "plastic_black")
    else:
        _add_flatbed(vehicle, (rear, front), (half, height), rng)


def _add_flatbed(
    vehicle: Assembly, along: tuple[float, float], size: tuple[float, float], rng: np.random.Generator
) -> None:
    """A load floor with a headboard and a few stacked goods, of which the highest reaches the full height."""
    rear, front = along
    half, height = size
    vehicle.block((rear, -half, FLOOR_M - 0.12), (front, half, FLOOR_M + 0.05), "wood")
    vehicle.block((front - 0.08, -half, FLOOR_M + 0.06), (front, half, min(height, FLOOR_M + 1.2)), "steel")
    count = max(2, int((front - rear) / 2.6))
    edges = np.linspace(rear + 0.25, front - 0.3, count + 1)
    tallest = int(rng.integers(count))
    for slot, (start, end) in enumerate(pairwise(edges)):
        share = 1.0 if slot == tallest else float(rng.uniform(0.25, 0.8))
        top = FLOOR_M + 0.06 + share * (height - FLOOR_M - 0.06)
        inset = float(rng.uniform(0.08, 0.35))
        goods = str(rng.choice(("wood", "steel", "tarpaulin", "machine_yellow", "barrier_concrete")))
        vehicle.block((start + 0.06, -half + inset, FLOOR_M + 0.06), (end - 0.06, half - inset, top), goods)


def _ellipse(half_width: float, half_height: float) -> np.ndarray:
    """(8, 2) outline, counter-clockwise in (y, z)."""
    turn = 2 * np.pi * (np.arange(8) + 0.5) / 8
    return np.stack((half_width * np.cos(turn), half_height * np.sin(turn)), axis=1) / np.cos(np.pi / 8)
