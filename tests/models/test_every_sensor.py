"""A detector of every kind of sensor: all subsets, batches that mix them, single sensors missing."""

import copy
import dataclasses
import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from perception.models.branches import CameraBranch, LidarBranch, RadarBranch, UltrasonicBranch
from perception.models.detector import Detector
from perception.models.encoders.height_attention import HeightAttention
from perception.models.encoders.pillars import PillarEncoder
from perception.models.encoders.radar import RadarEncoder
from perception.models.encoders.ultrasonic import UltrasonicEncoder
from perception.models.fusers.concat_conv import ConcatConvFuser
from perception.models.heads.centerpoint import CenterPointHead
from perception.models.heads.near_field import NearFieldHead
from perception.models.necks.bev import BevNeck
from perception.models.temporal.history import BevHistory
from perception.models.views.deformable import DeformableView
from perception.models.views.lift_splat import LiftSplat
from perception.models.views.sampling import SamplingView
from perception.structures import Batch, CameraImages, EchoBatch, PointBatch
from perception.structures.sensors import ECHO_AXES
from perception.structures.tensors import map_tensors
from tests.models.near_scenes import NEAR, every_sensor, make_echoes
from tests.models.scenes import CLASSES, GRID, augmentation, image_encoder, second, settled, two_boxes

SENSORS = ("camera", "lidar", "radar", "ultrasonic")
SUBSETS = [subset for count in range(1, 5) for subset in itertools.combinations(SENSORS, count)]


@functools.cache
def made_batch() -> Batch:
    """Two samples with every sensor."""
    torch.manual_seed(0)
    moves = torch.stack((augmentation(), augmentation(-1.0, 0.95, False)))
    return dataclasses.replace(every_sensor(), ego2aug=moves, boxes=(two_boxes(), two_boxes()))


def make_detector() -> Detector:
    torch.manual_seed(1)
    view = LiftSplat(in_channels=12, context_channels=8, out_channels=10, distance_range_m=(1.0, 13.0))
    near_view = SamplingView(in_channels=12, context_channels=8, out_channels={"main": 6, "near": 5})
    heights = HeightAttention(channels=8, num_layers=4)
    branches = {
        "camera": CameraBranch(encoder=image_encoder(), view=view),
        "fisheye": CameraBranch(encoder=image_encoder(), view=near_view, group="fisheye"),
        "lidar": LidarBranch(
            encoder=PillarEncoder(fields={"intensity": 1 / 255}, point_channels=[8], backbone=second(8, 2))
        ),
        "radar": RadarBranch(encoder=RadarEncoder(fields={"rcs_dbsm": 0.05}, point_channels=[8], backbone=second(12))),
        "radar4d": RadarBranch(
            encoder=RadarEncoder(fields={"power_db": 0.05}, point_channels=[8], backbone=second(12), heights=heights),
            source="radar4d",
        ),
        "ultrasonic": UltrasonicBranch(encoder=UltrasonicEncoder(channels=6, coarse_channels=5)),
    }
    channels = {
        level: {name: branch.out_channels[level] for name, branch in branches.items() if level in branch.out_channels}
        for level in ("main", "near")
    }
    return Detector(
        grids={"main": GRID, "near": NEAR},
        class_names=list(CLASSES),
        branches=branches,
        fuser=ConcatConvFuser(in_channels=channels, out_channels={"main": 16, "near": 8}),
        neck=BevNeck(levels={"main": second(16), "near": second(8)}),
        heads={
            "boxes": CenterPointHead(
                in_channels=16, groups=[["car", "truck"], ["pedestrian"]], shared_channels=16, group_channels=16
            ),
            "near_field": NearFieldHead(in_channels=16, channels=8, coarse_channels=8),
        },
    )


def without_points(points: PointBatch, keep: Tensor) -> PointBatch:
    kept = keep[points.batch_index]
    return dataclasses.replace(
        points,
        points=points.points[kept],
        batch_index=points.batch_index[kept],
        present=points.present & keep,
    )


