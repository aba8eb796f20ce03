"""The files of a scene's ground truths, and the rows of those that nuScenes has tables for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception.formats.label_images import depth_png, semantic_png
from perception.formats.near_field import near_field_bytes
from perception.formats.nuscenes_rows import PointLabelRow
from perception.formats.occupancy import occupancy_bytes
from perception.formats.point_labels import lidarseg_bytes, panoptic_bytes
from perception.simulation.dataset import recording_token, sample_token
from perception.simulation.manifest import SceneOrder
from perception.simulation.schedule import keyframe_times_us
from perception.simulation.sensors.base import Recording, Sensor, Surroundings
from perception.simulation.sensors.camera import Camera, CameraRecording
from perception.simulation.sensors.fisheye import fisheye_cameras
from perception.simulation.sensors.lidar import LidarRecording
from perception.simulation.settings import Settings
from perception.simulation.truth.images import picture_depth
from perception.simulation.truth.lidarseg import InstanceNumbers, panoptic_labels
from perception.simulation.truth.near_field import near_field_cells
from perception.simulation.truth.occupancy import OccupancySensors, scene_occupancy
from perception.simulation.truth.solids import Solids

OF_SOLIDS = ("occupancy", "near_field")
"""Truths that are cut from the meshes of the scene."""


class _Keyframe(NamedTuple):
    """What was recorded, under its tokens, and which actors (A,) have an annotation."""

    sample: str
    lidar: str
    sweep: LidarRecording
    pictures: list[CameraRecording]
    noted: np.ndarray


@dataclass(eq=False)
class TruthFiles:
    """Writes the ground truths of a scene.

    Attributes:
        order: which scene.
        settings: which truths.
        out: the dataroot.
        version: of the tables that the scene stands in, such as `v1.0-mini`.
        rig: the sensors, the LiDAR first.
        surroundings: what they perceive.
        solids: the meshes of the scene; None where no truth of `OF_SOLIDS` is wanted.
        lidarseg: rows of the point categories written so far.
        panoptic: rows of the instances written so far.
    """

    order: SceneOrder
    settings: Settings
    out: Path
    version: str
    rig: Sequence[Sensor]
    surroundings: Surroundings
    solids: Solids | None
    lidarseg: list[PointLabelRow] = field(default_factory=list)
    panoptic: list[PointLabelRow] = field(default_factory=list)
    _numbers: InstanceNumbers | None = None

    def write(self, number: int, taken: Sequence[Recording], noted: np.ndarray) -> None:
        """Writes the truths of a keyframe; keyframes must come in their order.

        Args:
            number: of the keyframe.
            taken: its recordings, with one sweep and all pictures.
            noted: (A,) bool, which actors have an annotation in it.

        Raises:
            OSError: a file cannot be written.
        """
        makers: dict[str, Callable[[_Keyframe], None]] = {
            "lidarseg": self._lidarseg,
            "panoptic": self._panoptic,
            "occupancy": self._occupancy,
            "near_field": self._near_field,
            "depth": self._depth,
            "semantics": self._semantics,
        }
        (sweep,) = (it for it in taken if isinstance(it, LidarRecording))
        keyframe = _Keyframe(
            sample_token(self.order, number),
            recording_token(self.order, self.rig[0].channel, sweep.t_us),
            sweep,
            [it for it in taken if isinstance(it, CameraRecording)],
            noted,
        )
        for truth in self.settings.truths:
            makers[truth](keyframe)

    @property
    def _cameras(self) -> list[Camera]:
        return [sensor for sensor in self.rig if isinstance(sensor, Camera)]

    def _lidarseg(self, it: _Keyframe) -> None:
        name = f"lidarseg/{self.version}/{it.lidar}_lidarseg.bin"
        self._write(name, lidarseg_bytes(it.sweep.semantic))
        self.lidarseg.append(PointLabelRow(token=it.lidar, sample_data_token=it.lidar, filename=name))

    def _panoptic(self, it: _Keyframe) -> None:
        self._numbers = self._numbers or InstanceNumbers(len(it.noted))
        actor2world = self.surroundings.motion.actor2global(it.sweep.t_us)  # (A, 4, 4)
        away_m = np.linalg.norm(actor2world[:, :2, 3] - it.sweep.ego2global[:2, 3], axis=1)  # (A,)
        labels = panoptic_labels(it.sweep, it.noted, self._numbers.at_keyframe(it.noted, away_m))
        name = f"panoptic/{self.version}/{it.lidar}_panoptic.npz"
        self._write(name, panoptic_bytes(labels))
        self.panoptic.append(PointLabelRow(token=it.lidar, sample_data_token=it.lidar, filename=name))

    def _occupancy(self, it: _Keyframe) -> None:
        assert self.solids is not None, "occupancy must have the meshes of the scene"
        sensors = OccupancySensors(self.rig[0], self._cameras, keyframe_times_us(self.settings))
        cells = scene_occupancy(self.solids, self.surroundings, sensors, it.sweep, it.pictures)
        self._write(f"gts/{self.order.name}/{it.sample}/labels.npz", occupancy_bytes(cells))

    def _near_field(self, it: _Keyframe) -> None:
        """Seen from the LiDAR and from where the fisheyes sit, recorded or not."""
        assert self.solids is not None, "the near field must have the meshes of the scene"
        eyes_m = [sensor.sensor2ego[:3, 3].tolist() for sensor in (self.rig[0], *fisheye_cameras())]
        cells = near_field_cells(self.solids, self.surroundings, it.sweep.t_us, eyes_m)
        self._write(f"near_field/{self.order.name}/{it.sample}.npz", near_field_bytes(cells))

    def _depth(self, it: _Keyframe) -> None:
        for camera, shot in zip(self._cameras, it.pictures, strict=True):
            self._write(f"depth/{camera.channel}/{it.sample}.png", depth_png(picture_depth(camera, shot)))

    def _semantics(self, it: _Keyframe) -> None:
        for camera, shot in zip(self._cameras, it.pictures, strict=True):
            self._write(f"semantics/{camera.channel}/{it.sample}.png", semantic_png(shot.semantic))

    def _write(self, filename: str, content: bytes) -> None:
        path = self.out / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
