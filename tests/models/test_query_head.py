"""The query head: any map gives boxes, what it learns, mirrored frames, and what it refuses."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perception.geometry.boxes import transform_boxes
from perception.models.detector import Detector
from perception.models.flips import Flip, flip_matrix
from perception.models.heads.query import QueryHead
from perception.models.heads.query_decoder import DeformableAttention, QueryDecoder, QueryDecoderSettings
from perception.models.heads.query_decoding import QueryDecoding
from perception.models.heads.query_output import QueryOutput, mirror_queries
from perception.models.heads.query_proposals import QueryProposals
from perception.runtime.config import build_detector, load_config
from perception.structures import Batch, BevMap, Boxes3D, FusedFeatures, PointBatch
from tests.models import scenes
from tests.models.query_scenes import GRID, NAMES, batch_with, box, made_up_features, make_head, output_of, targets_of
from tests.models.scenes import CLASSES, augmentation, make_batch, make_boxes, make_lidar, settled, two_boxes

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ATTENTIONS = ("full", "deformable")
IDENTITY = torch.eye(4, dtype=torch.float64)[None]
EMPTY = make_boxes(torch.zeros(0, 9), [])
MOVING = make_boxes(two_boxes().boxes.nan_to_num(1.5), two_boxes().labels.tolist())


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("boxes", [[MOVING, EMPTY], [EMPTY, EMPTY], [None, MOVING], [None, None]])
def test_every_parameter_learns(attention: str, boxes: list[Boxes3D | None]) -> None:
    head, batch = make_head(attention, overlap=True), batch_with(boxes, augmentation())
    output = head(made_up_features())
    assert output.heatmap.shape == (2, 3, 24, 40)
    assert output.channels.shape == output.peak_scores.shape == (2, 20)
    assert output.logits.shape == (2, 2, 20, 3)
    assert output.regression.shape == (2, 2, 20, 10)
    assert output.overlap.shape == (2, 2, 20)
    losses = head.losses(output, batch, CLASSES)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # Every parameter matters where there are boxes; a bias of all keys alike changes no softmax.
        if any(one is MOVING for one in boxes):
            assert parameter.grad.any(), name


def test_more_boxes_than_queries() -> None:
    head, batch = make_head(num_queries=1), batch_with([two_boxes(), two_boxes()])
    losses = head.losses(head(made_up_features()), batch, CLASSES)
    assert all(loss.isfinite() for loss in losses.values())


def test_more_queries_than_cells() -> None:
    output = make_head(num_queries=5000)(made_up_features())
    assert output.channels.shape == (2, 3 * 24 * 40)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_samples_of_a_batch_leave_one_another_alone(attention: str) -> None:
    head, features = make_head(attention).eval(), made_up_features(3)
    together, level = head(features), features.bev["main"]
    for index in range(3):
        rows = slice(index, index + 1)
        mine = BevMap(features=level.features[rows], validity=level.validity[rows], grid=GRID)
        alone = head(FusedFeatures(bev={"main": mine}))
        assert torch.equal(together.channels[rows], alone.channels)
        for name in ("logits", "regression"):
            torch.testing.assert_close(getattr(together, name)[:, rows], getattr(alone, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_reduced_precision(attention: str) -> None:
    head, batch = make_head(attention, overlap=True), batch_with([two_boxes(), EMPTY])
    with torch.autocast("cpu", torch.bfloat16):
        output = head(made_up_features())
        losses = head.losses(output, batch, CLASSES)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert all(found.boxes.isfinite().all() for found in head.predict(output, batch, CLASSES))


def test_queries_start_at_the_best_peaks() -> None:
    heatmap = torch.full((1, 3, 5, 6), -9.0)
    heatmap[0, 1, 2, 2], heatmap[0, 1, 2, 3], heatmap[0, 1, 2, 5] = 3.0, 2.0, 1.0  # a car, its slope, another
    heatmap[0, 0, 0, 0], heatmap[0, 0, 0, 1] = 2.5, 2.4  # two pedestrians side by side
    proposals = QueryProposals(num_queries=4, single_cell_classes=("pedestrian",))
    found = proposals.find(heatmap, NAMES)
    assert found.channels.tolist() == [[1, 0, 0, 1]]
    assert found.cells.tolist() == [[14, 0, 1, 17]]
    assert QueryProposals(num_queries=3).find(heatmap, NAMES).cells.tolist() == [[14, 0, 17]]
    rising = torch.arange(6.0).view(1, 1, 2, 3)  # one peak alone: what is left comes by its height
    assert QueryProposals(num_queries=4).find(rising, ("car",)).cells.tolist() == [[5, 4, 3, 2]]


@pytest.mark.parametrize("value", [0.0, -80.0])
def test_of_equal_peaks_the_first_goes_first(value: float) -> None:
    found = QueryProposals(num_queries=50, peak_size_cells=1).find(torch.full((2, 3, 16, 16), value), NAMES)
    assert found.cells.tolist() == [list(range(50))] * 2
    assert not found.channels.any()


def test_places_mean_the_same_for_queries_and_cells() -> None:
    decoder = make_head("full").decoder
    memory = decoder.memory(torch.zeros(1, 16, 24, 40))
    corner = decoder.embed(torch.tensor([[7.5 / 40, 2.5 / 24]]))
    torch.testing.assert_close(memory.places[2 * 40 + 7], corner[0])


def test_deformable_attention_reads_around_the_query() -> None:
    settings = QueryDecoderSettings(num_heads=1, attention="deformable", num_points=1)
    attention = DeformableAttention(2, settings)
    row, column = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    memory = QueryDecoder(2, settings).memory(torch.stack((column, row))[None])  # every cell says where it is
    with torch.no_grad():
        for layer in (attention.values, attention.join):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
        attention.offsets.bias.copy_(torch.tensor([3.0, -1.5]))
        read = attention(torch.zeros(1, 1, 2), torch.tensor([[[10.5 / 40, 5.5 / 24]]]), memory)
    torch.testing.assert_close(read, torch.tensor([[[13.0, 3.5]]]))


def decode(decoding: QueryDecoding, output: QueryOutput, ego2aug: Tensor = IDENTITY) -> list[tuple[int, float]]:
    (found,) = decoding.decode(output, ego2aug, CLASSES)
    return [(label, round(score, 3)) for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)]


def four_queries() -> QueryOutput:
    """Two cars 1 m apart, a truck 0.5 m away and a pedestrian; in CLASSES a car is 0, a truck 1, a pedestrian 2."""
    boxes = torch.tensor([box(0, 0), box(1, 0), box(0, 0.5), box(5, 5)])[None]
    scores = torch.tensor([[0.1, 0.9, 0.9], [0.1, 0.5, 0.1], [0.1, 0.9, 0.7], [0.6, 0.1, 0.1]])[None]
    peaks = torch.tensor([[0.8, 0.6, 0.9, 0.5]])
    return output_of(boxes, scores.logit(), torch.tensor([[1, 1, 2, 0]]), peaks)


def test_scores_and_suppression_by_hand() -> None:
    output = four_queries()
    assert decode(QueryDecoding(), output) == [(0, 0.72), (1, 0.63), (0, 0.3), (2, 0.3)]
    assert decode(QueryDecoding(score_threshold=0.4), output) == [(0, 0.72), (1, 0.63)]
    assert decode(QueryDecoding(max_boxes=1), output) == [(0, 0.72)]
    assert decode(QueryDecoding(nms_radius_m=1.2), output) == [(0, 0.72), (1, 0.63), (2, 0.3)]
    guessed = dataclasses.replace(output, overlap=torch.tensor([[[0.0, 1.0, 0.62, -1.0]]]))
    # sqrt(0.72 * 0.5), sqrt(0.3 * 1), sqrt(0.63 * 0.81), and nothing for an overlap of 0
    assert decode(QueryDecoding(overlap_power=0.5), guessed) == [(1, 0.714), (0, 0.6), (0, 0.548)]
    with pytest.raises(ValueError, match="output must hold overlaps where overlap_power is above 0, got none"):
        decode(QueryDecoding(overlap_power=0.5), output)


@pytest.mark.parametrize("yaw_rad", [0.0, 0.7, -2.9])
@pytest.mark.parametrize("flip", [False, True])
def test_boxes_come_back_through_any_augmentation(yaw_rad: float, flip: bool) -> None:
    truth = torch.tensor(
        [[6.3, -3.1, 0.5, 4.6, 1.9, 1.6, 0.4, 3.0, -1.5], [-5.2, 2.7, 0.8, 0.7, 0.6, 1.7, -2.0, 0.3, -1.0]]
    )
    batch = batch_with([make_boxes(truth, [0, 2])], augmentation(yaw_rad, 1.1, flip))
    inside = targets_of(batch).truth
    logits = torch.full((1, len(inside.boxes), 3), -9.0)
    logits[0, torch.arange(len(inside.boxes)), inside.channel] = 9.0 - torch.arange(len(inside.boxes))
    output = output_of(inside.boxes[None], logits, inside.channel[None])
    (found,) = QueryDecoding().decode(output, batch.ego2aug, CLASSES)
    assert found.labels.tolist() == [0, 2]
    torch.testing.assert_close(found.boxes, truth, rtol=1e-4, atol=1e-4)


def test_a_network_that_gives_nan_is_no_empty_street() -> None:
    for name in ("logits", "regression"):
        output = four_queries()
        getattr(output, name)[0, 0, 2] = math.nan
        with pytest.raises(ValueError, match="scores and boxes must be finite, got NaN"):
            decode(QueryDecoding(), output)


def blind_to_left_and_right(head: QueryHead) -> QueryHead:
    """Makes all networks answer a mirrored map by its mirrored answer, as far as it is not odd itself."""
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(2)) / 2)
        head.decoder.embedding[0].weight[:, 6:12] = 0.0  # the sines of y
        for layer in head.decoder.layers:
            offsets = getattr(layer.cross, "offsets", None)
            if offsets is not None:
                torch.nn.init.normal_(offsets.weight, std=0.3)
                offsets.weight[1::2], offsets.bias[1::2] = 0.0, 0.0
        for reader in head.readers:
            reader.box[0][2].weight[1], reader.box[0][2].bias[1] = 0.0, 0.0  # steps of the centre along y
    return head


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_mirrored_map_gives_mirrored_queries(attention: str) -> None:
    head, features = blind_to_left_and_right(make_head(attention)).eval(), made_up_features(1)
    level = features.bev["main"]
    mirrored = dataclasses.replace(level, features=level.features.flip(2))
    with torch.no_grad():
        straight, turned = head(features), mirror_queries(head(FusedFeatures(bev={"main": mirrored})), "y")
    torch.testing.assert_close(turned.heatmap, straight.heatmap)
    assert torch.equal(turned.channels, straight.channels)
    torch.testing.assert_close(turned.logits, straight.logits, rtol=1e-4, atol=1e-4)
    even = [0, 1, 2, 3, 4, 5, 7, 8]  # what is read of the sine of the yaw and the speed along y cannot be odd
    torch.testing.assert_close(turned.regression[..., even], straight.regression[..., even], rtol=1e-4, atol=1e-4)
    assert (turned.regression[..., 1] - 12).abs().max() > 5


@pytest.mark.parametrize("flip", ["x", "y", "xy"])
def test_mirrored_queries_mean_mirrored_boxes(flip: Flip) -> None:
    boxes = torch.tensor(
        [[6.3, -3.1, 0.5, 4.6, 1.9, 1.6, 0.4, 3.0, -1.5], [-5.2, 2.7, 0.8, 0.7, 0.6, 1.7, -2.0, 0.3, -1.0]]
    )
    logits, channels = torch.tensor([[[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]]), torch.tensor([[1, 0]])
    turned = mirror_queries(output_of(transform_boxes(flip_matrix(flip), boxes)[None], logits, channels), flip)
    (found,) = QueryDecoding().decode(turned, IDENTITY, CLASSES)
    torch.testing.assert_close(found.boxes, boxes, rtol=1e-5, atol=1e-5)


def test_looks_at_mirrored_frames_are_put_together() -> None:
    def look(boxes: list[list[float]], scores: list[float]) -> QueryOutput:
        logits = torch.tensor(scores)[None, :, None].logit().expand(1, len(scores), 3)
        return output_of(torch.tensor(boxes)[None], logits, torch.ones(1, len(scores), dtype=torch.long))

    straight = look([box(3, 2), box(-6, 1), box(9, 9)], [0.8, 0.5, 0.2])
    mirrored = look([box(3.2, -2), box(-6.1, -1), box(0, -6)], [0.6, 0.7, 0.4])
    head = make_head(decoding=QueryDecoding(flip_radius_m=0.5))
    merged = head.merge_flips({"": straight, "y": mirrored})
    assert merged.channels.shape == (1, 6)
    batch = batch_with([None])
    (found,) = head.predict(merged, batch, CLASSES)
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.7, 0.4, 0.2]))
    expected = torch.tensor([[3.0, 2.0], [-6.1, 1.0], [0.0, 6.0], [9.0, 9.0]])
    torch.testing.assert_close(found.boxes[:, :2], expected, rtol=1e-5, atol=1e-5)


SCENE = torch.tensor(
    [
        [5.0, 4.0, 0.8, 4.5, 1.9, 1.6, 0.3, 2.0, 0.6],
        [-7.0, -6.0, 0.8, 4.4, 1.8, 1.5, -1.2, 0.0, 0.0],
        [-4.0, 7.5, 1.4, 8.0, 2.5, 2.8, 1.6, 0.0, 3.0],
        [8.0, -7.0, 0.9, 0.7, 0.7, 1.7, 0.0, 1.0, 0.0],
        [8.9, -7.4, 0.9, 0.7, 0.7, 1.7, 0.0, 1.0, 0.0],
    ]
)
LABELS = [0, 0, 1, 2, 2]


@functools.cache
def scene() -> Batch:
    """Points on the ground and on five objects."""
    generator = torch.Generator().manual_seed(3)
    unit = torch.rand(len(SCENE), 60, 3, generator=generator) - 0.5
    face = torch.randint(0, 2, (len(SCENE), 60, 1), generator=generator)
    unit = torch.where(torch.arange(3) == face, unit.sign() / 2, unit)  # on one of the sides
    spread = unit * SCENE[:, None, 3:6]
    cos, sin = SCENE[:, 6].cos()[:, None], SCENE[:, 6].sin()[:, None]
    turned = torch.stack(
        (cos * spread[..., 0] - sin * spread[..., 1], sin * spread[..., 0] + cos * spread[..., 1], spread[..., 2]), 2
    )
    ground = torch.rand(500, 3, generator=generator) * torch.tensor([25.0, 25.0, 0.1]) - torch.tensor([12.5, 12.5, 0])
    points = torch.cat((ground, (turned + SCENE[:, None, :3]).flatten(0, 1)))
    cloud = PointBatch(
        points=torch.cat((points, torch.zeros(len(points), 2)), dim=1),
        batch_index=torch.zeros(len(points), dtype=torch.long),
        present=torch.tensor([True]),
        sensor2ego=IDENTITY,
        fields=("intensity", "time_lag_s"),
    )
    return make_batch(None, cloud, [make_boxes(SCENE, LABELS)])


def detector_with(head: QueryHead, **changes: object) -> Detector:
    given = scenes.make_detector(["lidar"])
    return Detector(
        grids={"main": scenes.GRID}, class_names=list(CLASSES), branches=dict(given.branches), fuser=given.fuser,
        neck=given.neck, heads={"boxes": head}, **changes,
    )  # fmt: skip


def scene_head() -> QueryHead:
    return QueryHead(
        in_channels=16, class_names=list(NAMES), channels=32, decoding=QueryDecoding(score_threshold=0.3),
        proposals=QueryProposals(num_queries=30, single_cell_classes=("pedestrian",)),
        decoder=QueryDecoderSettings(num_heads=4, feed_channels=64, attention="deformable"),
    )  # fmt: skip


def test_a_scene_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    batch, detector = scene(), detector_with(scene_head())
    optimizer = torch.optim.AdamW(detector.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=60)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(detector.losses(detector(batch), batch).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    settled(detector, batch)
    with torch.no_grad():
        (found,) = detector.predict(detector(batch), batch)
    boxes, labels = found.detections.boxes, found.detections.labels
    assert sorted(labels.tolist()) == LABELS
    distance = torch.cdist(SCENE[:, :2], boxes[:, :2])  # (5, 5)
    nearest = distance.argmin(1)
    assert sorted(nearest.tolist()) == list(range(5))
    assert labels[nearest].tolist() == LABELS
    assert distance.min(1).values.mean() < 0.2
    assert (boxes[nearest, 3:6].log() - SCENE[:, 3:6].log()).abs().mean() < 0.1


def test_a_detector_looks_at_mirrored_frames() -> None:
    torch.manual_seed(0)
    batch = make_batch(None, make_lidar([300, 200]), [two_boxes(), None], augmentation())
    head = make_head_for_flips()
    detector = settled(detector_with(head, test_flips=["x", "y", "xy"]), batch)
    with torch.no_grad():
        output = detector(batch)
        found = detector.predict(output, batch)
    assert output.heads["boxes"].channels.shape == (2, 4 * 30)
    for one in found:
        detections = one.detections
        assert detections.boxes.isfinite().all()
        assert 0 < len(detections) < 120
        for label in range(3):
            centers = detections.boxes[detections.labels == label, :2]
            assert (torch.pdist(centers) > 0.9 * 0.5 / 1.1).all()  # the radius counts in the augmented frame


def make_head_for_flips() -> QueryHead:
    head = scene_head()
    head.decoding = dataclasses.replace(head.decoding, score_threshold=0.0)
    return head


def test_the_small_config_fits_the_model_of_every_sensor() -> None:
    tree = load_config(CONFIGS / "models" / "every_sensor_small.yaml")
    tree["init_args"]["heads"]["boxes"] = load_config(CONFIGS / "models" / "parts" / "head_query_small.yaml")
    detector = build_detector(tree)
    head, grid = detector.heads["boxes"].eval(), detector.grids["main"]
    features = BevMap(
        features=torch.randn(1, 144, grid.num_y, grid.num_x),
        validity=torch.ones(1, 1, grid.num_y, grid.num_x, dtype=torch.bool),
        grid=grid,
    )
    batch = batch_with([None])
    with torch.no_grad():
        (found,) = head.predict(head(FusedFeatures(bev={"main": features})), batch, detector.class_names)
    assert 0 < len(found) <= 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["car", "car"]}, "class_names must be distinct and not empty"),
        ({"class_names": []}, "class_names must be distinct and not empty"),
        ({"channels": 12}, "num_heads must divide the channels, got 8 and 12"),
        ({"decoding": QueryDecoding(overlap_power=0.5)}, "overlap must be True where decoding.overlap_power is above"),
        (
            {"proposals": QueryProposals(single_cell_classes=("cone",))},
            "single_cell_classes must be among car, got cone",
        ),
    ],
)
def test_a_head_that_does_not_fit_together_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryHead(**{"in_channels": 8, "class_names": ["car"], **change})


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="peak_size_cells odd, got 200 and 2"):
        QueryProposals(peak_size_cells=2)
    with pytest.raises(ValueError, match='attention must be "full" or "deformable"'):
        QueryDecoderSettings(attention="sparse")
    with pytest.raises(ValueError, match="the numbers must be at least 1"):
        QueryDecoderSettings(num_layers=0)
    with pytest.raises(ValueError, match="radii at least 0"):
        QueryDecoding(flip_radius_m=-1.0)
