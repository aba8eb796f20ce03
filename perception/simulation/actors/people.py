"""People by parametric rules: walking, standing, sitting, and riding; adults, children and workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from perception.simulation.actors.solids import Assembly, shifted

CLOTHS = tuple(
    f"cloth_{name}"
    for name in ("black", "white", "grey", "navy", "denim", "red", "green", "khaki", "pink", "purple", "blue", "brown")
)
TROUSERS = ("cloth_black", "cloth_grey", "cloth_navy", "cloth_denim", "cloth_denim", "cloth_khaki", "cloth_brown")
SKINS = ("skin_0", "skin_1", "skin_2", "skin_3")
HAIRS = ("hair_dark", "hair_dark", "hair_light", "cloth_grey")


@dataclass(frozen=True)
class Outfit:
    """What a person wears, as material names.

    Attributes:
        skin: of face and hands.
        hair: or the cap or helmet in its place.
        top: of trunk and arms.
        legs: of the trousers.
        vest: of a reflective waistcoat over the top, or "" for none.
        bag: of a rucksack, or "" for none.
        skirt: whether a skirt or coat hangs to the knees.
    """

    skin: str
    hair: str
    top: str
    legs: str
    vest: str = ""
    bag: str = ""
    skirt: bool = False


def draw_outfit(rng: np.random.Generator, worker: bool = False) -> Outfit:
    """An outfit drawn at random.

    Args:
        rng: source of the draw.
        worker: whether it is a construction worker's, with waistcoat and helmet.

    Returns:
        The outfit.
    """
    skin, hair, top, legs = (str(rng.choice(names)) for names in (SKINS, HAIRS, CLOTHS, TROUSERS))
    bag = str(rng.choice(CLOTHS)) if rng.random() < 0.3 else ""
    outfit = Outfit(skin, hair, top, legs, bag=bag, skirt=bool(rng.random() < 0.25))
    if worker:
        vest = str(rng.choice(("hi_vis", "hi_vis_orange")))
        helmet = str(rng.choice(("car_yellow", "car_white", "car_orange")))
        return replace(outfit, hair=helmet, vest=vest, bag="", skirt=False)
    return outfit


@dataclass(frozen=True)
class Pose:
    """Joints of a person of height 1, in shares of the height; feet on z = 0, x forward, left side first.

    Attributes:
        hip: x, z of the hips.
        neck: x, z of the neck's foot.
        knees: x, z of each knee.
        feet: x, z of each ankle.
        elbows: x, y, z of each elbow (y to the outside).
        hands: x, y, z of each hand.
    """

    hip: tuple[float, float]
    neck: tuple[float, float]
    knees: tuple[tuple[float, float], tuple[float, float]]
    feet: tuple[tuple[float, float], tuple[float, float]]
    elbows: tuple[tuple[float, float, float], tuple[float, float, float]]
    hands: tuple[tuple[float, float, float], tuple[float, float, float]]


STANDING = Pose(
    hip=(0.0, 0.50), neck=(0.0, 0.82), knees=((0.01, 0.27), (0.01, 0.27)), feet=((0.0, 0.03), (0.0, 0.03)),
    elbows=((-0.02, 0.155, 0.63), (-0.02, 0.155, 0.63)), hands=((0.03, 0.16, 0.47), (0.03, 0.16, 0.47)),
)  # fmt: skip
SITTING = Pose(
    hip=(0.0, 0.32), neck=(-0.02, 0.68), knees=((0.24, 0.32), (0.24, 0.32)), feet=((0.25, 0.03), (0.25, 0.03)),
    elbows=((0.02, 0.15, 0.47), (0.02, 0.15, 0.47)), hands=((0.17, 0.10, 0.36), (0.17, 0.10, 0.36)),
)  # fmt: skip


def walking(stride: float) -> Pose:
    """The pose in mid-stride, left foot in front; `stride` is the distance of the ankles in shares of the height."""
    half = stride / 2
    return Pose(
        hip=(0.0, 0.49), neck=(0.015, 0.815),
        knees=((0.62 * half, 0.27), (-0.30 * half, 0.26)),
        feet=((half, 0.035), (-half, 0.06)),
        elbows=((-0.10, 0.15, 0.63), (0.05, 0.15, 0.63)),
        hands=((-0.15, 0.15, 0.50), (0.16, 0.14, 0.52)),
    )  # fmt: skip


def build_person(height_m: float, pose: Pose, outfit: Outfit, girth: float = 1.0) -> Assembly:
    """A person standing on z = 0 and looking along +x.

    Args:
        height_m: upright height.
        pose: where the joints are.
        outfit: what the person wears.
        girth: breadth of trunk and limbs relative to the usual.

    Returns:
        The person; a seated one is lower than `height_m` and sits on a box of its own.
    """
    person = Assembly()
    add_person(person, height_m, pose, outfit, girth)
    if pose is SITTING:
        seat_z = (pose.hip[1] - 0.06) * height_m
        person.block((-0.2, -0.22, 0.0), (0.2, 0.22, seat_z), "wood", top=(0.9, 0.9))
    return person


def add_person(
    body: Assembly,
    height_m: float,
    pose: Pose,
    outfit: Outfit,
    girth: float = 1.0,
    at: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Adds a person to an assembly.

    Args:
        body: what it becomes a part of (a cycle has a rider).
        height_m: upright height.
        pose: where the joints are.
        outfit: what the person wears.
        girth: breadth of trunk and limbs relative to the usual.
        at: x, z of the pose's origin.
    """

    def point(x: float, y: float, z: float) -> np.ndarray:
        """A place in the assembly from shares of the height."""
        return np.array([at[0] + x * height_m, y * height_m, at[1] + z * height_m])

    thick = height_m * girth
    for index, side in enumerate((1, -1)):
        hip = point(pose.hip[0], side * 0.048, pose.hip[1])
        knee, ankle = (point(x, side * 0.052, z) for x, z in (pose.knees[index], pose.feet[index]))
        body.limb((hip, knee, ankle), (0.052 * thick, 0.036 * thick, 0.028 * thick), outfit.legs)
        toe = ankle + np.array([0.105, 0.028, 0.015]) * height_m
        body.block(ankle - np.array([0.035, 0.028, 0.03]) * height_m, toe, "leather", top=(0.75, 0.9))
        shoulder = point(pose.neck[0], side * 0.118 * girth, pose.neck[1] - 0.025)
        elbow, wrist = (point(x, side * y * girth, z) for x, y, z in (pose.elbows[index], pose.hands[index]))
        body.limb((shoulder, elbow, wrist), (0.036 * thick, 0.030 * thick, 0.022 * thick), outfit.top)
        reach = (wrist - elbow) / np.linalg.norm(wrist - elbow)
        body.tube(wrist, wrist + 0.05 * height_m * reach, (0.021 * thick, 0.024 * thick), outfit.skin, sides=3)
    _add_trunk(body, point, height_m, pose, outfit, girth)
    _add_head(body, point(pose.neck[0] + 0.02, 0.0, pose.neck[1]), height_m, outfit)


