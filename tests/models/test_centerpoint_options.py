"""CenterPoint's options: guessed overlaps, suppression by footprint, mirrored frames."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.detector import Detector
from perception.models.flips import Flip, flip_matrix
from perception.models.heads.centerpoint import CenterPointHead, unflip_output
from perception.models.heads.centerpoint_decoding import CenterPointDecoding
from perception.models.heads.centerpoint_output import CenterPointOutput, ClassGroups
from perception.models.heads.centerpoint_targets import CenterPointTargets, Targets, encode_boxes
from perception.models.losses.centerpoint import CenterPointLoss, true_overlap
from tests.models.scenes import (
    CLASSES,
    GRID,
    augmentation,
    make_batch,
    make_boxes,
    make_cameras,
    make_detector,
    make_lidar,
    two_boxes,
)

GROUPS = ClassGroups(names=("pedestrian", "car", "truck"), group_of_class=(0, 1, 1))
FLIPS: tuple[Flip, ...] = ("x", "y", "xy")


def output_with(boxes: Tensor, channels: list[int], scores: list[float], overlaps: list[float]) -> CenterPointOutput:
    """An output that says these (M, 9) boxes, of the classes in GROUPS, on a map that says nothing else."""
    heatmap = torch.full((1, 3, GRID.num_y, GRID.num_x), -20.0)
    regression = torch.zeros(1, 2, 10, GRID.num_y, GRID.num_x)
    overlap = torch.full((1, 2, GRID.num_y, GRID.num_x), -1.0)
    places = (boxes[:, :2] + 12.8) / 0.8
    for row, (channel, score, guess) in enumerate(zip(channels, scores, overlaps, strict=True)):
        x, y = places[row].floor().long().tolist()
        group = GROUPS.group_of_class[channel]
        heatmap[0, channel, y, x] = math.log(score / (1 - score))
        regression[0, group, :, y, x] = encode_boxes(boxes[row : row + 1], places[row : row + 1].frac())[0]
        overlap[0, group, y, x] = 2 * guess - 1
    return CenterPointOutput(heatmap=heatmap, regression=regression, grid=GRID, groups=GROUPS, overlap=overlap)


def decode(decoding: CenterPointDecoding, output: CenterPointOutput) -> list[tuple[int, float]]:
    (found,) = decoding.decode(output, torch.eye(4, dtype=torch.float64)[None], CLASSES)
    return [(label, round(score, 3)) for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)]


def box(x: float, y: float, length: float = 4.0, width: float = 2.0, yaw: float = 0.0) -> list[float]:
    return [x, y, 0.5, length, width, 1.5, yaw, 0.0, 0.0]


def test_the_final_score_by_hand() -> None:
    boxes = torch.tensor([box(0, 0), box(6, 0), box(0, 6)])
    output = output_with(boxes, [1, 1, 0], [0.9, 0.6, 0.5], [0.25, 0.81, 0.64])
    assert decode(CenterPointDecoding(nms_radius_m=0.0), output) == [(0, 0.9), (0, 0.6), (2, 0.5)]
    halved = CenterPointDecoding(nms_radius_m=0.0, overlap_power=0.5)
    assert decode(halved, output) == [(0, 0.697), (2, 0.566), (0, 0.474)]  # sqrt(0.6 * 0.81), ...
    # Per group: pedestrians by score alone, vehicles by overlap alone.
    mixed = CenterPointDecoding(nms_radius_m=0.0, overlap_power=(0.0, 1.0), score_threshold=0.3)
    assert decode(mixed, output) == [(0, 0.81), (2, 0.5), (0, 0.25)]
    with pytest.raises(ValueError, match="output must hold overlaps where overlap_power is above 0, got none"):
        decode(halved, dataclasses.replace(output, overlap=None))


def test_suppression_by_footprint() -> None:
    # Two trucks side by side, 2.4 m apart, do not overlap; a car lies half in the first one.
    boxes = torch.tensor([box(0, 0, 8, 2), box(0, 2.4, 8, 2), box(1.0, -0.9, 8, 2, yaw=0.1), box(0, -2.4, 0.5, 0.5)])
    output = output_with(boxes, [2, 2, 1, 0], [0.9, 0.8, 0.7, 0.6], [1.0] * 4)
    by_footprint = CenterPointDecoding(nms="rotated", nms_iou=0.2)
    assert decode(by_footprint, output) == [(1, 0.9), (1, 0.8), (2, 0.6)]
    by_distance = CenterPointDecoding(nms="circle", nms_radius_m=2.5)
    assert decode(by_distance, output) == [(1, 0.9), (2, 0.6)]
    assert len(decode(CenterPointDecoding(nms="rotated", nms_iou=1.0), output)) == 4
    assert len(decode(CenterPointDecoding(nms="rotated", nms_iou=(0.0, 1.0)), output)) == 4


def test_the_true_overlap_by_hand() -> None:
    truth = make_boxes(torch.tensor([box(1.0, 1.0), box(-6.0, -6.0), box(6.0, 6.0, yaw=0.6)]), [0, 0, 1])
    targets = CenterPointTargets().assign(make_batch(None, make_lidar([0]), [truth]), CLASSES, GROUPS, GRID)
    output = output_with(truth.boxes, [1, 1, 2], [0.5] * 3, [0.5] * 3)
    predicted = targets.regression.clone()
    predicted[0, 0] += 2.0 / 0.8  # half its length away: a third of the union is shared
    predicted[1, 3] += math.log(2.0)  # twice as long: half of it is filled
    expected = torch.tensor([-1 / 3, 0.0, 1.0])
    torch.testing.assert_close(true_overlap(predicted, output, targets), expected, atol=1e-4, rtol=0)


def test_the_overlap_loss_teaches_the_guess_alone() -> None:
    truth = make_boxes(torch.tensor([box(1.0, 1.0), box(6.0, 6.0)]), [0, 2])
    batch = make_batch(None, make_lidar([0]), [truth])
    targets: Targets = CenterPointTargets().assign(batch, CLASSES, GROUPS, GRID)
    regression = torch.zeros(1, 2, 10, GRID.num_y, GRID.num_x)
    sample, group, row, column = targets.cells.unbind(1)
    regression[sample, group, :, row, column] = targets.regression
    overlap = torch.full((1, 2, GRID.num_y, GRID.num_x), 0.25)
    regression.requires_grad_()
    overlap.requires_grad_()
    output = CenterPointOutput(
        heatmap=torch.zeros(1, 3, GRID.num_y, GRID.num_x),
        regression=regression,
        grid=GRID,
        groups=GROUPS,
        overlap=overlap,
    )
    loss = CenterPointLoss(overlap=2.0)(output, targets)["overlap"]
    assert loss.item() == pytest.approx(2.0 * 0.75, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, [overlap], retain_graph=True)
    assert gradient.nonzero().tolist() == sorted([s, g, y, x] for s, g, y, x in targets.cells.tolist())
    assert not torch.autograd.grad(loss, [regression], allow_unused=True, materialize_grads=True)[0].any()
    without = CenterPointLoss()(dataclasses.replace(output, overlap=None), targets)
    assert "overlap" not in without


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("ego2aug", [torch.eye(4, dtype=torch.float64), augmentation()])
def test_a_mirrored_output_turns_back(flip: Flip, ego2aug: Tensor) -> None:
    truth = make_boxes(
        torch.tensor(
            [
                [6.3, -3.1, 0.5, 4.6, 1.9, 1.6, 0.4, 3.0, -1.5],
                [-5.2, 7.7, 0.8, 0.7, 0.6, 1.7, -2.0, 0.3, -1.0],
                [-6.1, -6.1, 1.1, 8.0, 2.5, 3.0, 3.1, 0.0, 2.0],
            ]
        ),
        [0, 2, 1],
    )

    def said(move: Tensor) -> CenterPointOutput:
        """The output of a network that says exactly what is true in a frame."""
        targets = CenterPointTargets().assign(
            make_batch(None, make_lidar([0]), [truth], move @ ego2aug), CLASSES, GROUPS, GRID
        )
        regression = torch.zeros(1, 2, 10, GRID.num_y, GRID.num_x)
        sample, group, row, column = targets.cells.unbind(1)
        regression[sample, group, :, row, column] = targets.regression
        overlap = regression[:, :, 2]
        return CenterPointOutput(
            heatmap=targets.heatmap, regression=regression, grid=GRID, groups=GROUPS, overlap=overlap
        )

    straight, turned = said(torch.eye(4, dtype=torch.float64)), unflip_output(said(flip_matrix(flip)), flip)
    torch.testing.assert_close(turned.heatmap, straight.heatmap)
    torch.testing.assert_close(turned.overlap, straight.overlap)
    boxes = straight.regression.abs().sum(2) > 0  # elsewhere the offset of nothing is mirrored
    mine, expected = (output.regression.permute(0, 1, 3, 4, 2)[boxes] for output in (turned, straight))  # (M, 10)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def flipping_detector(flips: tuple[Flip, ...]) -> Detector:
    detector = make_detector()
    detector.heads["boxes"] = CenterPointHead(
        in_channels=16, groups=[["car", "truck"], ["pedestrian"]], shared_channels=16, group_channels=16, overlap=True,
        decoding=CenterPointDecoding(score_threshold=0.0, overlap_power=0.5, max_boxes=20),
    )  # fmt: skip
    detector.test_flips = flips
    return detector.eval()


def test_all_flips_together_do_not_care_how_the_frame_is_mirrored() -> None:
    detector, cameras, lidar = flipping_detector(FLIPS), make_cameras([[True] * 3] * 2), make_lidar([300, None])
    with torch.no_grad():
        for parameter in detector.heads.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    looks = []
    for flip in ("", *FLIPS):
        batch = make_batch(cameras, lidar, [None, None], flip_matrix(flip) @ augmentation())
        looks.append(detector.predict(detector(batch), batch))
    for look in looks[1:]:
        for mine, other in zip(look, looks[0], strict=True):
            torch.testing.assert_close(mine.detections.scores, other.detections.scores, rtol=1e-3, atol=1e-4)
            boxes, others = mine.detections.boxes, other.detections.boxes
            same = torch.cdist(others[:, :3], boxes[:, :3]).argmin(1)  # boxes of equal scores come in any order
            assert same.sort().values.tolist() == list(range(len(boxes)))
            torch.testing.assert_close(boxes[same], others, rtol=1e-3, atol=1e-2)


def test_one_flip_is_the_mean_of_two_looks_and_training_takes_one() -> None:
    detector = flipping_detector(("y",))
    batch = make_batch(None, make_lidar([200]), [two_boxes()])
    mirrored = dataclasses.replace(batch, ego2aug=flip_matrix("y") @ batch.ego2aug)
    both = detector(batch).heads["boxes"]
    detector.test_flips = ()
    one, other = (detector(given).heads["boxes"] for given in (batch, mirrored))
    mean = (one.heatmap.sigmoid() + other.heatmap.flip(-2).sigmoid()) / 2
    torch.testing.assert_close(both.heatmap.sigmoid(), mean)
    torch.testing.assert_close(both.regression[:, :, 2:6], (one.regression + other.regression.flip(-2))[:, :, 2:6] / 2)
    detector.test_flips = ("y",)
    calls = []
    detector.neck.register_forward_hook(lambda *_: calls.append(1))
    detector.train()(batch)
    assert len(calls) == 1
    losses = detector.losses(detector.eval()(batch), batch)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nms": "soft"}, 'nms must be "circle" or "rotated", got'),
        ({"nms_iou": 1.5}, r"nms_iou must hold numbers in \[0, 1.0\], got \(1.5,\)"),
        ({"overlap_power": (0.5, -0.1)}, r"overlap_power must hold numbers in \[0, 1.0\]"),
        ({"overlap_power": (0.1, 0.1, 0.1)}, "overlap_power must be one number or one per group"),
        ({"overlap_power": 0.5}, "overlap must be True where decoding.overlap_power is above 0"),
    ],
)
def test_bad_options_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CenterPointHead(in_channels=8, groups=[["car"], ["pedestrian"]], decoding=CenterPointDecoding(**change))


@pytest.mark.parametrize(
    ("flips", "grid", "message"),
    [
        (["z"], GRID, r"test_flips must be different ones of x, y, xy, got .'z'."),
        (["x", "x"], GRID, "test_flips must be different ones"),
        (["xy"], Grid((-10, 20), (-5, 5), (-5, 3), (1, 1, 8)), r"must be symmetric along x to be mirrored, got \(-10"),
    ],
)  # fmt: skip
def test_bad_flips_are_refused(flips: list[str], grid: Grid, message: str) -> None:
    given = make_detector()
    with pytest.raises(ValueError, match=message):
        Detector(
            grids={"main": grid},
            class_names=list(CLASSES),
            branches=dict(given.branches),
            fuser=given.fuser,
            neck=given.neck,
            heads=dict(given.heads),
            test_flips=flips,  # type: ignore[arg-type]
        )
