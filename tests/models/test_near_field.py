"""The near-field head: truth moved into the augmented frame, losses by hand, two stages, back to the true frame."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor

from perception.formats.near_field import NearFieldCell
from perception.geometry.grid import Grid
from perception.geometry.transforms import yaw_matrix
from perception.models.detector import Detector
from perception.models.flips import Flip, flip_matrix
from perception.models.heads.near_field import NearFieldHead
from perception.models.heads.near_field_decoding import decode_near_field
from perception.models.heads.near_field_output import NearFieldOutput
from perception.models.heads.near_field_targets import NearFieldTargets, coarse_cells, near_field_targets
from perception.models.losses.near_field import NearFieldLoss, balanced_cross_entropy, boundary_mask
from perception.structures import Batch, BevMap, FusedFeatures, NearField
from tests.models.scenes import GRID as LEVEL
from tests.models.scenes import augmentation, make_batch, make_detector, make_lidar, two_boxes

FREE, OCCUPIED, UNKNOWN = NearFieldCell
GRID = Grid.square(1.6, 0.1, (0.0, 2.0))  # 32 x 32 cells
LN2 = math.log(2)


def batch_of(cells: list[Tensor | None], ego2aug: Tensor | None = None, grid: Grid = GRID) -> Batch:
    truths = tuple(None if one is None else NearField(cells=one, grid=grid) for one in cells)
    return dataclasses.replace(make_batch(None, None, [None] * len(cells), ego2aug), near_field=truths)


def targets_of(batch: Batch, grid: Grid = GRID) -> NearFieldTargets:
    return near_field_targets(batch, grid, 4, torch.ones(len(batch), dtype=torch.bool))


def output_of(logits: Tensor, coarse_logits: Tensor) -> NearFieldOutput:
    known = torch.ones(len(logits), dtype=torch.bool)
    return NearFieldOutput(logits=logits, coarse_logits=coarse_logits, grid=GRID, known=known)


def random_cells(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (32, 32), generator=generator, dtype=torch.uint8)


def cells_of(rows: list[str]) -> Tensor:
    """A map drawn with `.` free, `#` occupied and `?` unknown; (1, Y, X)."""
    return torch.tensor([[".#?".index(sign) for sign in row] for row in rows], dtype=torch.uint8)[None]


def fused_of(features: Tensor, grid: Grid = GRID) -> FusedFeatures:
    validity = torch.ones(len(features), 1, grid.num_y, grid.num_x, dtype=torch.bool)
    return FusedFeatures(bev={"near": BevMap(features=features, validity=validity, grid=grid)})


def small_head(in_channels: int = 3, **loss: float) -> NearFieldHead:
    return NearFieldHead(in_channels=in_channels, channels=8, coarse_channels=8, loss=NearFieldLoss(**loss))  # type: ignore[arg-type]


def test_without_augmentation_the_targets_are_the_truth_and_a_sample_without_is_unknown() -> None:
    cells = random_cells()
    targets = targets_of(batch_of([cells, None]))
    assert torch.equal(targets.cells[0], cells)
    assert (targets.cells[1] == UNKNOWN).all() and (targets.coarse_cells[1] == UNKNOWN).all()


@pytest.mark.parametrize(("flip", "axes"), [("x", [1]), ("y", [0]), ("xy", [0, 1])])
def test_a_mirrored_frame_has_mirrored_targets(flip: Flip, axes: list[int]) -> None:
    cells = random_cells()
    targets = targets_of(batch_of([cells], flip_matrix(flip)))
    assert torch.equal(targets.cells[0], cells.flip(axes))


def test_a_frame_turned_left_has_turned_targets() -> None:
    # What was straight ahead, in the last columns, lies on the left then, in the last rows.
    cells = torch.full((32, 32), FREE, dtype=torch.uint8)
    cells[10, 31] = OCCUPIED  # x = 1.55, y = -0.55 -> x = 0.55, y = 1.55
    quarter = yaw_matrix(torch.tensor(math.pi / 2, dtype=torch.float64))
    (turned,) = targets_of(batch_of([cells], quarter)).cells
    assert (turned == OCCUPIED).nonzero().tolist() == [[31, 21]]


def test_what_the_truth_does_not_reach_is_unknown() -> None:
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = 0.3
    (moved,) = targets_of(batch_of([torch.zeros(32, 32, dtype=torch.uint8)], shift)).cells
    assert (moved[:, :3] == UNKNOWN).all() and (moved[:, 3:] == FREE).all()


def test_targets_lie_on_the_levels_grid_whatever_the_truths_is() -> None:
    cells = random_cells()
    (middle,) = targets_of(batch_of([cells]), Grid.square(0.8, 0.1, (0.0, 2.0))).cells
    assert torch.equal(middle, cells[8:24, 8:24])


def test_coarse_cells_by_hand() -> None:
    cells = cells_of(["..?#", "..??", "??..", "??.?"])
    assert coarse_cells(cells, 2).tolist() == [[[FREE, OCCUPIED], [UNKNOWN, FREE]]]


def test_the_boundary_by_hand() -> None:
    cells = cells_of(["...##", "???..", "....."])
    found = boundary_mask(cells, 1)[0].int().tolist()
    assert found == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]


def test_the_loss_by_hand() -> None:
    # Of four known cells one is occupied; at balance 1 it weighs three times as much as each of the others.
    cells = torch.tensor([OCCUPIED, FREE, FREE, FREE, UNKNOWN], dtype=torch.uint8)
    logits = torch.tensor([0.0, math.log(3), 0.0, 0.0, 9.0])
    plain = (3 * LN2 + math.log(4)) / 4
    torch.testing.assert_close(balanced_cross_entropy(logits, cells, 0.0), torch.tensor(plain))
    balanced = (3 * LN2 + math.log(4) + 2 * LN2) / 6
    torch.testing.assert_close(balanced_cross_entropy(logits, cells, 1.0), torch.tensor(balanced))


def test_unknown_cells_do_not_count() -> None:
    cells = random_cells()[None]
    logits = torch.randn(1, 32, 32)
    coarse = torch.randn(1, 8, 8)
    targets = NearFieldTargets(cells=cells, coarse_cells=torch.where(coarse > 0, UNKNOWN, OCCUPIED).to(torch.uint8))
    wrong = dict(logits=torch.where(cells == UNKNOWN, 1e4, logits), coarse_logits=torch.where(coarse > 0, -1e4, coarse))
    losses, same = (
        NearFieldLoss()(output_of(**maps), targets) for maps in (dict(logits=logits, coarse_logits=coarse), wrong)
    )
    assert set(losses) == {"occupancy", "boundary", "coarse"}
    for name, value in losses.items():
        assert value > 0
        torch.testing.assert_close(same[name], value)


def test_losses_without_any_truth_are_zero_with_zero_gradients() -> None:
    head = small_head()
    output = head(fused_of(torch.randn(2, 3, 32, 32)))
    losses = head.losses(output, batch_of([None, None]), ())
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total == 0
    for parameter in head.parameters():
        assert parameter.grad is not None and (parameter.grad == 0).all()


def test_the_coarse_loss_teaches_the_coarse_stage_alone_and_the_fine_loss_all() -> None:
    head = small_head()
    features = torch.randn(2, 3, 32, 32)
    batch = batch_of([random_cells(0), random_cells(1)])
    head.losses(head(fused_of(features)), batch, ())["coarse"].backward()
    for name, parameter in head.named_parameters():
        first = name.startswith(("shared.", "coarse.", "coarse_logits."))
        assert (parameter.grad is not None) == first, name
        assert not first or parameter.grad.abs().sum() > 0, name
    head.zero_grad()
    head.losses(head(fused_of(features)), batch, ())["occupancy"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_where_the_refinement_is_silent_the_fine_map_is_the_coarse_one() -> None:
    head = small_head().eval()
    torch.nn.init.zeros_(head.refinement[-1].weight)
    torch.nn.init.zeros_(head.refinement[-1].bias)
    output = head(fused_of(torch.randn(1, 3, 32, 32)))
    expected = torch.nn.functional.interpolate(output.coarse_logits[None], scale_factor=4, mode="bilinear")
    torch.testing.assert_close(output.logits, expected[0])


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    head = small_head().eval()
    features = torch.randn(3, 3, 32, 32)
    together, alone = head(fused_of(features)), head(fused_of(features[1:2]))
    torch.testing.assert_close(together.logits[1], alone.logits[0])
    torch.testing.assert_close(together.coarse_logits[1], alone.coarse_logits[0])


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_maps_have_the_shapes_that_the_stride_says(stride: int) -> None:
    head = NearFieldHead(in_channels=3, channels=4, coarse_channels=4, coarse_stride=stride, coarse_layers=0)
    output = head(fused_of(torch.randn(2, 3, 32, 32)))
    assert output.logits.shape == (2, 32, 32)
    assert output.coarse_logits.shape == (2, 32 // stride, 32 // stride)
    assert output.coarse_stride == stride


def output_saying(cells: Tensor) -> NearFieldOutput:
    """The output of a network that says exactly what the targets (B, Y, X) say."""
    logits = torch.where(cells == OCCUPIED, 8.0, -8.0)
    return output_of(logits, logits[:, ::4, ::4])


def test_without_augmentation_a_prediction_is_the_probability_of_every_cell() -> None:
    output = output_of(torch.randn(2, 32, 32), torch.zeros(2, 8, 8))
    for index, found in enumerate(decode_near_field(output, torch.eye(4, dtype=torch.float64).repeat(2, 1, 1))):
        assert torch.equal(found.occupied, output.logits[index].sigmoid())
        assert found.grid == GRID


@pytest.mark.parametrize("flip", ["x", "y", "xy"])
def test_predictions_in_a_mirrored_frame_come_back(flip: Flip) -> None:
    cells = random_cells()
    batch = batch_of([cells], flip_matrix(flip))
    (found,) = decode_near_field(output_saying(targets_of(batch).cells), batch.ego2aug)
    assert torch.equal(found.occupied > 0.5, cells == OCCUPIED)


def test_predictions_in_a_turned_scaled_and_moved_frame_come_back() -> None:
    cells = torch.full((32, 32), FREE, dtype=torch.uint8)
    cells[18:26, 4:14] = OCCUPIED
    batch = batch_of([cells], augmentation())
    (found,) = decode_near_field(output_saying(targets_of(batch).cells), batch.ego2aug)
    reached = found.occupied.isfinite()
    assert 0.5 < reached.float().mean() < 1
    hits = (found.occupied > 0.5) & (cells == OCCUPIED)
    either = (found.occupied > 0.5) | ((cells == OCCUPIED) & reached)
    assert hits.sum() / either.sum() > 0.85  # but for half cells along the edges


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_sample_of_which_the_level_knows_nothing_is_left_out(training: bool) -> None:
    """Neither its neighbours nor what is learnt depend on it, and nothing is said of it."""
    torch.manual_seed(0)
    head = small_head().train(training)
    alone = copy.deepcopy(head)
    maps, cells = torch.randn(1, 3, 32, 32), random_cells()
    batch, both = batch_of([cells]), batch_of([cells, cells])
    known = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    known[1] = False
    level = BevMap(features=torch.cat((maps, torch.zeros_like(maps))), validity=known, grid=GRID)
    output, single = head(FusedFeatures(bev={"near": level})), alone(fused_of(maps))
    assert output.known.tolist() == [True, False]
    assert torch.equal(output.logits[:1], single.logits) and not output.logits[1].any()
    assert head.losses(output, both, ()) == alone.losses(single, batch, ())
    assert all(torch.equal(one, other) for one, other in zip(head.buffers(), alone.buffers(), strict=True))
    first, second = head.predict(output, both, ())
    assert torch.equal(first.occupied, single.logits[0].sigmoid()) and second.occupied.isnan().all()


def test_with_nothing_known_of_any_sample_nothing_is_learnt() -> None:
    head = small_head().train()
    level = BevMap(features=torch.zeros(2, 3, 32, 32), validity=torch.zeros(2, 1, 32, 32, dtype=torch.bool), grid=GRID)
    output = head(FusedFeatures(bev={"near": level}))
    losses = head.losses(output, batch_of([random_cells(), random_cells()]), ())
    assert not any(losses.values()) and not output.known.any()
    assert head.shared[1].num_batches_tracked == 0


def test_no_number_is_an_error() -> None:
    output = output_of(torch.full((1, 32, 32), math.nan), torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="decode_near_field: logits must hold numbers, got NaN"):
        decode_near_field(output, torch.eye(4, dtype=torch.float64)[None])


def test_mirrored_looks_are_turned_back_and_averaged_as_probabilities() -> None:
    head = small_head()
    cells = random_cells()[None]
    straight = output_saying(cells)
    flips: dict[Flip, list[int]] = {"": [], "x": [2], "y": [1], "xy": [1, 2]}
    outputs = {
        flip: output_of(straight.logits.flip(axes), straight.coarse_logits.flip(axes)) for flip, axes in flips.items()
    }
    merged = head.merge_flips(outputs)
    torch.testing.assert_close(merged.logits, straight.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(merged.coarse_logits, straight.coarse_logits, rtol=1e-3, atol=1e-3)
    unsure = {"": straight, "y": dataclasses.replace(straight, logits=-straight.logits.flip([1]))}
    torch.testing.assert_close(head.merge_flips(unsure).logits, torch.zeros(1, 32, 32), rtol=0, atol=1e-4)


def test_a_tiny_head_learns_two_maps_by_heart() -> None:
    torch.manual_seed(0)
    cells = torch.full((2, 32, 32), FREE, dtype=torch.uint8)
    cells[0, 4:7, 6:20] = cells[1, 15:28, 24:26] = OCCUPIED
    cells[:, 13:19, 10:22] = UNKNOWN
    features = torch.randn(2, 3, 32, 32) * 0.3
    features[:, 0] += torch.nn.functional.max_pool2d((cells == OCCUPIED).float(), 5, stride=1, padding=2)  # blurred
    head, batch = small_head(), batch_of(list(cells))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    first = last = math.inf
    for step in range(60):
        losses = head.losses(head(fused_of(features)), batch, ())
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        first, last = (total.item() if step == 0 else first), total.item()
    assert last < 0.15 * first
    known = cells != UNKNOWN
    for index, found in enumerate(head.predict(head(fused_of(features)), batch, ())):
        wrong = ((found.occupied > 0.5) != (cells[index] == OCCUPIED)) & known[index]
        assert wrong.float().mean() < 0.01


@pytest.mark.parametrize("stride", [0, 1, 3, 6])
def test_a_stride_is_a_power_of_two(stride: int) -> None:
    with pytest.raises(ValueError, match=f"NearFieldHead: coarse_stride must be a power of two above 1.*got {stride}"):
        NearFieldHead(in_channels=3, coarse_stride=stride)


def test_a_level_that_the_stride_does_not_divide_is_an_error() -> None:
    grid = Grid.square(1.5, 0.1, (0.0, 2.0))
    with pytest.raises(ValueError, match="level 'near' must have rows and columns in multiples of 4, got 30 and 30"):
        small_head()(fused_of(torch.randn(1, 3, 30, 30), grid))


@pytest.mark.parametrize("wrong", [{"balance": 1.5}, {"boundary": -1.0}, {"boundary_cells": 0}])
def test_loss_settings_out_of_range_are_errors(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="NearFieldLoss: weights must be at least 0, balance in"):
        NearFieldLoss(**wrong)  # type: ignore[arg-type]


def test_a_detector_predicts_boxes_and_near_field_and_looks_at_mirrored_frames() -> None:
    parts = make_detector(["lidar"])
    heads = {"boxes": parts.heads["boxes"], "obstacles": NearFieldHead(in_channels=16, channels=8, level="main")}
    detector = Detector(
        grids=parts.grids,
        class_names=list(parts.class_names),
        branches=dict(parts.branches),
        fuser=parts.fuser,
        neck=parts.neck,
        heads=heads,
        test_flips=("y",),
    )
    cells = random_cells()
    truth = NearField(cells=torch.cat((cells, cells[:, :8]), dim=1), grid=LEVEL)
    batch = make_batch(None, make_lidar([50, 80]), [two_boxes(), None], augmentation())
    batch = dataclasses.replace(batch, near_field=(None, truth))
    losses = detector.losses(detector(batch), batch)
    assert {"obstacles/occupancy", "obstacles/boundary", "obstacles/coarse"} < set(losses)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in detector.parameters())
    detector.eval()
    for found in detector.predict(detector(batch), batch):
        assert found.detections is not None and found.near_field is not None
        assert found.near_field.grid == LEVEL
        inside = found.near_field.occupied[found.near_field.occupied.isfinite()]
        assert 0 <= inside.min() <= inside.max() <= 1