def without_echoes(echoes: EchoBatch, keep: Tensor) -> EchoBatch:
    kept = keep[echoes.batch_index]
    rows = {name: getattr(echoes, name)[kept] for name in (*ECHO_AXES, "batch_index")}
    return dataclasses.replace(echoes, **rows, present=echoes.present & keep)


def with_sensors(batch: Batch, per_sample: list[tuple[str, ...]]) -> Batch:
    """Takes sensors away: of each sample those that its tuple does not name."""
    keep = {name: torch.tensor([name in names for names in per_sample]) for name in SENSORS}

    def cameras(images: CameraImages) -> CameraImages:
        return dataclasses.replace(images, present=images.present & keep["camera"][:, None])

    return dataclasses.replace(
        batch,
        cameras={group: cameras(images) for group, images in batch.cameras.items()},
        lidar=without_points(batch.lidar, keep["lidar"]),
        radar=without_points(batch.radar, keep["radar"]),
        radar4d=without_points(batch.radar4d, keep["radar"]),
        ultrasonic=without_echoes(batch.ultrasonic, keep["ultrasonic"]),
    )


def sample_of(batch: Batch, index: int) -> Batch:
    """One sample of a batch, as a batch."""
    rows, keep = slice(index, index + 1), torch.arange(len(batch)) == index

    def points(cloud: PointBatch) -> PointBatch:
        mine = without_points(cloud, keep)
        return dataclasses.replace(
            mine, batch_index=mine.batch_index * 0, present=mine.present[rows], sensor2ego=mine.sensor2ego[rows]
        )

    echoes = without_echoes(batch.ultrasonic, keep)
    return Batch(
        tokens=batch.tokens[rows], scenes=batch.scenes[rows], timestamps_us=batch.timestamps_us[rows],
        ego2global=batch.ego2global[rows], ego2aug=batch.ego2aug[rows], boxes=batch.boxes[rows],
        cameras={name: map_tensors(images, lambda tensor: tensor[rows]) for name, images in batch.cameras.items()},
        lidar=points(batch.lidar), radar=points(batch.radar), radar4d=points(batch.radar4d),
        ultrasonic=dataclasses.replace(echoes, batch_index=echoes.batch_index * 0, present=echoes.present[rows]),
    )  # fmt: skip


def check_training(detector: Detector, batch: Batch) -> None:
    output = detector(batch)
    losses = detector.losses(output, batch)
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in detector.buffers())
    assert len(detector.predict(output, batch)) == len(batch)


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_every_subset_of_sensors_trains(subset: tuple[str, ...]) -> None:
    check_training(make_detector(), with_sensors(made_batch(), [subset, subset]))


def test_reduced_precision_trains() -> None:
    detector, batch = make_detector(), made_batch()
    detector.branches["camera"].view = DeformableView(in_channels=12, out_channels=10, channels=8, num_heads=2)
    detector.temporal = BevHistory(channels={"main": 16, "near": 8})
    later = dataclasses.replace(batch, timestamps_us=batch.timestamps_us + 500_000)
    exact = settled(copy.deepcopy(detector), batch)
    with torch.autocast("cpu", torch.bfloat16):
        output = detector(later, state=detector(batch).state)
        losses = detector.losses(output, later)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    with torch.no_grad():
        wide = exact(later, state=exact(batch).state).heads["near_field"].logits
        with torch.autocast("cpu", torch.bfloat16):
            narrow = exact(later, state=exact(batch).state).heads["near_field"].logits
    assert (narrow.float() - wide).abs().mean() < 0.1 * wide.std()


MIXED = [
    (("camera",), ("lidar", "radar")),
    (("radar",), ("ultrasonic",)),
    (("lidar", "ultrasonic"), ("camera", "lidar", "radar", "ultrasonic")),
]


