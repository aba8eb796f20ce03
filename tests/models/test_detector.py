"""The detector as a whole: any subset of sensors, samples that leave one another alone, gradients, fit of the parts."""

import copy
import dataclasses
import re

import pytest
import torch

from perception.models.detector import Detector
from perception.models.necks.bev import BevNeck
from perception.structures import Batch
from perception.structures.tensors import map_tensors
from tests.models.scenes import (
    CLASSES,
    GRID,
    augmentation,
    make_batch,
    make_cameras,
    make_detector,
    make_lidar,
    second,
    two_boxes,
)

ALL, NONE, SOME = [True] * 3, [False] * 3, [True, False, True]

# Cameras and LiDAR counts of the samples of a batch; None is an absent sensor.
BATCHES = {
    "camera only": ([ALL, ALL], None),
    "lidar only": (None, [300, 200]),
    "both": ([ALL, ALL], [300, 200]),
    "each has one": ([ALL, NONE], [None, 300]),
    "some cameras": ([SOME, ALL], [300, None]),
    "empty cloud": ([NONE, ALL], [0, 200]),
    "all clouds empty": (None, [0, 0]),
    "one point": (None, [1, 0]),
}


def batch_of(kind: str) -> Batch:
    cameras, counts = BATCHES[kind]
    return make_batch(
        None if cameras is None else make_cameras(cameras),
        None if counts is None else make_lidar(counts),
        [two_boxes(), two_boxes()],
        augmentation(),
    )


def select(batch: Batch, index: int) -> Batch:
    """One sample of a batch, as a batch."""
    rows = slice(index, index + 1)
    lidar = batch.lidar
    if lidar is not None:
        mine = lidar.batch_index == index
        lidar = dataclasses.replace(
            lidar,
            points=lidar.points[mine],
            batch_index=lidar.batch_index[mine] * 0,
            present=lidar.present[rows],
            sensor2ego=lidar.sensor2ego[rows],
        )
    return Batch(
        tokens=batch.tokens[rows],
        scenes=batch.scenes[rows],
        timestamps_us=batch.timestamps_us[rows],
        ego2global=batch.ego2global[rows],
        ego2aug=batch.ego2aug[rows],
        cameras={name: map_tensors(cameras, lambda tensor: tensor[rows]) for name, cameras in batch.cameras.items()},
        lidar=lidar,
        boxes=batch.boxes[rows],
    )


@pytest.mark.parametrize("kind", BATCHES)
def test_any_subset_of_sensors_trains_every_parameter(kind: str) -> None:
    detector, batch = make_detector(), batch_of(kind)
    output = detector(batch)
    assert output.heads["boxes"].heatmap.shape == (2, 3, GRID.num_y, GRID.num_x)
    assert output.heads["boxes"].regression.shape == (2, 2, 10, GRID.num_y, GRID.num_x)
    losses = detector.losses(output, batch)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        assert parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in detector.buffers())


def test_reduced_precision_trains() -> None:
    detector, batch = make_detector(), batch_of("each has one")
    with torch.autocast("cpu", torch.bfloat16):
        output = detector(batch)
        losses = detector.losses(output, batch)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    assert len(detector.predict(output, batch)) == 2


@pytest.mark.parametrize("kind", ["both", "each has one"])
def test_what_is_used_gets_a_gradient_that_is_not_zero(kind: str) -> None:
    detector, batch = make_detector(), batch_of(kind)
    torch.stack(list(detector.losses(detector(batch), batch).values())).sum().backward()
    # The last backbone stage feeds nothing; an absence vector is used where its sensor is absent.
    unused = {name for name, p in detector.named_parameters() if not p.grad.any()}
    absences = {name for name in unused if "absence" in name}
    assert all("stages.3" in name for name in unused - absences), unused
    assert bool(absences) == (kind == "both")


