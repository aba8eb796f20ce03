"""Every detection class can be evaluated in every scene, whatever its seed."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import CATEGORY_TO_CLASS, CLASS_RANGE_M, DETECTION_CLASSES
from perception.simulation.manifest import SceneOrder, plan_manifest
from perception.simulation.mesh import cuboid, merge, paint
from perception.simulation.recorder import scene_surroundings, surroundings_of
from perception.simulation.rig import roof_lidar
from perception.simulation.runner import simulate
from perception.simulation.schedule import FIRST_US, KEYFRAME_US
from perception.simulation.sensors.base import Surroundings
from perception.simulation.settings import Settings
from perception.simulation.sight import Sight
from perception.simulation.world import World
from tests.simulation.bare_town import bare_town


def evaluated(world: World, surroundings: Surroundings, num_keyframes: int) -> set[str]:
    """The classes with a LiDAR point on an actor within the range of its class at a keyframe."""
    found, lidar = set(), roof_lidar()
    for t_us in range(FIRST_US, FIRST_US + num_keyframes * KEYFRAME_US, KEYFRAME_US):
        sweep = lidar.capture(surroundings, t_us)
        apart = np.linalg.norm(world.actor2global(t_us)[:, :2, 3] - world.ego2global(t_us)[:2, 3], axis=1)
        for row in np.unique(sweep.actor[sweep.actor >= 0]):
            name = CATEGORY_TO_CLASS.get(world.actors[row].shape.category)
            if name is not None and apart[row] < CLASS_RANGE_M[name]:
                found.add(name)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_class_is_measured_in_a_short_scene_of_any_seed(seed: int) -> None:
    world = World(bare_town(seed % 3, drives_on_the_right=bool(seed % 2)), 100 + seed, 4.0)
    assert evaluated(world, surroundings_of(world, "day"), 8) == set(DETECTION_CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_class_is_measured_between_houses(seed: int) -> None:
    order = SceneOrder("scene-0103", "val", seed, "singapore-queenstown", 0, 11 + seed, "day")
    world, surroundings = scene_surroundings(order, Settings(seconds=4))
    assert evaluated(world, surroundings, 8) == set(DETECTION_CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3])
def test_the_devkit_keeps_boxes_of_every_class_in_both_splits(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("nuscenes", reason="nuscenes-devkit is the referee")
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt
    from nuscenes.eval.detection.data_classes import DetectionBox

    simulate(plan_manifest(2, seed, Settings(seconds=3, image_size_px=(36, 64))), tmp_path / "set", workers=2)
    nusc = NuScenes("v1.0-mini", str(tmp_path / "set"), verbose=False)
    for split in ("mini_train", "mini_val"):
        boxes = add_center_dist(nusc, load_gt(nusc, split, DetectionBox))
        kept = filter_eval_boxes(nusc, boxes, config_factory("detection_cvpr_2019").class_range)
        assert {box.detection_name for box in kept.all} == set(DETECTION_CLASSES)


def test_walls_and_boxes_close_the_view_and_low_walls_do_not() -> None:
    steel = paint("steel")
    high, low = cuboid((0.3, 6.0, 3.0), steel, (20.0, 20.0, 1.5)), cuboid((0.3, 6.0, 0.4), steel, (20.0, 30.0, 0.2))
    sight, size, nobody = Sight(merge([high, low]), (40.0, 40.0)), np.array([4.0, 2.0]), np.zeros((0, 5))
    assert not sight.clear(np.array([10.0, 20.0]), np.array([30.0, 20.0]), size, nobody)
    assert sight.clear(np.array([10.0, 20.0]), np.array([15.0, 20.0]), size, nobody)
    assert sight.clear(np.array([10.0, 30.0]), np.array([30.0, 30.0]), size, nobody)
    box = np.array([[15.0, 31.5, 4.0, 2.0, 0.0]])
    assert sight.clear(np.array([10.0, 30.0]), np.array([30.0, 30.0]), size, box)
    box[:, 4] = np.pi / 2
    assert not sight.clear(np.array([10.0, 30.0]), np.array([30.0, 30.0]), size, box)
