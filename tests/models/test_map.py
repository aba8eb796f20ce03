"""The map head: truth moved into the augmented frame, losses by hand, its own grid, back to the true frame."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.geometry.transforms import yaw_matrix
from perception.models.detector import Detector
from perception.models.flips import Flip, flip_matrix
from perception.models.heads.map import MapHead
from perception.models.heads.map_decoding import decode_map, resample_map
from perception.models.heads.map_output import MapOutput
from perception.models.heads.map_targets import MapTargets, map_targets
from perception.models.losses.map import MapLoss, balanced_cross_entropy, dice_loss, focal_loss
from perception.runtime.class_paths import check_config
from perception.runtime.yaml_files import load_yaml
from perception.structures import Batch, BevMap, FusedFeatures, MapTruth
from tests.models.scenes import augmentation, make_batch, make_detector, make_lidar, two_boxes

LEVEL = Grid.square(12.8, 0.8)  # 32 x 32 cells
GRID = Grid.square(10.0, 0.5)  # 40 x 40 cells
NAMES = ("road", "line")
LN2 = math.log(2)


def batch_of(cells: list[Tensor | None], ego2aug: Tensor | None = None, grid: Grid = GRID) -> Batch:
    truths = tuple(None if one is None else MapTruth(cells=one, class_names=NAMES, grid=grid) for one in cells)
    return dataclasses.replace(make_batch(None, None, [None] * len(cells), ego2aug), map=truths)


def random_cells(seed: int = 0, num_cells: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, num_cells, num_cells, generator=generator) > 0.5


def fused_of(features: Tensor, grid: Grid = LEVEL) -> FusedFeatures:
    validity = torch.ones(len(features), 1, grid.num_y, grid.num_x, dtype=torch.bool)
    return FusedFeatures(bev={"main": BevMap(features=features, validity=validity, grid=grid)})


def small_head(in_channels: int = 3, grid: Grid = GRID, **loss: float) -> MapHead:
    return MapHead(in_channels=in_channels, map_classes=NAMES, grid=grid, channels=8, loss=MapLoss(**loss))


def output_saying(cells: Tensor) -> MapOutput:
    """The output of a network that says exactly what targets (B, K, Y, X) say."""
    return MapOutput(logits=torch.where(cells, 8.0, -8.0), class_names=NAMES, grid=GRID)


def test_resampling_to_finer_cells_by_hand() -> None:
    # Two cells of 2 m along x, centres at -1 and 1, to four of 1 m, centres at -1.5, -0.5, 0.5 and 1.5.
    coarse, fine = Grid.square(2.0, 2.0), Grid.square(2.0, 1.0)
    values = torch.tensor([[0.0, 8.0], [16.0, 24.0]])[None, None]
    found = resample_map(values, torch.eye(4), fine, coarse)
    rows = [[0, 2, 6, 8], [4, 6, 10, 12], [12, 14, 18, 20], [16, 18, 22, 24]]
    assert torch.equal(found, torch.tensor(rows, dtype=torch.float32)[None, None])


def test_resampling_to_the_same_cells_changes_nothing_and_a_plane_stays_a_plane() -> None:
    values = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(resample_map(values, torch.eye(4), LEVEL, LEVEL), values, rtol=0, atol=1e-4)
    x, y = LEVEL.centers_xy().unbind(-1)
    found = resample_map((2 * x - 3 * y + 1)[None, None], torch.eye(4), GRID, LEVEL)
    x, y = GRID.centers_xy().unbind(-1)
    torch.testing.assert_close(found[0, 0], 2 * x - 3 * y + 1)


def test_half_precision_features_are_looked_up_in_the_right_place() -> None:
    values = torch.zeros(1, 1, 32, 32, dtype=torch.bfloat16)
    values[..., 31] = 1.0
    expected = resample_map(values.float(), torch.eye(4), GRID, LEVEL)
    assert torch.equal(resample_map(values, torch.eye(4), GRID, LEVEL), expected)


def test_beyond_the_level_the_map_goes_on_as_at_its_edge() -> None:
    values = torch.randn(1, 2, 32, 32)
    wider = Grid.square(16.0, 0.8)  # four more cells on every side
    found = resample_map(values, torch.eye(4), wider, LEVEL)
    torch.testing.assert_close(found, torch.nn.functional.pad(values, (4, 4, 4, 4), mode="replicate"))


def test_without_augmentation_the_targets_are_the_truth_and_a_sample_without_is_unknown() -> None:
    cells = random_cells()
    targets = map_targets(batch_of([cells, None]), NAMES, GRID)
    assert torch.equal(targets.cells[0], cells) and targets.known[0].all()
    assert not targets.known[1].any() and not targets.cells[1].any()


def test_classes_are_taken_by_name_and_a_missing_one_is_named() -> None:
    cells = random_cells()
    targets = map_targets(batch_of([cells]), ("line", "road"), GRID)
    assert torch.equal(targets.cells[0], cells.flip(0))
    with pytest.raises(ValueError, match="map_targets: the truth of sample_0 must hold walkway, got road, line"):
        map_targets(batch_of([cells]), ("line", "walkway"), GRID)


@pytest.mark.parametrize(("flip", "axes"), [("x", [2]), ("y", [1]), ("xy", [1, 2])])
def test_a_mirrored_frame_has_mirrored_targets(flip: Flip, axes: list[int]) -> None:
    cells = random_cells()
    targets = map_targets(batch_of([cells], flip_matrix(flip)), NAMES, GRID)
    assert torch.equal(targets.cells[0], cells.flip(axes))


def test_a_frame_turned_left_has_turned_targets() -> None:
    # What was straight ahead, in the last columns, lies on the left then, in the last rows.
    cells = torch.zeros(2, 40, 40, dtype=torch.bool)
    cells[1, 12, 39] = True  # x = 9.75, y = -3.75 -> x = 3.75, y = 9.75
    quarter = yaw_matrix(torch.tensor(math.pi / 2, dtype=torch.float64))
    (turned,) = map_targets(batch_of([cells], quarter), NAMES, GRID).cells
    assert turned.nonzero().tolist() == [[1, 39, 27]]


def test_a_truth_with_a_margin_is_known_everywhere_in_a_shifted_frame_and_one_without_is_not() -> None:
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = 1.5
    targets = map_targets(batch_of([random_cells()], shift), NAMES, GRID)
    assert not targets.known[0, :, :3].any() and targets.known[0, :, 3:].all()
    wide = random_cells(num_cells=48)
    targets = map_targets(batch_of([wide], shift, Grid.square(12.0, 0.5)), NAMES, GRID)
    assert targets.known.all()
    assert torch.equal(targets.cells[0], wide[:, 4:44, 1:41])


def test_the_focal_loss_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3), math.log(3)])  # probabilities 1/2, 3/4, 3/4
    inside = torch.tensor([True, True, False])
    expected = torch.tensor([0.25 * LN2, math.log(4 / 3) / 16, 9 / 16 * math.log(4)])
    torch.testing.assert_close(focal_loss(logits, inside, 2.0, -1.0), expected)
    torch.testing.assert_close(focal_loss(logits, inside, 2.0, 0.25), expected * torch.tensor([0.25, 0.25, 0.75]))
    plain = torch.tensor([LN2, math.log(4 / 3), math.log(4)])
    torch.testing.assert_close(focal_loss(logits, inside, 0.0, -1.0), plain)


def test_the_balanced_cross_entropy_and_dice_by_hand() -> None:
    # Of four cells one is inside; at balance 1 it weighs three times as much as each of the others.
    inside = torch.tensor([[True, False, False, False]])
    logits = torch.tensor([[0.0, math.log(3), 0.0, 0.0]])
    torch.testing.assert_close(balanced_cross_entropy(logits, inside, 0.0), torch.tensor([(3 * LN2 + math.log(4)) / 4]))
    torch.testing.assert_close(balanced_cross_entropy(logits, inside, 1.0), torch.tensor([(5 * LN2 + math.log(4)) / 6]))
    torch.testing.assert_close(dice_loss(logits, inside), torch.tensor([1 - (2 * 0.5 + 1) / (2.25 + 1 + 1)]))


def test_losses_go_by_class_and_by_weight_and_unknown_cells_do_not_count() -> None:
    cells, known = random_cells()[None], torch.rand(1, 40, 40) > 0.3
    logits = torch.randn(1, 2, 40, 40)
    targets = MapTargets(cells=cells, known=known)
    for name in ("focal", "cross_entropy", "dice"):
        weights = {"focal": 0.0, name: 1.0}
        output = MapOutput(logits=logits, class_names=NAMES, grid=GRID)
        losses = MapLoss(**weights)(output, targets)
        assert tuple(losses) == NAMES and all(value > 0 for value in losses.values())
        spoilt = dataclasses.replace(output, logits=torch.where(known, logits, 1e4))
        other = dataclasses.replace(output, logits=logits * torch.tensor([1.0, 0.0])[:, None, None])
        double = MapLoss(**{key: 2 * value for key, value in weights.items()})(output, targets)
        for key, value in losses.items():
            torch.testing.assert_close(MapLoss(**weights)(spoilt, targets)[key], value)
            torch.testing.assert_close(double[key], 2 * value)
        assert MapLoss(**weights)(other, targets)["road"] == losses["road"]
        assert MapLoss(**weights)(other, targets)["line"] != losses["line"]


def test_losses_without_any_truth_are_zero_with_zero_gradients() -> None:
    head = small_head(cross_entropy=1.0, dice=1.0)
    losses = head.losses(head(fused_of(torch.randn(2, 3, 32, 32))), batch_of([None, None]), ())
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total == 0
    for parameter in head.parameters():
        assert parameter.grad is not None and (parameter.grad == 0).all()


def test_the_map_has_the_heads_cells_whatever_the_levels_are_and_every_parameter_learns() -> None:
    for grid in (LEVEL, Grid.square(12.8, 0.4)):
        head = small_head()
        output = head(fused_of(torch.randn(2, 3, grid.num_y, grid.num_x), grid))
        assert output.logits.shape == (2, 2, 40, 40) and output.grid == GRID
        torch.stack(list(head.losses(output, batch_of([random_cells(), None]), ()).values())).sum().backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert MapHead(in_channels=4, map_classes=NAMES).grid.shape == (1, 200, 200)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    head = small_head().eval()
    features = torch.randn(3, 3, 32, 32)
    together, alone = head(fused_of(features)), head(fused_of(features[1:2]))
    torch.testing.assert_close(together.logits[1], alone.logits[0])


@pytest.mark.parametrize(("flip", "axes"), [("x", [3]), ("y", [2]), ("xy", [2, 3])])
@torch.no_grad()
def test_a_mirrored_map_gives_mirrored_answers(flip: Flip, axes: list[int]) -> None:
    head = small_head()
    for module in head.modules():
        if isinstance(module, torch.nn.Conv2d):
            for axis in axes:
                module.weight.copy_((module.weight + module.weight.flip(axis)) / 2)
            if len(axes) == 2:
                module.weight.copy_((module.weight + module.weight.flip(axes)) / 2)
    features = torch.randn(2, 3, 32, 32)
    straight, mirrored = head(fused_of(features)).logits, head(fused_of(features.flip(axes))).logits
    torch.testing.assert_close(mirrored.flip(axes), straight, rtol=1e-4, atol=1e-4)
    assert (mirrored - straight).abs().max() > 0.1  # the maps are not symmetric themselves


def test_without_augmentation_a_prediction_is_the_probability_of_every_cell() -> None:
    output = MapOutput(logits=torch.randn(2, 2, 40, 40), class_names=NAMES, grid=GRID)
    for index, found in enumerate(decode_map(output, torch.eye(4, dtype=torch.float64).repeat(2, 1, 1))):
        assert torch.equal(found.probabilities, output.logits[index].sigmoid())
        assert found.grid == GRID and found.class_names == NAMES


@pytest.mark.parametrize("flip", ["x", "y", "xy"])
def test_predictions_in_a_mirrored_frame_come_back(flip: Flip) -> None:
    cells = random_cells()
    batch = batch_of([cells], flip_matrix(flip))
    (found,) = decode_map(output_saying(map_targets(batch, NAMES, GRID).cells), batch.ego2aug)
    assert torch.equal(found.probabilities > 0.5, cells)


def test_predictions_in_a_turned_scaled_and_moved_frame_come_back() -> None:
    cells = torch.zeros(2, 40, 40, dtype=torch.bool)
    cells[0, 18:26, 4:14] = cells[1, 5:30, 20:25] = True
    batch = batch_of([cells], augmentation())
    (found,) = decode_map(output_saying(map_targets(batch, NAMES, GRID).cells), batch.ego2aug)
    reached = found.probabilities.isfinite()
    assert 0.5 < reached.float().mean() < 1
    hits = (found.probabilities > 0.5) & cells
    either = (found.probabilities > 0.5) | (cells & reached)
    assert hits.sum() / either.sum() > 0.85  # but for half cells along the edges


def test_no_number_is_an_error() -> None:
    output = MapOutput(logits=torch.full((1, 2, 40, 40), math.nan), class_names=NAMES, grid=GRID)
    with pytest.raises(ValueError, match="decode_map: logits must hold numbers, got NaN"):
        decode_map(output, torch.eye(4, dtype=torch.float64)[None])


def test_mirrored_looks_are_turned_back_and_averaged_as_probabilities() -> None:
    head = small_head()
    straight = output_saying(random_cells()[None])
    flips: dict[Flip, list[int]] = {"": [], "x": [3], "y": [2], "xy": [2, 3]}
    outputs = {flip: dataclasses.replace(straight, logits=straight.logits.flip(axes)) for flip, axes in flips.items()}
    torch.testing.assert_close(head.merge_flips(outputs).logits, straight.logits, rtol=1e-3, atol=1e-3)
    unsure = {"": straight, "y": dataclasses.replace(straight, logits=-straight.logits.flip([2]))}
    torch.testing.assert_close(head.merge_flips(unsure).logits, torch.zeros(1, 2, 40, 40), rtol=0, atol=1e-4)


def test_a_grid_that_is_not_symmetric_cannot_be_mirrored() -> None:
    grid = Grid((-5.0, 15.0), (-10.0, 10.0), (-5.0, 3.0), (0.5, 0.5, 8.0))
    head, output = small_head(grid=grid), MapOutput(logits=torch.zeros(1, 2, 40, 40), class_names=NAMES, grid=grid)
    assert head.merge_flips({"": output, "y": output}).grid == grid
    with pytest.raises(ValueError, match=r"MapHead: grid must be symmetric along x to be mirrored, got \(-5.0, 15.0\)"):
        head.merge_flips({"": output, "x": output})


@pytest.mark.parametrize("loss", [{}, {"focal": 0.0, "cross_entropy": 1.0, "dice": 1.0}])
def test_a_tiny_head_learns_two_maps_by_heart(loss: dict[str, float]) -> None:
    torch.manual_seed(0)
    cells = torch.zeros(2, 2, 40, 40, dtype=torch.bool)
    cells[0, 0, 12:28], cells[1, 0, :, 8:20] = True, True
    cells[0, 1, 19:21, 4:30] = cells[1, 1, 6:34, 13:15] = True
    batch = batch_of(list(cells))
    features = torch.randn(2, 3, 32, 32) * 0.1
    features[:, :2] += resample_map(cells.float(), torch.eye(4), LEVEL, GRID)
    head = small_head(**loss)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(100):
        total = torch.stack(list(head.losses(head(fused_of(features)), batch, ()).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    found = torch.stack([one.probabilities for one in head.predict(head(fused_of(features)), batch, ())]) > 0.5
    overlap = (found & cells).sum((0, 2, 3)) / (found | cells).sum((0, 2, 3))  # (K,)
    assert (overlap > 0.9).all(), overlap


@pytest.mark.parametrize(
    "wrong", [{"map_classes": ()}, {"map_classes": ("road", "road")}, {"map_classes": NAMES, "num_layers": 0}]
)
def test_classes_must_be_distinct_and_layers_must_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="MapHead: map_classes must be distinct and not empty and num_layers at least"):
        MapHead(in_channels=3, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"dice": -1.0}, "weights and gamma must be at least 0"),
        ({"focal": 0.0}, "a weight above it"),
        ({"alpha": 1.5}, "alpha must be -1 or in"),
        ({"balance": 2.0}, "balance in"),
    ],
)
def test_loss_settings_out_of_range_are_errors(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=f"MapLoss: .*{reason}"):
        MapLoss(**wrong)


PARTS = Path(__file__).resolve().parents[2] / "configs/models/parts"


@pytest.mark.parametrize("name", ["head_map", "head_map_vehicle"])
def test_the_parts_of_configs_name_what_exists_and_reach_beyond_the_protocols_cells(name: str) -> None:
    part = load_yaml(PARTS / f"{name}.yaml")
    check_config(part, where=name)
    settings = part["init_args"]
    grid = Grid(**{key: tuple(value) for key, value in settings["grid"].items()})
    head = MapHead(**settings | {"grid": grid, "loss": MapLoss(**settings.get("loss", {}))})
    assert head.grid.shape == (1, 208, 208) and head.grid.cell_m[:2] == (0.5, 0.5)


def test_a_detector_predicts_boxes_and_a_map_and_looks_at_mirrored_frames() -> None:
    parts = make_detector(["lidar"])
    detector = Detector(
        grids=parts.grids,
        class_names=list(parts.class_names),
        branches=dict(parts.branches),
        fuser=parts.fuser,
        neck=parts.neck,
        heads={"boxes": parts.heads["boxes"], "map": small_head(16)},
        test_flips=("y",),
    )
    batch = make_batch(None, make_lidar([50, 80]), [two_boxes(), None], augmentation())
    batch = dataclasses.replace(batch, map=(None, MapTruth(cells=random_cells(), class_names=NAMES, grid=GRID)))
    losses = detector.losses(detector(batch), batch)
    assert {"map/road", "map/line"} < set(losses)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in detector.parameters())
    detector.eval()
    for found in detector.predict(detector(batch), batch):
        assert found.detections is not None and found.map is not None and found.map.grid == GRID
        inside = found.map.probabilities[found.map.probabilities.isfinite()]
        assert 0 <= inside.min() <= inside.max() <= 1