@pytest.mark.parametrize("kind", BATCHES)
def test_samples_of_a_batch_leave_one_another_alone(kind: str) -> None:
    detector, batch = make_detector().eval(), batch_of(kind)
    detector.load_state_dict(trained_state(detector))
    together = detector(batch).heads["boxes"]
    for index in range(2):
        alone = detector(select(batch, index)).heads["boxes"]
        torch.testing.assert_close(together.heatmap[index : index + 1], alone.heatmap, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.regression[index : index + 1], alone.regression, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", BATCHES)
def test_plans_of_a_calibration_change_nothing(kind: str) -> None:
    detector, batch = make_detector().eval(), batch_of(kind)
    plans = detector.plan(batch)
    assert set(plans) == {"camera", "lidar"}
    planned, worked_out = detector(batch, plans), detector(batch)
    assert torch.equal(planned.heads["boxes"].heatmap, worked_out.heads["boxes"].heatmap)


def trained_state(detector: Detector) -> dict[str, torch.Tensor]:
    """Weights with an absence vector and batch statistics that are not at their start."""
    return {
        name: value + 0.1 * torch.rand_like(value) if value.is_floating_point() else value
        for name, value in detector.state_dict().items()
    }


@pytest.mark.parametrize("training", [True, False])
def test_the_content_of_absent_cameras_does_not_matter(training: bool) -> None:
    batch = batch_of("some cameras")
    cameras = batch.cameras["surround"]
    absent = ~cameras.present
    garbled = dataclasses.replace(
        cameras,
        images=torch.where(absent[..., None, None, None], 255 - cameras.images, cameras.images),
        intrinsics=torch.where(absent[..., None, None], torch.nan, cameras.intrinsics),
        camera2ego=torch.where(absent[..., None, None], torch.nan, cameras.camera2ego),
    )
    first = make_detector().train(training)
    second_ = copy.deepcopy(first)
    a, b = first(batch), second_(dataclasses.replace(batch, cameras={"surround": garbled}))
    assert torch.equal(a.heads["boxes"].heatmap, b.heads["boxes"].heatmap)
    for (name, mine), other in zip(first.named_buffers(), second_.buffers(), strict=True):
        assert torch.equal(mine, other), name


def test_an_absent_sensor_stays_out_of_the_batch_statistics() -> None:
    batch = batch_of("each has one")
    mixed, alone = make_detector(), make_detector()
    alone.load_state_dict(mixed.state_dict())
    mixed(batch)
    alone(select(batch, 0))
    mine, other = mixed.branches["camera"].state_dict(), alone.branches["camera"].state_dict()
    for name in mine:
        torch.testing.assert_close(mine[name], other[name], msg=name)


def test_an_absent_sensor_differs_from_one_that_saw_nothing() -> None:
    detector = make_detector().eval()
    detector.load_state_dict(trained_state(detector))
    cameras = make_cameras([ALL])
    absent = detector(make_batch(cameras, make_lidar([None]), [None]))
    empty = detector(make_batch(cameras, make_lidar([0]), [None]))
    assert not torch.allclose(absent.heads["boxes"].heatmap, empty.heads["boxes"].heatmap)


def test_inputs_are_unchanged() -> None:
    batch = batch_of("both")
    before = map_tensors(batch, torch.Tensor.clone)
    detector = make_detector()
    output = detector(batch)
    detector.losses(output, batch)
    detector.predict(output, batch)
    assert torch.equal(before.cameras["surround"].images, batch.cameras["surround"].images)
    assert torch.equal(before.lidar.points, batch.lidar.points)
    torch.testing.assert_close(before.boxes[1].boxes, batch.boxes[1].boxes, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(before.ego2aug, batch.ego2aug)


def test_a_sample_without_annotations_does_not_count() -> None:
    detector, batch = make_detector(["lidar"]).eval(), batch_of("lidar only")
    half = dataclasses.replace(batch, boxes=(batch.boxes[0], None))
    single = select(batch, 0)
    mine = detector.losses(detector(half), half)
    for name, loss in detector.losses(detector(single), single).items():
        torch.testing.assert_close(mine[name], loss)
    none = dataclasses.replace(batch, boxes=(None, None))
    losses = detector.losses(detector(none), none)
    assert all(loss == 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()


@pytest.mark.parametrize(
    ("cameras", "counts", "blind"),
    [
        (None, None, "sample_0, sample_1"),
        ([NONE, NONE], [None, None], "sample_0, sample_1"),
        ([ALL, NONE], None, "sample_1"),
    ],
)
def test_a_sample_without_any_sensor_is_an_error(cameras: object, counts: object, blind: str) -> None:
    batch = make_batch(
        None if cameras is None else make_cameras(cameras), None if counts is None else make_lidar(counts), [None, None]
    )
    with pytest.raises(ValueError, match=f"one of the sensors camera, lidar, got none for {blind}"):
        make_detector()(batch)


def test_a_tiny_case_is_learnt_and_found() -> None:
    detector = make_detector()
    batch = make_batch(make_cameras([ALL, NONE]), make_lidar([None, 400]), [two_boxes(), two_boxes()], augmentation())
    optimizer = torch.optim.AdamW(detector.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=80)  # settles before it is judged
    totals = []
    for _ in range(80):
        total = torch.stack(list(detector.losses(detector(batch), batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        totals.append(total.item())
    assert totals[-1] < 0.1 * totals[0]
    detector.eval()
    for predictions, truth in zip(detector.predict(detector(batch), batch), batch.boxes, strict=True):
        found = predictions.detections
        assert sorted(found.labels[:2].tolist()) == [0, 2]
        best = found.boxes[:2][found.labels[:2].argsort()]
        torch.testing.assert_close(best[:, :6], truth.boxes[:, :6], rtol=0, atol=0.5)


def neck(in_channels: int, level: str = "main", width: int = 8) -> BevNeck:
    return BevNeck(levels={level: second(in_channels, width=width)})


def parts() -> dict:
    detector = make_detector()
    return {
        "grids": detector.grids,
        "class_names": list(CLASSES),
        "branches": dict(detector.branches),
        "fuser": detector.fuser,
        "neck": detector.neck,
        "heads": dict(detector.heads),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neck": neck(12)}, "BevNeck requires 12 channels on level 'main', but ConcatConvFuser gives 16"),
        ({"neck": neck(16, "near")}, "BevNeck requires 16 channels on level 'near', but ConcatConvFuser gives no such"),
        ({"neck": neck(16, width=4)}, "CenterPointHead requires 16 channels .* BevNeck gives 8"),
        ({"class_names": ["car", "truck"]}, "head 'boxes' names .'pedestrian'., but the classes are"),
        ({"class_names": ["car", "car"]}, "class_names must be distinct"),
        ({"grids": {"near": GRID}}, "grids must name every level, got none for 'main' of ConcatConvFuser"),
        ({"branches": {}}, "branches and heads must not be empty"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detector(**(parts() | change))


def test_a_fuser_that_does_not_read_a_branch_is_refused() -> None:
    given = parts()
    camera = given["branches"].pop("camera")
    with pytest.raises(ValueError, match=re.escape("ConcatConvFuser reads 'camera', but the branches are lidar")):
        Detector(**given)
    given["branches"] |= {"camera": camera, "rear": camera}
    with pytest.raises(ValueError, match="ConcatConvFuser must read level 'main' of branch 'rear'"):
        Detector(**given)


def test_two_heads_of_one_kind_are_refused() -> None:
    given = parts()
    given["heads"]["again"] = make_detector().heads["boxes"]
    with pytest.raises(ValueError, match=r"heads must predict different things, got .'detections'."):
        Detector(**given)
