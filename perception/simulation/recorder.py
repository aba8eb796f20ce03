"""One scene: the rig drives through the world, every recording becomes a file, and what was there becomes rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from perception.formats.can_bus import write_can_bus
from perception.formats.nuscenes_tables import Tables
from perception.geometry.headings import headings
from perception.simulation.annotations import Annotations, annotate
from perception.simulation.can_bus import can_bus
from perception.simulation.dataset import Recorded, scene_tables, start_us
from perception.simulation.lamps import lamps_of
from perception.simulation.light import TimeOfDay, draw_light
from perception.simulation.manifest import SceneOrder
from perception.simulation.mesh import Mesh
from perception.simulation.rays import RayScene
from perception.simulation.rig import sensor_rig
from perception.simulation.schedule import recording_times_us
from perception.simulation.sensors.base import Recording, Sensor, Surroundings
from perception.simulation.sensors.camera import CameraRecording
from perception.simulation.sensors.ego_body import ego_shadow
from perception.simulation.sensors.lidar import LidarRecording
from perception.simulation.sensors.radar import RadarRecording, count_radar_points
from perception.simulation.settings import Settings
from perception.simulation.signal_lamps import SignalLamps, lamp_meshes
from perception.simulation.town import Town, build_town
from perception.simulation.truth.files import OF_SOLIDS, TruthFiles
from perception.simulation.truth.solids import Solids
from perception.simulation.weather import WeatherKind, draw_weather
from perception.simulation.wetness import in_weather
from perception.simulation.world import World

CAN_BUS_FOLDER = "can_bus"
_KEYFRAME_MODALITIES = ("camera", "lidar", "radar")
"""Others are written as sweeps: the devkit's sample renderers know these only."""


def town_at(order: SceneOrder) -> Town:
    """The town that a scene plays in; scenes of one town share it within a process.

    Args:
        order: the scene.

    Returns:
        The town.
    """
    return _town(order.town, order.split, *order.place, order.landscape)


_town = lru_cache(maxsize=2)(build_town)


def scene_surroundings(order: SceneOrder, settings: Settings) -> tuple[World, Surroundings]:
    """The world of a scene, and how sensors perceive it.

    Args:
        order: which scene.
        settings: what is recorded.

    Returns:
        The world, and its surfaces, motion, materials and light; both in the frame of the town.
    """
    world = World(town_at(order), order.seed, settings.seconds, order.drive)
    return world, surroundings_of(world, order.light, order.weather)


def surroundings_of(world: World, time_of_day: TimeOfDay, weather_kind: WeatherKind = "clear") -> Surroundings:
    """How sensors perceive a world.

    Args:
        world: a scene.
        time_of_day: its light.
        weather_kind: its weather.

    Returns:
        Its surfaces, motion, materials and light, in the frame of its town.
    """
    shapes, num_lamps = _shapes(world), len(lamp_meshes())
    weather = draw_weather(world.seed, weather_kind)
    ahead = world.ego2global(round(5e5 * world.duration_s))[:2, 0]  # in the middle of the scene
    return Surroundings(
        rays=RayScene(world.town.mesh, shapes),
        motion=_Motion(world),
        materials=in_weather(world.town.materials, weather),
        light=draw_light(world.seed, time_of_day, weather, float(np.arctan2(ahead[1], ahead[0]))),
        seed=world.seed,
        signals=SignalLamps(world.town.signal_heads, world.signal_colours, len(shapes) - 1 - num_lamps),
        ego_shape=len(shapes) - 1,
        weather=weather,
        lamps=lamps_of(world) if weather.kind != "clear" or time_of_day == "night" else None,
    )


def scene_solids(world: World) -> Solids:
    """The meshes that ground truths are cut from, numbered as in the ray scene.

    Args:
        world: a scene.

    Returns:
        Its static world and all that moves.
    """
    return Solids(world.town.mesh, _shapes(world))


def _shapes(world: World) -> list[Mesh]:
    """All that moves, as the ray scene numbers it: the actors' meshes, lit signal lamps, the own car's shadow."""
    return [*(mesh for actor in world.actors for mesh in actor.shape.meshes), *lamp_meshes(), ego_shadow()]


def record_scene(
    order: SceneOrder, settings: Settings, out: Path, version: str, on_keyframe: Callable[[], None] | None = None
) -> Tables:
    """Makes one scene; the same arguments give the same bytes.

    Args:
        order: which scene.
        settings: what is recorded.
        out: the dataroot; gets files below `samples/` and `sweeps/`, and below folders of their own what else is
            wanted: `lidar_raw/`, `can_bus/` and those of the ground truths.
        version: of the tables that the scene will stand in, such as `v1.0-mini`; point labels lie in its folder.
        on_keyframe: called after every keyframe.

    Returns:
        The scene's rows.

    Raises:
        OSError: a file cannot be written.
    """
    world, surroundings = scene_surroundings(order, settings)
    rig = sensor_rig(settings)
    solids = scene_solids(world) if set(OF_SOLIDS) & set(settings.truths) else None
    truths = TruthFiles(order, settings, out, version, rig, surroundings, solids)
    recorder = _Recorder(order, settings, out, surroundings, world.town.town2global)
    times_us = [recording_times_us(sensor, settings) for sensor in rig]
    keyframes = []
    for number in range(settings.num_keyframes):
        taken = [recorder.record(sensor, times[number], number) for sensor, times in zip(rig, times_us, strict=True)]
        keyframes.append(keyframe_annotations(world, rig[0], taken))
        truths.write(number, taken, keyframes[-1].noted)
        if on_keyframe is not None:
            on_keyframe()
    if settings.can_bus:
        folder = out / CAN_BUS_FOLDER
        folder.mkdir(exist_ok=True)
        write_can_bus(folder, order.name, can_bus(world, start_us(order.name)))
    categories = [actor.shape.category for actor in world.actors]
    tables = scene_tables(order, rig, recorder.recorded, categories, keyframes)
    return replace(tables, lidarseg=truths.lidarseg, panoptic=truths.panoptic)


