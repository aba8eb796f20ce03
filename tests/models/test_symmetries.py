"""A detector of every kind of sensor: mirrored frames, the order of what sensors report, what lies in absent rows."""

import dataclasses
import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from perception.models.detector import Detector, DetectorOutput
from perception.models.flips import flip_matrix
from perception.models.necks.second import SecondBackbone
from perception.models.parts import Fuser
from perception.structures import Batch, CameraImages, EchoBatch, FusedFeatures, PointBatch
from perception.structures.sensors import ECHO_AXES
from perception.structures.tensors import map_tensors
from tests.models.fusers.features import BUILDERS
from tests.models.scenes import settled
from tests.models.test_every_sensor import made_batch, make_detector, with_sensors

BRANCHES = ("camera", "fisheye", "lidar", "radar", "radar4d", "ultrasonic")
# What changes its sign with y, of what the networks of points read: y, y from the pillar's mean and in the cell of a
# LiDAR point; y, y in the cell, the velocity's y and the correlation of a radar return.
ODD = {"lidar": [1, 4, 7], "radar": [1, 4, 6, 10], "radar4d": [1, 4, 6, 10]}


def blind_to_left_and_right(detector: Detector) -> Detector:
    """Makes every network of the bird's-eye view answer a mirrored map by its mirrored answer.

    Kernels become symmetric along y, layers of points do not read what changes its sign there, and stages have no
    stride, which would take other cells of a mirrored map. Networks of pictures stay as they are.
    """
    for name, columns in ODD.items():
        encoder = detector.branches[name].encoder
        encoder.point_layers[0][0].weight[:, columns] = 0.0
        if name != "lidar":
            encoder.backbone.stages[0][0][0].weight[:, -2] = 0.0  # the mean velocity's y
    for name, branch in detector.branches.items():
        maps = branch.view if name in ("camera", "fisheye") else branch
        _symmetric(maps.refine if hasattr(maps, "refine") else maps)
    _symmetric(detector.fuser)
    _symmetric(detector.neck)
    return detector


def _symmetric(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_((module.weight + module.weight.flip(2)) / 2)


def without_strides(width: int) -> SecondBackbone:
    return SecondBackbone(
        in_channels=width, stage_channels=[8, 8], stage_layers=[1, 1], stage_strides=[1, 1], up_channels=8
    )


@functools.cache
def mirrorable() -> Detector:
    detector = make_detector()
    encoders = {name: detector.branches[name].encoder for name in ODD}
    encoders["lidar"].backbone = without_strides(8)
    for name in ("radar", "radar4d"):
        encoders[name].backbone = without_strides(12)
    detector.neck.levels["main"], detector.neck.levels["near"] = without_strides(16), without_strides(8)
    with torch.no_grad():
        return settled(blind_to_left_and_right(detector), made_batch())


def looked(detector: Detector, batch: Batch, names: tuple[str, ...]) -> FusedFeatures:
    """What the neck gives where only some branches run."""
    bare = dataclasses.replace(batch, cameras={}, lidar=None, radar=None, radar4d=None, ultrasonic=None)
    with torch.no_grad():
        features = {
            name: branch(batch if name in names else bare, detector.grids) for name, branch in detector.branches.items()
        }
        return detector.neck(detector.fuser(features))


@pytest.mark.parametrize("names", [*((name,) for name in BRANCHES), BRANCHES], ids="-".join)
def test_a_mirrored_frame_gives_mirrored_maps(names: tuple[str, ...]) -> None:
    batch, detector = made_batch(), mirrorable()
    mirrored = dataclasses.replace(batch, ego2aug=flip_matrix("y") @ batch.ego2aug)
    straight, turned = looked(detector, batch, names), looked(detector, mirrored, names)
    moved = 0.0
    for level, bev in straight.bev.items():
        torch.testing.assert_close(turned.bev[level].features.flip(2), bev.features, rtol=1e-3, atol=1e-3)
        assert torch.equal(turned.bev[level].validity.flip(2), bev.validity)
        moved = max(moved, (turned.bev[level].features - bev.features).abs().max().item())
    assert moved > 0.5  # the maps are not symmetric themselves


def in_order(batch: Batch, order: Callable[[int], Tensor]) -> Batch:
    """The batch with the rows of every sensor in another order within each sample."""

    def rows(batch_index: Tensor) -> Tensor:
        parts = [(batch_index == sample).nonzero()[:, 0] for sample in range(len(batch))]
        return torch.cat([part[order(len(part))] for part in parts])

    def points(cloud: PointBatch) -> PointBatch:
        return dataclasses.replace(cloud, points=cloud.points[rows(cloud.batch_index)])

    def echoes(given: EchoBatch) -> EchoBatch:
        places = rows(given.batch_index)
        return dataclasses.replace(given, **{name: getattr(given, name)[places] for name in ECHO_AXES})

    def cameras(images: CameraImages) -> CameraImages:
        places = order(len(images.names))
        moved = map_tensors(images, lambda tensor: tensor[:, places])
        return dataclasses.replace(moved, names=tuple(images.names[place] for place in places.tolist()))

    return dataclasses.replace(
        batch,
        cameras={group: cameras(images) for group, images in reversed(batch.cameras.items())},
        lidar=points(batch.lidar),
        radar=points(batch.radar),
        radar4d=points(batch.radar4d),
        ultrasonic=echoes(batch.ultrasonic),
    )


def maps_of(output: DetectorOutput) -> dict[str, Tensor]:
    boxes, near = output.heads["boxes"], output.heads["near_field"]
    return {"heatmap": boxes.heatmap, "regression": boxes.regression, "near": near.logits, "coarse": near.coarse_logits}


@torch.no_grad()
def test_the_order_of_points_echoes_and_cameras_does_not_matter() -> None:
    batch = made_batch()
    detector = settled(make_detector(), batch)
    expected = maps_of(detector(batch))
    generator = torch.Generator().manual_seed(7)
    for order in (lambda count: torch.arange(count).flip(0), lambda count: torch.randperm(count, generator=generator)):
        found = maps_of(detector(in_order(batch, order)))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)


