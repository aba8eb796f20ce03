"""What is seen now and then: emergency vehicles, wheelchairs, strollers, kick scooters, dogs, police officers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from perception.simulation.actors.cars import CAR_STYLES, build_car
from perception.simulation.actors.people import SITTING, STANDING, Outfit, add_person, draw_outfit
from perception.simulation.actors.solids import Assembly, shifted

_DOG_COATS = ("hair_dark", "hair_light", "cloth_white", "cloth_brown", "cloth_black")


def officer_outfit(rng: np.random.Generator) -> Outfit:
    """What a police officer wears, drawn at random."""
    vest = str(rng.choice(("hi_vis", "")))
    return Outfit(draw_outfit(rng).skin, "cloth_navy", "cloth_navy", "cloth_navy", vest=vest)


def build_emergency(kind: str, size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A police car or an ambulance standing on z = 0: a car with a bar of lights on its roof.

    Args:
        kind: "police_car" or "ambulance".
        size_lwh_m: (3,) intended length, width and height without the lights.
        rng: source of the small differences.

    Returns:
        The vehicle.
    """
    style = "van" if kind == "ambulance" else str(rng.choice(("saloon", "suv", "estate")))
    paint = "car_white" if kind == "ambulance" else str(rng.choice(("car_white", "car_blue", "car_black")))
    vehicle = build_car(style, size_lwh_m, paint, rng)
    shares = CAR_STYLES[style].glasshouse
    middle = ((shares[1] + shares[2]) / 2 - 0.5) * float(size_lwh_m[0])
    low, reach = float(size_lwh_m[2]) - 0.02, 0.32 * float(size_lwh_m[1])
    for side, lamp in ((-1, "signal_red"), (1, "sign_blue")):
        right, left = sorted((0.02 * side, reach * side))
        vehicle.block((middle - 0.13, right, low), (middle + 0.13, left, low + 0.14), lamp, top=(0.8, 0.95))
    return vehicle


def build_scooter_rider(rng: np.random.Generator) -> Assembly:
    """Somebody who stands on a kick scooter."""
    scooter = Assembly()
    for x in (-0.44, 0.46):
        scooter.wheel((x, 0.0, 0.11), 0.11, 0.05, "rim", sides=8, open_behind=True)
    scooter.block((-0.40, -0.08, 0.10), (0.40, 0.08, 0.15), "plastic_black")
    bar = np.array([0.36, 0.0, 1.02])
    scooter.tube((0.46, 0.0, 0.16), bar, (0.022, 0.022), "steel", sides=4, capped=False)
    scooter.tube(shifted(bar, y=-0.23), shifted(bar, y=0.23), (0.02, 0.02), "plastic_black", sides=3)
    height = float(rng.normal(1.72, 0.06))
    hand = ((bar[0] + 0.05) / height, 0.12, (bar[2] - 0.15) / height)
    elbow = (0.08, 0.15, 0.60)
    outfit = replace(draw_outfit(rng), skirt=False)
    add_person(scooter, height, replace(STANDING, elbows=(elbow, elbow), hands=(hand, hand)), outfit, at=(-0.05, 0.15))
    return scooter


def build_wheelchair(rng: np.random.Generator) -> Assembly:
    """Somebody in a wheelchair."""
    chair = Assembly()
    height = float(rng.normal(1.68, 0.08))
    seat = 0.26 * height
    for side in (-1, 1):
        chair.hoop((-0.06, side * 0.30, 0.31), 0.31, 0.04, "tyre", sides=10)
        chair.wheel((0.34, side * 0.22, 0.08), 0.08, 0.04, "plastic_black", sides=6, open_behind=True)
        chair.tube((-0.24, side * 0.24, 0.3), (-0.30, side * 0.24, 0.95), (0.018, 0.018), "steel", sides=3)
        chair.tube((0.34, side * 0.22, 0.14), (0.2, side * 0.24, seat), (0.018, 0.018), "steel", sides=3)
    chair.block((-0.22, -0.24, seat - 0.05), (0.24, 0.24, seat), "plastic_black")
    chair.block((-0.27, -0.23, seat), (-0.22, 0.23, seat + 0.42), "plastic_black")
    add_person(chair, height, SITTING, draw_outfit(rng))
    return chair


def build_stroller(rng: np.random.Generator) -> Assembly:
    """A pushchair, the hood at its back."""
    chair = Assembly()
    colour = f"cloth_{rng.choice(('black', 'navy', 'red', 'grey', 'green'))}"
    for x in (-0.30, 0.34):
        for side in (-1, 1):
            chair.wheel((x, side * 0.25, 0.13), 0.13, 0.05, "rim", sides=8, open_behind=True)
    for side in (-1, 1):
        chair.tube((0.34, side * 0.22, 0.14), (-0.52, side * 0.22, 1.0), (0.016, 0.016), "steel", sides=3)
    chair.tube((-0.52, -0.24, 1.0), (-0.52, 0.24, 1.0), (0.02, 0.02), "plastic_black", sides=3)
    chair.block((-0.26, -0.20, 0.38), (0.34, 0.20, 0.64), colour, top=(1.15, 1.05))
    chair.block((-0.30, -0.20, 0.65), (0.05, 0.20, 0.65 + float(rng.uniform(0.28, 0.38))), colour, top=(0.7, 0.9))
    return chair


def build_dog(rng: np.random.Generator) -> Assembly:
    """A dog on its four legs."""
    dog = Assembly()
    coat = str(rng.choice(_DOG_COATS))
    dog.tube((-0.30, 0.0, 0.42), (0.26, 0.0, 0.45), (0.105, 0.13), coat, sides=6)
    for x in (-0.25, 0.2):
        for side in (-1, 1):
            swing = float(rng.uniform(-0.08, 0.08))
            dog.limb(((x, side * 0.08, 0.42), (x + swing, side * 0.08, 0.2), (x + swing, side * 0.08, 0.0)),
                     (0.05, 0.035, 0.03), coat)  # fmt: skip
    dog.tube((0.22, 0.0, 0.5), (0.38, 0.0, 0.64), (0.075, 0.065), coat, sides=5)
    dog.ball((0.43, 0.0, 0.68), (0.12, 0.075, 0.08), coat)
    dog.tube((0.50, 0.0, 0.66), (0.62, 0.0, 0.64), (0.045, 0.035), coat, sides=5)
    dog.tube((-0.28, 0.0, 0.5), (-0.48, 0.0, float(rng.uniform(0.4, 0.7))), (0.03, 0.015), coat, sides=3)
    return dog
