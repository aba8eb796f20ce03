"""Point labels, depth of pictures, radar counts: by what rays met, agreeing with boxes and with one another."""

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.point_labels import panoptic_bytes
from perception.simulation.rig import roof_lidar, surround_cameras
from perception.simulation.sensors.radar import RadarRecording, count_radar_points
from perception.simulation.truth.images import picture_depth, picture_points
from perception.simulation.truth.lidarseg import InstanceNumbers, panoptic_labels
from tests.simulation.tiny_world import EvenMotion, pose, surroundings, wall_at
from tests.simulation.truth_world import NUM_ACTORS, draw_scene

T_US = 1_000_000


def test_numbers_count_from_one_in_the_order_of_the_annotations() -> None:
    numbers = InstanceNumbers(4)
    away_m = np.array([5.0, 40.0, 10.0, 20.0])
    assert numbers.at_keyframe(np.array([False, True, False, True]), away_m).tolist() == [0, 1, 0, 2]
    assert numbers.at_keyframe(np.array([True, False, False, True]), away_m).tolist() == [3, 1, 0, 2]
    assert numbers.at_keyframe(np.zeros(4, bool), away_m).tolist() == [3, 1, 0, 2]


def test_of_more_instances_than_labels_tell_apart_the_farthest_have_no_number() -> None:
    numbers, away_m = InstanceNumbers(1005), np.random.default_rng(0).permutation(1005).astype(float)
    early = away_m < 600
    assert sorted(numbers.at_keyframe(early, away_m)[early]) == list(range(1, 601))
    given = numbers.at_keyframe(np.ones(1005, bool), away_m)
    assert given.max() == 999
    assert ((given == 0) == (away_m >= 999)).all()
    np.testing.assert_array_equal(numbers.at_keyframe(np.ones(1005, bool), -away_m), given)  # and never get one
    scene = draw_scene(0)
    sweep = roof_lidar().capture(scene.surroundings, T_US)
    noted = np.ones(NUM_ACTORS, bool)
    labels = panoptic_labels(sweep, noted, np.where(np.arange(NUM_ACTORS) == 2, 0, np.arange(NUM_ACTORS) + 1))
    assert (labels[sweep.actor == 2] == 0).all()
    assert panoptic_bytes(labels)


@pytest.mark.parametrize("seed", range(4))
def test_every_point_has_the_label_of_what_it_lies_on(seed: int) -> None:
    scene, rng = draw_scene(seed, moving=True), np.random.default_rng(seed)
    sweep = roof_lidar().capture(scene.surroundings, T_US)
    noted = rng.random(NUM_ACTORS) < 0.7
    labels = panoptic_labels(sweep, noted, InstanceNumbers(NUM_ACTORS).at_keyframe(noted, np.zeros(NUM_ACTORS)))
    assert labels.dtype == np.uint16
    category, instance = np.divmod(labels.astype(int), 1000)
    number = 0
    for actor, name in enumerate(scene.categories):
        mine = sweep.actor == actor
        number += noted[actor]
        assert (category[mine] == (POINT_CATEGORIES.index(name) if noted[actor] else 0)).all()
        assert (instance[mine] == (number if noted[actor] else 0)).all()
    stuff = sweep.actor < 0
    assert (instance[stuff] == 0).all()
    np.testing.assert_array_equal(category[stuff], sweep.semantic[stuff])
    assert {0, 24, 31} <= set(category[stuff].tolist())


def test_the_depth_of_a_wall_across_the_way_is_the_same_all_over() -> None:
    camera = surround_cameras((225, 400))[0]
    level = type(camera)("CAM", camera.sensor2ego.copy(), camera.intrinsics, camera.image_size_px)
    level.sensor2ego[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    shot = level.capture(surroundings(EvenMotion(), static=[wall_at(20.0)]), T_US)
    depth_m = picture_depth(level, shot)
    on_wall = shot.semantic == POINT_CATEGORIES.index("static.manmade")
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m[on_wall], 20.0 - level.sensor2ego[0, 3], rtol=1e-4)
    assert np.isinf(depth_m[shot.semantic == 0]).all()


def test_points_of_a_picture_lie_at_their_depth() -> None:
    scene, camera = draw_scene(2), surround_cameras((90, 160))[3]
    shot = camera.capture(scene.surroundings, T_US)
    points, depth_m = picture_points(camera, shot, 2), picture_depth(camera, shot)[::2, ::2]
    np.testing.assert_allclose(points[:, 2], depth_m[np.isfinite(depth_m)], rtol=1e-5)
    pixels = points[:, :2] / points[:, 2:] * camera.intrinsics[[0, 1], [0, 1]] + camera.intrinsics[:2, 2]
    np.testing.assert_allclose(pixels % 2 - np.rint(pixels % 2), 0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_radar_returns_are_counted_in_the_boxes_they_lie_in(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.column_stack([rng.uniform(-30, 30, (6, 3)), rng.uniform(1, 5, (6, 3)), rng.uniform(-3, 3, 6)])
    owners = [rng.integers(0, 6, 20) for _ in range(5)]
    scans = []
    for owner in owners:
        local = rng.uniform(-0.49, 0.49, (20, 3)) * boxes[owner, 3:6]
        cos, sin = np.cos(boxes[owner, 6]), np.sin(boxes[owner, 6])
        turned = np.column_stack(
            [cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1], local[:, 2]]
        )
        sensor2global = pose(*rng.uniform(-3, 3, 3), rng.uniform(-3, 3))
        sensor = (turned + boxes[owner, :3] - sensor2global[:3, 3]) @ sensor2global[:3, :3]
        points = np.column_stack([sensor, rng.random((20, 15))]).astype(np.float32)
        scans.append(RadarRecording(T_US, np.eye(4), sensor2global, points, owner.astype(np.int32), np.zeros(20, bool)))
    counts = count_radar_points(scans, boxes)
    apart = np.linalg.norm(boxes[:, None, :3] - boxes[None, :, :3], axis=-1) + 100 * np.eye(6)
    alone = apart.min(axis=1) > 8
    expected = np.bincount(np.concatenate(owners), minlength=6)
    assert counts.dtype == np.int64
    assert (counts >= expected).all()
    np.testing.assert_array_equal(counts[alone], expected[alone])