class _Motion:
    """The world's motion as sensors ask for it: meshes are numbered over all actors."""

    def __init__(self, world: World) -> None:
        self._world = world
        counts = [len(actor.shape.meshes) for actor in world.actors]
        self._first_mesh = np.cumsum([0, *counts], dtype=np.int32)[:-1]  # (A,)

    def ego2global(self, t_us: int) -> np.ndarray:
        """(4, 4) float64 pose of the ego vehicle."""
        return self._world.ego2global(t_us)

    def actor2global(self, t_us: int) -> np.ndarray:
        """(A, 4, 4) float64 poses of all actors."""
        return self._world.actor2global(t_us)

    def actor_shapes(self, t_us: int) -> np.ndarray:
        """(A,) int32 index of each actor's mesh."""
        return (self._first_mesh + self._world.actor_meshes(t_us)).astype(np.int32)


@dataclass
class _Recorder:
    """Writes recordings, and notes what it wrote."""

    order: SceneOrder
    settings: Settings
    out: Path
    surroundings: Surroundings
    town2global: np.ndarray
    recorded: list[Recorded] = field(default_factory=list)

    def record(self, sensor: Sensor, times_us: Sequence[int], number: int) -> Recording:
        """Records the sweeps that lead to a keyframe, and the keyframe, which it returns."""
        for t_us in times_us[:-1]:
            self._record(sensor, t_us, number, False)
        return self._record(sensor, times_us[-1], number, sensor.modality in _KEYFRAME_MODALITIES)

    def _record(self, sensor: Sensor, t_us: int, sample: int, is_key_frame: bool) -> Recording:
        recording = sensor.capture(self.surroundings, t_us)
        stem = f"{self.order.name}__{sensor.channel}__{start_us(self.order.name) + t_us}"
        filename = f"{'samples' if is_key_frame else 'sweeps'}/{sensor.channel}/{stem}{sensor.suffix}"
        _write(self.out / filename, recording.content)
        if self.settings.raw_lidar and isinstance(recording, LidarRecording):
            _write(self.out / "lidar_raw" / sensor.channel / f"{stem}.bin", _raw_bytes(recording))
        ego2global = self.town2global @ recording.ego2global
        self.recorded.append(Recorded(sensor.channel, recording.t_us, ego2global, filename, sample, is_key_frame))
        return recording


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _raw_bytes(recording: LidarRecording) -> bytes:
    """(P, 6) float32: x y z as measured, each in the sensor frame of its own time, intensity, ring, time in s."""
    rows = np.column_stack((recording.raw, recording.points[:, 3:], recording.time_s))
    return rows.astype("<f4").tobytes()


def keyframe_annotations(world: World, timing: Sensor, taken: Sequence[Recording]) -> Annotations:
    """The actors at a keyframe, as its sweep and its pictures have them.

    Args:
        world: where they are.
        timing: the LiDAR.
        taken: what the sensors recorded; one sweep, all pictures, and the scans of the radars if there are any.

    Returns:
        The annotations of all actors, on the map of the town's location.
    """
    town2global = world.town.town2global
    (sweep,) = (it for it in taken if isinstance(it, LidarRecording))
    actor2town = world.actor2global(sweep.t_us)  # (A, 4, 4)
    sizes = np.array([actor.shape.size_lwh_m for actor in world.actors]).reshape(-1, 3)
    ego2global = town2global @ sweep.ego2global
    lidar2global = ego2global @ timing.sensor2ego
    pictures = [it for it in taken if isinstance(it, CameraRecording)]
    return annotate(
        boxes=_boxes(town2global @ actor2town, sizes),
        attributes=world.actor_attributes(sweep.t_us),
        points=sweep.points[:, :3].astype(np.float64) @ lidar2global[:3, :3].T + lidar2global[:3, 3],
        ego_position_m=ego2global[:3, 3],
        visible_px=np.sum([it.visible_px for it in pictures], axis=0),
        whole_px=np.sum([it.unoccluded_px for it in pictures], axis=0),
        num_radar_pts=count_radar_points(
            [it for it in taken if isinstance(it, RadarRecording)], _boxes(actor2town, sizes)
        ),
    )


def _boxes(actor2world: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(A, 7) centre, length width height, yaw of actors at poses (A, 4, 4) with sizes (A, 3)."""
    yaw = headings(actor2world[:, :2, 0])
    return np.column_stack((actor2world[:, :3, 3], sizes, yaw))
