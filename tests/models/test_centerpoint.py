"""CenterPoint: boxes become targets and come back, the losses by hand, peaks and suppression."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.heads.centerpoint import CenterPointHead
from perception.models.heads.centerpoint_decoding import CenterPointDecoding
from perception.models.heads.centerpoint_output import CenterPointOutput, ClassGroups
from perception.models.heads.centerpoint_targets import CenterPointTargets, Targets, draw_gaussians, gaussian_radius
from perception.models.losses.centerpoint import CenterPointLoss, gaussian_focal_loss
from perception.structures import Batch, Boxes3D
from tests.models.scenes import CLASSES, GRID, augmentation, make_batch, make_boxes, make_lidar, two_boxes

GROUPS = ClassGroups(names=("pedestrian", "car", "truck"), group_of_class=(0, 1, 1))


def output_of(targets: Targets, grid: Grid = GRID) -> CenterPointOutput:
    """The output of a network that says exactly what the targets say."""
    batch_size, _, num_y, num_x = targets.heatmap.shape
    regression = torch.zeros(batch_size, GROUPS.num_groups, 10, num_y, num_x)
    sample, group, row, column = targets.cells.unbind(1)
    regression[sample, group, :, row, column] = targets.regression.nan_to_num()
    return CenterPointOutput(
        heatmap=torch.logit(targets.heatmap, eps=1e-6), regression=regression, grid=grid, groups=GROUPS
    )


def batch_with(boxes: list[Boxes3D | None], ego2aug: Tensor | None = None) -> Batch:
    return make_batch(None, make_lidar([0] * len(boxes)), boxes, ego2aug)


@pytest.mark.parametrize("yaw_rad", [0.0, 0.7, -2.9])
@pytest.mark.parametrize("scale", [1.0, 0.9, 1.1])
@pytest.mark.parametrize("flip", [False, True])
def test_boxes_come_back_through_any_augmentation(yaw_rad: float, scale: float, flip: bool) -> None:
    truth = make_boxes(
        torch.tensor(
            [
                [6.3, -3.1, 0.5, 4.6, 1.9, 1.6, 0.4, 3.0, -1.5],
                [-5.2, 7.7, 0.8, 0.7, 0.6, 1.7, -2.0, 0.3, -1.0],
                [-6.0, -6.0, 1.1, 8.0, 2.5, 3.0, 3.1, 0.0, 0.0],
            ]
        ),
        [0, 2, 1],
    )
    ego2aug = augmentation(yaw_rad, scale, flip)
    batch = batch_with([truth], ego2aug)
    targets = CenterPointTargets().assign(batch, CLASSES, GROUPS, GRID)
    assert len(targets.cells) == 3
    (found,) = CenterPointDecoding(score_threshold=0.9).decode(output_of(targets), batch.ego2aug, CLASSES)
    order = found.labels.argsort()
    torch.testing.assert_close(found.labels[order], torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found.boxes[order], truth.boxes[[0, 2, 1]], rtol=1e-4, atol=1e-4)


def test_targets_by_hand() -> None:
    # In cells of 0.8 m, x = 6.3 lies in column 27 from -16 m (0.875 in), y = -3.1 in row 12 from -12.8 m (0.125 in).
    targets = CenterPointTargets().assign(batch_with([None, two_boxes()]), CLASSES, GROUPS, GRID)
    assert targets.annotated.tolist() == [False, True]
    assert targets.cells.tolist() == [[1, 1, 12, 27], [1, 0, 25, 13]]
    car = targets.regression[0]
    expected = [0.875, 0.125, 0.5, math.log(4.6), math.log(1.9), math.log(1.6), math.sin(0.4), math.cos(0.4)]
    torch.testing.assert_close(car[:8], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert car[8:].isnan().all()
    assert (targets.heatmap == 1).nonzero().tolist() == [[1, 0, 25, 13], [1, 1, 12, 27]]


def test_boxes_outside_the_grid_and_other_classes_make_no_targets() -> None:
    inside = [1.0, 1.0, 0, 4, 2, 1.5, 0, 0, 0]
    beyond = [20.0, 1.0, 0, 4, 2, 1.5, 0, 0, 0]
    boxes = make_boxes(torch.tensor([inside, beyond, inside]), [0, 0, 3])
    targets = CenterPointTargets().assign(batch_with([boxes]), (*CLASSES, "animal"), GROUPS, GRID)
    assert targets.cells.tolist() == [[0, 1, 17, 21]]


def test_absurd_boxes_do_no_harm() -> None:
    huge = [1.0, 1.0, 0, 1e9, 1e9, 1.5, 0, 0, 0]
    broken = [
        [math.nan, 1, 0, 4, 2, 1.5, 0, 0, 0],
        [1, 1, 0, -4, 2, 1.5, 0, 0, 0],
        [1, 1, 0, math.nan, 2, 1.5, 0, 0, 0],
    ]
    targets = CenterPointTargets().assign(
        batch_with([make_boxes(torch.tensor([huge, *broken]), [0] * 4)]), CLASSES, GROUPS, GRID
    )
    assert len(targets.cells) == 1
    assert targets.heatmap.isfinite().all()


def test_no_boxes_are_an_annotation() -> None:
    empty = make_boxes(torch.zeros(0, 9), [])
    targets = CenterPointTargets().assign(batch_with([empty]), CLASSES, GROUPS, GRID)
    assert targets.annotated.tolist() == [True]
    assert not targets.heatmap.any()
    losses = CenterPointLoss()(output_of(targets), targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["size"] == 0


def iou_of_shifted(length: float, width: float, dx: float, dy: float, grow_x: float, grow_y: float) -> float:
    """Overlap of [0, length] x [0, width] with the box moved by (dx, dy) and grown by (grow_x, grow_y)."""
    x = max(0.0, min(length, dx + length + grow_x) - max(0.0, dx))
    y = max(0.0, min(width, dy + width + grow_y) - max(0.0, dy))
    inter = x * y
    return inter / (length * width + (length + grow_x) * (width + grow_y) - inter)


@given(st.floats(0.3, 30.0), st.floats(0.3, 30.0), st.floats(0.05, 0.9))
def test_corners_moved_by_the_radius_keep_the_overlap(length: float, width: float, overlap: float) -> None:
    radius = gaussian_radius(torch.tensor([[length, width]], dtype=torch.float64), overlap).item()
    assert 0 < radius < min(length, width)
    cases = [
        iou_of_shifted(length, width, radius, radius, 0, 0),
        iou_of_shifted(length, width, radius, radius, -2 * radius, -2 * radius)
        if 2 * radius < min(length, width)
        else 0,
        iou_of_shifted(length, width, -radius, -radius, 2 * radius, 2 * radius),
    ]
    assert min(cases) == pytest.approx(overlap, abs=1e-6)  # the tightest case touches the bound, none is below


def test_gaussians_match_the_definition() -> None:
    num_y, num_x = 12, 9
    sample, channel = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 1, 0])
    cells = torch.tensor([[0, 0], [4, 5], [6, 5], [8, 11]])
    radius = torch.tensor([2, 3, 2, 0])
    heatmap = torch.zeros(2, 2, num_y, num_x)
    draw_gaussians(heatmap, sample, channel, cells, radius)
    expected = torch.zeros_like(heatmap)
    for b, k, (x, y), r in zip(sample.tolist(), channel.tolist(), cells.tolist(), radius.tolist(), strict=True):
        sigma = (2 * r + 1) / 6
        for row in range(max(0, y - r), min(num_y, y + r + 1)):
            for column in range(max(0, x - r), min(num_x, x + r + 1)):
                value = math.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma**2))
                expected[b, k, row, column] = max(expected[b, k, row, column].item(), value)
    torch.testing.assert_close(heatmap, expected)


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([0.0, 1.0, -2.0])
    targets = torch.tensor([1.0, 0.5, 0.0])
    p = [1 / (1 + math.exp(-value)) for value in logits.tolist()]
    expected = -(
        (1 - p[0]) ** 2 * math.log(p[0]) + 0.5**4 * p[1] ** 2 * math.log(1 - p[1]) + p[2] ** 2 * math.log(1 - p[2])
    )
    assert gaussian_focal_loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)
    extreme = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = gaussian_focal_loss(extreme, torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(400.0)
    loss.backward()
    assert extreme.grad.isfinite().all()


def test_unknown_velocity_does_not_count() -> None:
    targets = CenterPointTargets().assign(batch_with([two_boxes()]), CLASSES, GROUPS, GRID)
    output = output_of(targets)
    regression = (output.regression + 1.0).requires_grad_()
    shifted = CenterPointOutput(heatmap=output.heatmap, regression=regression, grid=GRID, groups=GROUPS)
    losses = CenterPointLoss(velocity=0.5, height=2.0)(shifted, targets)
    assert losses["velocity"].item() == pytest.approx(0.5 * 2 / 2)  # two known numbers, each off by 1; two boxes
    assert losses["height"].item() == pytest.approx(2.0 * 2 / 2)
    losses["velocity"].backward()
    assert regression.grad.isfinite().all()
    assert not regression.grad[0, 1].any()  # the car's


def peaks_output(scores: dict[tuple[int, int, int], float]) -> CenterPointOutput:
    heatmap = torch.full((1, 3, GRID.num_y, GRID.num_x), -20.0)
    for (channel, row, column), score in scores.items():
        heatmap[0, channel, row, column] = math.log(score / (1 - score))
    regression = torch.zeros(1, 2, 10, GRID.num_y, GRID.num_x)
    return CenterPointOutput(heatmap=heatmap, regression=regression, grid=GRID, groups=GROUPS)


def decode(decoding: CenterPointDecoding, scores: dict[tuple[int, int, int], float]) -> list[tuple[int, float]]:
    (found,) = decoding.decode(peaks_output(scores), torch.eye(4, dtype=torch.float64)[None], CLASSES)
    return [(label, round(score, 3)) for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)]


def test_peaks_thresholds_and_suppression() -> None:
    # Channels: pedestrian (label 2), car (0), truck (1). Cells are 0.8 m apart.
    scores = {
        (1, 10, 10): 0.9,
        (1, 10, 11): 0.8,
        (1, 10, 13): 0.7,
        (2, 10, 12): 0.6,
        (0, 10, 10): 0.5,
        (0, 20, 20): 0.2,
    }
    keep_all = CenterPointDecoding(score_threshold=0.0, nms_radius_m=0.0, peak_size_cells=1, max_candidates=6)
    assert [score for _, score in decode(keep_all, scores)] == [0.9, 0.8, 0.7, 0.6, 0.5, 0.2]
    peaks = CenterPointDecoding(score_threshold=0.1, nms_radius_m=0.0)
    assert decode(peaks, scores) == [(0, 0.9), (0, 0.7), (1, 0.6), (2, 0.5), (2, 0.2)]
    # Within 1.7 m of the first car lies the truck of its group, not the second car (2.4 m).
    grouped = CenterPointDecoding(score_threshold=0.3, nms_radius_m=(0.1, 1.7))
    assert decode(grouped, scores) == [(0, 0.9), (0, 0.7), (2, 0.5)]
    assert decode(CenterPointDecoding(score_threshold=0.3, nms_radius_m=0.0, max_boxes=2), scores) == [
        (0, 0.9),
        (0, 0.7),
    ]
    assert decode(CenterPointDecoding(score_threshold=0.95), scores) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold must be in"),
        ({"peak_size_cells": 2}, "and peak_size_cells odd"),
        ({"nms_radius_m": -1.0}, r"nms_radius_m must hold numbers in \[0, inf\], got \(-1.0,\)"),
        ({"nms_radius_m": ()}, "nms_radius_m must hold numbers"),
    ],
)
def test_bad_decoding_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CenterPointDecoding(**change)


def test_a_network_that_gives_nan_is_no_empty_street() -> None:
    output = peaks_output({(0, 1, 1): 0.9})
    output.heatmap[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="heatmap must hold numbers, got NaN"):
        CenterPointDecoding().decode(output, torch.eye(4)[None], output.groups.names)


def test_bad_targets_and_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_overlap must be in \(0, 1\)"):
        CenterPointTargets(min_overlap=1.0)
    with pytest.raises(ValueError, match="groups must be non-empty lists of distinct class names"):
        CenterPointHead(in_channels=8, groups=[["car"], ["car"]])
    with pytest.raises(ValueError, match="one number or one per group"):
        CenterPointHead(in_channels=8, groups=[["car"]], decoding=CenterPointDecoding(nms_radius_m=(1.0, 2.0)))