@pytest.mark.parametrize("per_sample", MIXED)
def test_batches_mix_subsets_whose_samples_do_not_matter_to_each_other(per_sample: tuple) -> None:
    detector = make_detector()
    batch = with_sensors(made_batch(), list(per_sample))
    check_training(detector, batch)
    settled(detector, made_batch())
    together = detector(batch)
    assert together.heads["near_field"].logits.diff(dim=0).abs().max() > 0.1  # the samples are different
    for index in range(2):
        alone = detector(sample_of(batch, index))
        rows = slice(index, index + 1)
        for name in ("boxes", "near_field"):
            mine, other = together.heads[name], alone.heads[name]
            for field in ("heatmap", "regression") if name == "boxes" else ("logits", "coarse_logits"):
                torch.testing.assert_close(getattr(mine, field)[rows], getattr(other, field), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fill", [0.0, math.nan, 1e30, math.inf])
def test_what_lies_in_the_rows_of_absent_sensors_does_not_matter(fill: float) -> None:
    """Points and echoes of samples without the sensor stay where they are, with anything in them."""
    per_sample = [("camera", "lidar"), ("camera", "radar", "ultrasonic")]
    batch, without = made_batch(), with_sensors(made_batch(), per_sample)

    def garbled(name: str) -> PointBatch | EchoBatch:
        whole, present = getattr(batch, name), getattr(without, name).present
        absent = ~present[whole.batch_index]
        assert absent.any()
        if isinstance(whole, PointBatch):
            points = torch.where(absent[:, None], fill, whole.points)
            return dataclasses.replace(whole, points=points, present=present)
        return dataclasses.replace(whole, level=torch.where(absent, fill, whole.level), present=present)

    names = ("lidar", "radar", "radar4d", "ultrasonic")
    detector = settled(make_detector(), batch)
    expected = detector(without).heads
    found = detector(dataclasses.replace(without, **{name: garbled(name) for name in names})).heads
    assert torch.equal(found["boxes"].heatmap, expected["boxes"].heatmap)
    assert torch.equal(found["near_field"].logits, expected["near_field"].logits)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30, 1e8])
@torch.no_grad()
def test_numbers_that_no_sensor_says_drown_nothing(value: float) -> None:
    batch = made_batch()
    detector = settled(make_detector(), batch)

    def spoilt(given: PointBatch) -> PointBatch:  # the first returns, each in another column
        points = given.points.clone()
        for row, column in enumerate(range(2, points.shape[1])):
            points[row, column] = value
        return dataclasses.replace(given, points=points)

    numbers = ("distance_m", "sigma_m", "level", "beam_rad", "age_s")
    echoes = {name: getattr(batch.ultrasonic, name).clone() for name in numbers}
    for row, column in enumerate(echoes.values()):
        column[row] = value
    garbled = {name: spoilt(getattr(batch, name)) for name in ("lidar", "radar", "radar4d")}
    given = dataclasses.replace(batch, **garbled, ultrasonic=dataclasses.replace(batch.ultrasonic, **echoes))
    found, clean = detector(given).heads, detector(batch).heads
    assert found["boxes"].regression.isfinite().all()
    assert found["near_field"].logits.isfinite().all()
    assert (found["boxes"].heatmap - clean["boxes"].heatmap).abs().max() < 30


def test_a_sample_without_any_sensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of the sensors camera, fisheye, .* ultrasonic, got none for sample_1"):
        make_detector()(with_sensors(made_batch(), [SENSORS, ()]))


def test_single_sensors_may_be_missing() -> None:
    batch = made_batch()
    cameras = {
        name: dataclasses.replace(images, present=images.present & (torch.arange(images.present.shape[1]) != 1))
        for name, images in batch.cameras.items()
    }
    ahead = batch.radar.points[:, 0] > 0  # what front radars alone would give
    radar = dataclasses.replace(
        batch.radar, points=batch.radar.points[ahead], batch_index=batch.radar.batch_index[ahead]
    )
    check_training(
        make_detector(),
        dataclasses.replace(batch, cameras=cameras, radar=radar, ultrasonic=make_echoes([range(7), [0, 3]])),
    )
