"""Bicycles, motorcycles and scooters, with and without riders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from perception.simulation.actors.people import Pose, add_person, draw_outfit
from perception.simulation.actors.solids import Assembly, shifted

FRAMES = ("car_red", "car_blue", "car_black", "car_silver", "car_green", "car_orange", "car_white", "car_teal")
HELMETS = ("car_white", "car_red", "car_black", "car_blue", "car_yellow")

CYCLING = Pose(
    hip=(-0.10, 0.0), neck=(0.10, 0.275), knees=((0.125, -0.075), (0.085, -0.155)),
    feet=((0.035, -0.275), (-0.02, -0.375)),
    elbows=((0.15, 0.165, 0.13), (0.15, 0.165, 0.13)), hands=((0.255, 0.135, 0.06), (0.255, 0.135, 0.06)),
)  # fmt: skip
RIDING = Pose(
    hip=(-0.10, 0.0), neck=(-0.03, 0.32), knees=((0.13, 0.0), (0.13, 0.0)), feet=((0.10, -0.25), (0.10, -0.25)),
    elbows=((0.07, 0.165, 0.14), (0.07, 0.165, 0.14)), hands=((0.20, 0.165, 0.11), (0.20, 0.165, 0.11)),
)  # fmt: skip


def build_bicycle(ridden: bool, rng: np.random.Generator) -> Assembly:
    """A bicycle standing on z = 0; its rider, where there is one, is a part of it.

    Args:
        ridden: whether somebody rides it.
        rng: source of colours and proportions.

    Returns:
        The bicycle, about 1.7 m long.
    """
    bicycle = Assembly()
    frame = str(rng.choice(FRAMES))
    radius, axle = float(rng.uniform(0.325, 0.345)), float(rng.uniform(0.50, 0.53))
    rear, front = np.array([-axle, 0, radius]), np.array([axle, 0, radius])
    crank, seat = np.array([-0.08, 0, 0.30]), np.array([-0.24, 0, 0.86])
    head, bar = np.array([0.36, 0, 0.86]), np.array([0.33, 0, 1.0])
    for hub in (rear, front):
        bicycle.hoop(hub, radius, 0.05, "tyre")
    for start, end in (
        (rear, crank),
        (rear, seat * (1, 1, 0.93)),
        (crank, seat),
        (crank, head),
        (seat * (0.92, 1, 0.9), head),
    ):
        bicycle.tube(start, end, (0.022, 0.022), frame, sides=3, capped=False)
    bicycle.tube(front, bar, (0.022, 0.022), frame, sides=3, capped=False)
    bicycle.tube(shifted(bar, y=-0.29), shifted(bar, y=0.29), (0.02, 0.02), "plastic_black", sides=3)
    bicycle.block(shifted(seat, -0.13, -0.07, 0.02), shifted(seat, 0.12, 0.07, 0.08), "leather", top=(1, 0.8))
    bicycle.tube(shifted(crank, y=-0.10, z=-0.02), shifted(crank, y=0.10, z=0.02), (0.06, 0.06), "steel_dark", sides=4)
    if rng.random() < 0.35:
        bicycle.block((0.42, -0.16, 0.78), (0.72, 0.16, 1.0), "wood", top=(1.15, 1.15))
    if ridden:
        _add_rider(bicycle, CYCLING, (seat[0], 0.94), (0.26, 0.24, 1.04), rng)
    return bicycle


def build_motorcycle(ridden: bool, scooter: bool, rng: np.random.Generator) -> Assembly:
    """A motorcycle or scooter standing on z = 0; its rider, where there is one, is a part of it.

    Args:
        ridden: whether somebody rides it.
        scooter: whether it has a step-through floor and a leg shield.
        rng: source of colours and proportions.

    Returns:
        The motorcycle, about 2.1 m long, or the scooter, about 1.85 m.
    """
    bike = Assembly()
    paint = str(rng.choice(FRAMES))
    radius = 0.24 if scooter else float(rng.uniform(0.30, 0.33))
    axle = 0.66 if scooter else float(rng.uniform(0.70, 0.76))
    for x in (-axle, axle):
        bike.tube((x, -0.065, radius), (x, 0.065, radius), (radius, radius), "tyre", sides=10)
        bike.tube((x, -0.072, radius), (x, 0.072, radius), (0.55 * radius, 0.55 * radius), "rim", sides=6)
    bar = np.array([0.42, 0.0, 1.02])
    for side in (-1, 1):
        bike.tube((axle, side * 0.1, radius), shifted(bar, y=side * 0.08, z=-0.08), (0.03, 0.03), "chrome", sides=3)
        bike.tube(
            shifted(bar, y=side * 0.22), shifted(bar, 0.03, side * 0.3, 0.2), (0.012, 0.012), "plastic_black", sides=3
        )
        bike.block(
            shifted(bar, 0.01, side * 0.31 - 0.055, 0.17),
            shifted(bar, 0.05, side * 0.31 + 0.055, 0.25),
            "plastic_black",
        )
    bike.tube(shifted(bar, -0.06, -0.34), shifted(bar, -0.06, 0.34), (0.022, 0.022), "plastic_black", sides=4)
    if scooter:
        bike.block((0.28, -0.2, 0.28), (0.5, 0.2, 0.98), paint, top=(0.5, 0.7))
        bike.block((-0.3, -0.19, 0.22), (0.4, 0.19, 0.32), "plastic_black")
        bike.block((-0.86, -0.17, 0.34), (-0.12, 0.17, 0.72), paint, top=(0.92, 0.85))
    else:
        bike.block((-0.32, -0.17, 0.22), (0.34, 0.17, 0.58), "steel_dark", top=(0.8, 0.9))
        bike.block((-0.12, -0.16, 0.6), (0.40, 0.16, 0.88), paint, top=(0.72, 0.6))
        bike.block((-0.98, -0.12, 0.6), (-0.14, 0.12, 0.76), paint, top=(0.95, 0.8))
        bike.tube((-0.2, -0.19, 0.3), (-0.95, -0.2, 0.42), (0.05, 0.07), "chrome", sides=5)
        bike.block(
            (axle - 0.3, -0.09, 2 * radius + 0.02), (axle + 0.24, 0.09, 2 * radius + 0.07), paint, top=(0.8, 0.8)
        )
    bike.block((-0.8, -0.15, 0.765), (-0.1, 0.15, 0.85), "leather", top=(0.94, 0.85))
    lamp = bike.block((0.44, -0.1, 0.8), (0.58, 0.1, 0.98), "plastic_black", top=(0.8, 0.9))
    bike.panel(lamp[0], (0.1, 0.9), (0.1, 0.9), "headlamp")
    tail = bike.block((-1.0 if not scooter else -0.92, -0.08, 0.62), (-0.86, 0.08, 0.74), "plastic_black")
    bike.panel(tail[1], (0.1, 0.9), (0.2, 0.9), "tail_lamp")
    if ridden:
        _add_rider(bike, RIDING, (-0.35, 0.88), (0.29, 0.27, 1.05), rng)
    return bike


def _add_rider(
    cycle: Assembly, pose: Pose, seat: tuple[float, float], bar: tuple[float, float, float], rng: np.random.Generator
) -> None:
    """A rider whose hips are on the seat (x, z) and whose hands are on the bar (x, half width, z)."""
    height = float(rng.normal(1.73, 0.06))
    start = (seat[0] - pose.hip[0] * height, seat[1])
    hand = ((bar[0] - start[0]) / height, bar[1] / height, (bar[2] - start[1]) / height)
    outfit = replace(draw_outfit(rng), skirt=False)
    if rng.random() < (1.0 if pose is RIDING else 0.6):
        outfit = replace(outfit, hair=str(rng.choice(HELMETS)))
    add_person(cycle, height, replace(pose, hands=(hand, hand)), outfit, at=start)