def spoilt(batch: Batch, given: Batch) -> Batch:
    """A batch with less than another one, and with nonsense in all that it lacks."""

    def points(mine: PointBatch, whole: PointBatch) -> PointBatch:
        absent = ~mine.present[whole.batch_index]
        return dataclasses.replace(
            whole,
            points=torch.where(absent[:, None], torch.nan, whole.points),
            present=mine.present,
            sensor2ego=torch.where(mine.present[:, None, None], whole.sensor2ego, torch.nan),
        )

    def echoes(mine: EchoBatch, whole: EchoBatch) -> EchoBatch:
        absent = ~mine.present[whole.batch_index]
        values = {
            name: torch.where(absent.view(-1, *[1] * (value.ndim - 1)), math.inf, value)
            for name in ECHO_AXES
            if (value := getattr(whole, name)).is_floating_point()
        }
        return dataclasses.replace(whole, **values, present=mine.present)

    def cameras(mine: CameraImages) -> CameraImages:
        absent = ~mine.present
        changes = {
            field.name: torch.where(absent.view(*absent.shape, *[1] * (value.ndim - 2)), torch.nan, value)
            for field in dataclasses.fields(mine)
            if isinstance(value := getattr(mine, field.name), Tensor) and value.is_floating_point()
        }
        images = torch.where(absent[..., None, None, None], 255 - mine.images, mine.images)
        return dataclasses.replace(mine, **changes, images=images)

    return dataclasses.replace(
        batch,
        cameras={group: cameras(images) for group, images in batch.cameras.items()},
        lidar=points(batch.lidar, given.lidar),
        radar=points(batch.radar, given.radar),
        radar4d=points(batch.radar4d, given.radar4d),
        ultrasonic=echoes(batch.ultrasonic, given.ultrasonic),
    )


def with_fuser(name: str) -> Detector:
    given = make_detector()
    channels = {
        level: {sensor: b.out_channels[level] for sensor, b in given.branches.items() if level in b.out_channels}
        for level in given.grids
    }
    torch.manual_seed(2)
    fuser: Fuser = BUILDERS[name](channels, {"main": 16, "near": 8})
    return Detector(
        grids=given.grids, class_names=list(given.class_names), branches=dict(given.branches), fuser=fuser,
        neck=given.neck, heads=dict(given.heads),
    )  # fmt: skip


@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_of_what_is_absent_is_read_from_branch_to_head(name: str) -> None:
    whole = made_batch()
    clean = with_sensors(whole, [("camera", "radar"), ("lidar", "ultrasonic")])
    detector, results = with_fuser(name), []
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    for batch in (clean, spoilt(clean, whole)):
        detector.load_state_dict(state)
        detector.zero_grad()
        torch.manual_seed(3)
        output = detector.train()(batch)
        torch.stack(list(detector.losses(output, batch).values())).sum().backward()
        gradients = {key: p.grad.clone() for key, p in detector.named_parameters() if p.requires_grad}
        results.append((maps_of(output), gradients, {key: value.clone() for key, value in detector.named_buffers()}))
    for first, second in zip(*results, strict=True):
        for key, value in first.items():
            assert value.isfinite().all(), key
            assert torch.equal(second[key], value), key