def _add_trunk(
    body: Assembly,
    point: Callable[[float, float, float], np.ndarray],
    height_m: float,
    pose: Pose,
    outfit: Outfit,
    girth: float,
) -> None:
    """The trunk as a skin from the hips to the neck, with waistcoat, skirt and rucksack where worn."""
    hip, neck = np.array(pose.hip), np.array(pose.neck)
    turn = 2 * np.pi * (np.arange(6) + 0.5) / 6
    outline = np.stack((np.cos(turn), np.sin(turn)), axis=1)  # (6, 2)
    shares = np.array([-0.04, 0.30, 0.72, 0.93, 1.03])
    depth = np.array([0.066, 0.060, 0.072, 0.055, 0.028]) * girth
    breadth = np.array([0.092, 0.082, 0.112, 0.118, 0.035]) * girth
    rings = np.empty((5, 6, 3))
    for ring, share in enumerate(shares):
        x, z = hip + share * (neck - hip)
        rings[ring] = point(x, 0.0, z)
        rings[ring, :, :2] += outline * (depth[ring], breadth[ring]) * height_m
    body.skin(rings[:3], outfit.vest or outfit.top, (outfit.legs, None))
    body.skin(rings[2:], outfit.vest or outfit.top, (None, outfit.skin))
    if outfit.vest:
        middle = rings[1:3].mean(axis=0)
        band = np.stack([middle + np.array([0, 0, offset * height_m]) for offset in (-0.015, 0.015)])
        center = band.mean(axis=1, keepdims=True)
        band[..., :2] = center[..., :2] + (band - center)[..., :2] * 1.03
        body.skin(band, "reflective_white", (None, None))
    if outfit.skirt and pose.hip[1] > 0.45:
        hem = rings[0].copy()
        hem[:, :2] = point(*(0.0, 0.0, 0.0))[:2] + outline * (0.135, 0.11) * height_m
        hem[:, 2] -= 0.2 * height_m
        body.skin(np.stack((hem, rings[1])), outfit.top, (outfit.legs, None))
    if outfit.bag:
        chest = point(*(hip + 0.6 * (neck - hip))[[0, 0, 1]]) * (1, 0, 1)
        low = chest + np.array([-0.15, -0.075, -0.09]) * height_m
        body.block(low, low + np.array([0.085, 0.15, 0.2]) * height_m, outfit.bag, top=(0.8, 0.8))


def _add_head(body: Assembly, base: np.ndarray, height_m: float, outfit: Outfit) -> None:
    """Neck, face and hair; the crown is the highest point."""
    body.tube(
        base, shifted(base, z=0.045 * height_m), (0.03 * height_m, 0.03 * height_m), outfit.skin, sides=4, capped=False
    )
    center = base + np.array([0.005, 0.0, 0.098]) * height_m
    body.ball(center, np.array([0.050, 0.043, 0.068]) * height_m, outfit.skin)
    crown = center + np.array([-0.014, 0, 0.022]) * height_m
    body.ball(crown, np.array([0.053, 0.050, 0.063]) * height_m, outfit.hair, sides=5, belts=(-0.4, 0.45, 0.94))
