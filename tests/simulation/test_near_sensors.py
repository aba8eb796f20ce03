"""Ultrasonic sensors and fisheye cameras in a real town, side by side: what one says fits what the other sees."""

import numpy as np
import pytest
import torch

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.ultrasonic import EchoState, decode_burst
from perception.geometry.cameras import project_kannala_brandt
from perception.simulation.acoustics import MAX_RANGE_M, sound_speed_m_s
from perception.simulation.fisheye_lens import FisheyeLens
from perception.simulation.manifest import plan_manifest
from perception.simulation.recorder import scene_surroundings
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.fisheye import fisheye_cameras
from perception.simulation.sensors.ultrasonic import NOISE_M, bumper_sensors
from perception.simulation.settings import Settings
from perception.simulation.world import World

pytestmark = pytest.mark.slow

SETTINGS = Settings(seconds=6.0)
TIMES_US = range(1_000_000, 6_000_001, 1_000_000)
EGO = POINT_CATEGORIES.index("vehicle.ego")


@pytest.fixture(scope="module", params=[0, 3])
def scene(request: pytest.FixtureRequest) -> tuple[World, Surroundings]:
    return scene_surroundings(plan_manifest(4, request.param, SETTINGS).scenes[request.param % 4], SETTINGS)


def test_echoes_come_from_what_stands_around(scene: tuple[World, Surroundings]) -> None:
    """Each own first echo is that of a surface, no nearer than the nearest; half of all sensors hear something."""
    world, surroundings = scene
    aside, up = np.meshgrid(np.radians(np.arange(-84, 84.1, 0.7)), np.radians(np.arange(-42, 42.1, 1.4)))
    fan = np.stack([np.cos(up) * np.cos(aside), np.cos(up) * np.sin(aside), np.sin(up)], axis=-1).reshape(-1, 3)
    states = []
    for t_us in TIMES_US:
        for sensor in bumper_sensors():
            shot = sensor.capture(surroundings, t_us + sensor.delay_us)
            row = sensor.listeners.index(sensor.number)
            states.append(int(shot.burst.state[row]))
            assert decode_burst(shot.content, "shot").state.tolist() == shot.burst.state.tolist()
            if not shot.own[row, 0]:
                continue
            sensor2global = shot.ego2global @ sensor.sensor2ego
            then = surroundings.actors(shot.t_us + 8_000)
            hits = surroundings.rays.cast(sensor2global[:3, 3], fan @ sensor2global[:3, :3].T, then)
            speed = float(np.linalg.norm(world.ego_velocity(shot.t_us)[:3]))
            moved_m = speed * MAX_RANGE_M / 320  # the most that the way back is longer or shorter by
            true_m = shot.true_m[row, 0]
            assert np.abs(hits.distance_m - true_m).min() < 0.03 + moved_m
            assert true_m > hits.distance_m.min() - 0.03 - moved_m
            ratio = sound_speed_m_s(shot.air.measured_c) / sound_speed_m_s(shot.air.temperature_c)
            assert abs(shot.burst.distance_m[row, 0] - ratio * true_m) < 4.5 * NOISE_M
    heard = np.mean(np.array(states) == EchoState.OBJECT)
    assert 0.1 < heard < 0.95
    assert np.mean(np.array(states) == EchoState.NO_OBJECT) > 0.03


def test_fisheyes_see_every_actor_that_an_echo_names(scene: tuple[World, Surroundings]) -> None:
    """The four pictures cover all around the car, so that whoever is within reach of a sensor is in one of them."""
    _, surroundings = scene
    cameras, named = fisheye_cameras((240, 360)), 0
    for t_us in TIMES_US:
        seen = {int(actor) for camera in cameras for actor in np.unique(camera.capture(surroundings, t_us).actor)}
        for sensor in bumper_sensors():
            shot = sensor.capture(surroundings, t_us)
            actors = set(shot.actor[shot.own & (shot.burst.level_db > 3)].tolist()) - {-1}
            named += len(actors)
            assert actors <= seen
    assert named


def test_neighbouring_fisheyes_agree_on_the_street_between_them(scene: tuple[World, Surroundings]) -> None:
    """Places that one camera sees are at the same distance in the other, or hidden from it by something nearer."""
    _, surroundings = scene
    cameras = fisheye_cameras((240, 360))
    shots = [camera.capture(surroundings, 3_000_000) for camera in cameras]
    for first, second in ((0, 2), (0, 3), (1, 2), (1, 3)):
        camera, shot = cameras[first], shots[first]
        rows = np.nonzero((shot.valid & (shot.distance_m < 25) & (shot.semantic != EGO)).ravel())[0][::7]
        places = camera.lens.rays[0][rows].astype(np.float64) * shot.distance_m.ravel()[rows, None]
        there = np.linalg.inv(cameras[second].sensor2ego) @ camera.sensor2ego
        places = places @ there[:3, :3].T + there[:3, 3]
        far = np.linalg.norm(places, axis=1)
        pixels, inside = _pixels(cameras[second].lens, places)
        other = shots[second]
        usable = inside & (other.semantic.ravel()[pixels] != EGO)
        gap = other.distance_m.ravel()[pixels] / far
        assert usable.sum() > 50
        assert (np.abs(gap[usable] - 1) < 0.1).mean() > 0.6
        assert (gap[usable] > 1.25).mean() < 0.08  # nothing is seen through; edges of things aside


def _pixels(lens: FisheyeLens, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N,) that show places (N, 3) of the camera frame, and whether these lie in the picture."""
    intrinsics, distortion = torch.from_numpy(lens.intrinsics), torch.from_numpy(lens.distortion)
    limit = torch.tensor(lens.theta_max_rad - 0.02, dtype=torch.float64)
    pixels, valid = project_kannala_brandt(torch.from_numpy(places), intrinsics, distortion, limit)
    u, v = pixels.round().long().numpy().T
    height, width = lens.image_size_px
    inside = valid.numpy() & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return np.where(inside, v * width + u, 0), inside
