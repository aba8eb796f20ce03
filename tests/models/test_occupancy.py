"""The occupancy head: truth moved into the augmented frame, two networks, flips, back to the true frame, learning."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.geometry.transforms import yaw_matrix
from perception.models.detector import Detector
from perception.models.flips import Flip, flip_matrix
from perception.models.heads.occupancy import OccupancyHead
from perception.models.heads.occupancy_decoding import decode_occupancy
from perception.models.heads.occupancy_networks import (
    ChannelToHeight,
    OccupancyNetwork,
    VoxelDecoder,
    _spread,
    resample,
)
from perception.models.heads.occupancy_output import OccupancyOutput
from perception.models.heads.occupancy_targets import BEYOND_MASK, UNKNOWN, Mask, occupancy_targets
from perception.models.losses.occupancy import OccupancyLoss
from perception.structures import Batch, BevMap, FusedFeatures, OccupancyTruth
from tests.models.scenes import augmentation, make_batch, make_detector, make_lidar, two_boxes

GRID = Grid((-4.0, 4.0), (-4.0, 4.0), (-0.8, 0.8), (0.4, 0.4, 0.4))  # 20 x 20 x 4 voxels
LEVEL = Grid.square(6.4, 0.8)  # 16 x 16 cells
CLASSES, FREE = 5, 4
NETWORKS = (ChannelToHeight, VoxelDecoder)


def random_labels(seed: int = 0, grid: Grid = GRID) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CLASSES, grid.shape, generator=generator, dtype=torch.uint8)


def truth_of(labels: Tensor, lidar: Tensor | None = None, camera: Tensor | None = None) -> OccupancyTruth:
    seen = torch.ones(GRID.shape, dtype=torch.bool)
    lidar, camera = (seen if mask is None else mask for mask in (lidar, camera))
    return OccupancyTruth(labels=labels, mask_lidar=lidar, mask_camera=camera, grid=GRID)


def batch_of(truths: list[OccupancyTruth | None], ego2aug: Tensor | None = None) -> Batch:
    return dataclasses.replace(make_batch(None, None, [None] * len(truths), ego2aug), occupancy=tuple(truths))


def labels_in(ego2aug: Tensor, labels: Tensor) -> Tensor:
    return occupancy_targets(batch_of([truth_of(labels)], ego2aug), GRID, "none").labels[0]


def network(kind: type[OccupancyNetwork], in_channels: int = 3) -> OccupancyNetwork:
    torch.manual_seed(0)
    if kind is ChannelToHeight:
        return ChannelToHeight(in_channels=in_channels, channels=8, num_classes=CLASSES, grid=GRID)
    return VoxelDecoder(
        in_channels=in_channels, channels=8, volume_channels=6, fine_channels=4, num_classes=CLASSES, grid=GRID
    )


def fused_of(features: Tensor, grid: Grid = LEVEL) -> FusedFeatures:
    validity = torch.ones(len(features), 1, grid.num_y, grid.num_x, dtype=torch.bool)
    return FusedFeatures(bev={"main": BevMap(features=features, validity=validity, grid=grid)})


def output_saying(labels: Tensor) -> OccupancyOutput:
    """The output of a network that is sure of labels (B, Z, Y, X)."""
    logits = 8 * torch.nn.functional.one_hot(labels.long(), CLASSES).movedim(-1, 1).float()
    return OccupancyOutput(logits=logits, grid=GRID)


def test_without_augmentation_the_targets_are_the_truth_and_a_sample_without_does_not_count() -> None:
    labels = random_labels()
    targets = occupancy_targets(batch_of([truth_of(labels), None]), GRID, "lidar")
    assert torch.equal(targets.labels[0], labels)
    assert (targets.labels[1] == UNKNOWN).all()


@pytest.mark.parametrize(("flip", "axes"), [("x", [2]), ("y", [1]), ("xy", [1, 2])])
def test_a_mirrored_frame_has_mirrored_targets(flip: Flip, axes: list[int]) -> None:
    labels = random_labels()
    assert torch.equal(labels_in(flip_matrix(flip), labels), labels.flip(axes))


def test_a_frame_turned_left_has_turned_targets() -> None:
    labels = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    labels[1, 6, 19] = 2  # x = 3.8, y = -1.4 -> x = 1.4, y = 3.8
    quarter = yaw_matrix(torch.tensor(math.pi / 2, dtype=torch.float64))
    assert (labels_in(quarter, labels) == 2).nonzero().tolist() == [[1, 19, 13]]


def test_a_lifted_and_a_scaled_frame_have_lifted_and_scaled_targets() -> None:
    labels = random_labels()
    lift = torch.eye(4, dtype=torch.float64)
    lift[2, 3] = 0.4
    moved = labels_in(lift, labels)
    assert torch.equal(moved[1:], labels[:3]) and (moved[0] == UNKNOWN).all()
    twice = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    grown = labels_in(twice, labels)
    assert torch.equal(
        grown, labels[1:3, 5:15, 5:15].repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    )


def test_what_the_truth_does_not_reach_does_not_count() -> None:
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = 1.2
    moved = labels_in(shift, random_labels())
    assert (moved[..., :3] == UNKNOWN).all() and (moved[..., 3:] < CLASSES).all()


def test_masks_say_which_voxels_count_in_full() -> None:
    labels = random_labels()
    lidar, camera = (torch.zeros(GRID.shape, dtype=torch.bool) for _ in range(2))
    lidar[:, :8], camera[:, 6:10] = True, True
    batch = batch_of([truth_of(labels, lidar, camera)])
    kept: dict[Mask, Tensor] = {"camera": camera, "lidar": lidar | camera, "none": torch.ones_like(lidar)}
    for mask, expected in kept.items():
        (found,) = occupancy_targets(batch, GRID, mask).labels
        assert torch.equal(found < BEYOND_MASK, expected)
        assert torch.equal(found % BEYOND_MASK, labels)
    with pytest.raises(ValueError, match="OccupancyHead: mask must be one of camera, lidar, none, got 'radar'"):
        OccupancyHead(network=network(ChannelToHeight), mask="radar")  # type: ignore[arg-type]


def test_a_linear_map_is_resampled_exactly_and_zeros_lie_beyond_it() -> None:
    centers = LEVEL.centers_xy()
    features = torch.stack((centers[..., 0] * 2 - 1, centers[..., 1] + 3)).float()[None]
    found = resample(features, LEVEL, GRID)
    expected = GRID.centers_xy()
    torch.testing.assert_close(found[0, 0], (expected[..., 0] * 2 - 1).float())
    torch.testing.assert_close(found[0, 1], (expected[..., 1] + 3).float())
    assert torch.equal(resample(features, LEVEL, LEVEL), features)
    wide = Grid.square(8.0, 0.8)
    beyond = resample(torch.ones(1, 1, 16, 16), LEVEL, wide)[0, 0]
    assert torch.equal(beyond, torch.nn.functional.pad(torch.ones(16, 16), (2, 2, 2, 2)))


@pytest.mark.parametrize("cell_m", [0.4, 0.8, 1.6])
@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_lie_on_the_voxels_whatever_the_cells_of_the_level(kind: type[OccupancyNetwork], cell_m: float) -> None:
    level = Grid.square(6.4, cell_m)
    head = OccupancyHead(network=network(kind))
    output = head(fused_of(torch.randn(2, 3, level.num_y, level.num_x), level))
    assert output.logits.shape == (2, CLASSES, *GRID.shape) and output.grid == GRID
    assert head.in_channels == {"main": 3}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_sample_does_not_depend_on_its_neighbours(kind: type[OccupancyNetwork]) -> None:
    head = OccupancyHead(network=network(kind)).eval()
    features = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(head(fused_of(features)).logits[1], head(fused_of(features[1:2])).logits[0])


def test_a_coarse_voxel_becomes_the_cube_that_a_transposed_convolution_makes_of_it() -> None:
    decoder = network(VoxelDecoder)
    assert isinstance(decoder, VoxelDecoder)
    volume = torch.randn(2, 6, 2, 10, 10)
    kernel = decoder.refine.weight.flatten(1).T.unflatten(1, (-1, 2, 2, 2))  # (V, C, S, S, S)
    expected = torch.nn.functional.conv_transpose3d(volume, kernel, stride=2)
    torch.testing.assert_close(_spread(decoder.refine(volume), 2), expected)


@pytest.mark.parametrize("flip", ["x", "y", "xy"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_mirrored_map_gives_a_mirrored_volume_where_kernels_are_symmetric(
    kind: type[OccupancyNetwork], flip: Flip
) -> None:
    head = OccupancyHead(network=network(kind)).eval()
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                for axis in (-1, -2):
                    module.weight.copy_((module.weight + module.weight.flip(axis)) / 2)
        if isinstance(head.network, VoxelDecoder):  # the voxels of a cube are channels there
            cubes = head.network.refine.weight.unflatten(0, (-1, 2, 2, 2))  # (C, S, S, S, V, 1, 1, 1)
            mirrored = (cubes + cubes.flip(2) + cubes.flip(3) + cubes.flip(2, 3)) / 4
            head.network.refine.weight.copy_(mirrored.flatten(0, 3))
    features = torch.randn(2, 3, 16, 16)
    axes = [-1] * ("x" in flip) + [-2] * ("y" in flip)
    straight, turned = head(fused_of(features)), head(fused_of(features.flip(axes)))
    torch.testing.assert_close(turned.logits.flip(axes), straight.logits, rtol=1e-4, atol=1e-5)
    assert (turned.logits - straight.logits).abs().max() > 0.01
    merged = head.merge_flips({"": straight, flip: turned})
    torch.testing.assert_close(merged.logits.softmax(1), straight.logits.softmax(1), rtol=1e-3, atol=1e-4)


def test_a_grid_that_is_not_symmetric_cannot_be_mirrored() -> None:
    grid = Grid((0.0, 8.0), (-4.0, 4.0), (-1.0, 1.0), (0.5, 0.5, 0.5))
    head = OccupancyHead(network=ChannelToHeight(in_channels=3, grid=grid, channels=4, num_classes=CLASSES))
    output = OccupancyOutput(logits=torch.zeros(1, CLASSES, 4, 16, 16), grid=grid)
    assert head.merge_flips({"": output, "y": output}).grid == grid
    with pytest.raises(ValueError, match=r"OccupancyHead: grid must be symmetric along x to be mirrored, got \(0.0, 8"):
        head.merge_flips({"": output, "x": output})


def test_mirrored_looks_are_averaged_as_probabilities() -> None:
    head = OccupancyHead(network=network(ChannelToHeight))
    labels = random_labels()[None]
    straight = output_saying(labels)
    other = output_saying((labels + 1) % CLASSES)
    merged = head.merge_flips({"": straight, "y": dataclasses.replace(other, logits=other.logits.flip(-2))})
    expected = (straight.logits.softmax(1) + other.logits.softmax(1)) / 2
    torch.testing.assert_close(merged.logits.softmax(1), expected)


def test_without_augmentation_a_prediction_is_the_likeliest_class() -> None:
    logits = torch.randn(2, CLASSES, *GRID.shape)
    output = OccupancyOutput(logits=logits, grid=GRID)
    for index, found in enumerate(decode_occupancy(output, torch.eye(4, dtype=torch.float64).repeat(2, 1, 1))):
        assert found.labels.dtype == torch.uint8 and found.grid == GRID
        assert torch.equal(found.labels.long(), logits[index].argmax(0))


@pytest.mark.parametrize("flip", ["x", "y", "xy"])
def test_predictions_in_a_mirrored_frame_come_back(flip: Flip) -> None:
    labels = random_labels()
    said = output_saying(labels_in(flip_matrix(flip), labels)[None])
    (found,) = decode_occupancy(said, flip_matrix(flip)[None])
    assert torch.equal(found.labels, labels)


def test_predictions_in_a_turned_scaled_and_moved_frame_come_back() -> None:
    labels = torch.full(GRID.shape, FREE, dtype=torch.uint8)
    labels[1:3, 6:14, 4:14] = 2
    targets = occupancy_targets(batch_of([truth_of(labels)], augmentation()), GRID, "none").labels
    (found,) = decode_occupancy(output_saying(torch.where(targets == UNKNOWN, FREE, targets)), augmentation()[None])
    hits, either = (found.labels == 2) & (labels == 2), (found.labels == 2) | (labels == 2)
    assert hits.sum() / either.sum() > 0.8  # but for half voxels along the faces


def test_beyond_the_augmented_grid_all_is_free() -> None:
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = 1.2
    (found,) = decode_occupancy(output_saying(torch.full((1, *GRID.shape), 2)), shift[None])
    assert (found.labels[..., -3:] == FREE).all() and (found.labels[..., :-3] == 2).all()


def test_no_number_is_an_error() -> None:
    output = OccupancyOutput(logits=torch.full((1, CLASSES, *GRID.shape), math.nan), grid=GRID)
    with pytest.raises(ValueError, match="decode_occupancy: logits must hold numbers, got NaN"):
        decode_occupancy(output, torch.eye(4, dtype=torch.float64)[None])


def test_settings_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="coarse_layers must be at least 1 and fine_layers at least 0, got 0 and 1"):
        ChannelToHeight(in_channels=3, coarse_layers=0)
    with pytest.raises(ValueError, match=r"VoxelDecoder: stride must divide the grid's \(4, 20, 20\).*got 3 and 2"):
        VoxelDecoder(in_channels=3, stride=3, grid=GRID)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_tiny_head_learns_two_scenes_by_heart(kind: type[OccupancyNetwork]) -> None:
    torch.manual_seed(0)
    labels = torch.full((2, *GRID.shape), FREE, dtype=torch.uint8)
    labels[:, 0] = 0
    labels[0, 1:3, 4:10, 6:14], labels[1, 1:4, 12:18, 2:5] = 1, 2
    blind = torch.zeros(GRID.shape, dtype=torch.bool)
    blind[2, 4:10, 6:14] = True  # labelled 1 in the first scene, and never asked for
    features = torch.randn(2, 3, 16, 16) * 0.1
    for channel, number in enumerate((1, 2)):
        shape = (labels == number).any(1).float()[:, None]  # (B, 1, Y, X)
        features[:, channel] += resample(
            shape, dataclasses.replace(GRID, z_range_m=(-5, 3), cell_m=(0.4, 0.4, 8)), LEVEL
        )[:, 0]
    head = OccupancyHead(network=network(kind), loss=OccupancyLoss(max_free_voxels=1000))
    batch = batch_of([truth_of(labels[0], ~blind, ~blind), truth_of(labels[1])])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(120):
        losses = head.losses(head(fused_of(features)), batch, ())
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    predictions = torch.stack([found.labels for found in head.predict(head(fused_of(features)), batch, ())])
    counted = torch.stack((~blind, torch.ones_like(blind)))
    for number in range(3):
        mine, said = (labels == number) & counted, (predictions == number) & counted
        assert (mine & said).sum() / (mine | said).sum() > 0.9, number


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_detector_predicts_boxes_and_occupancy_and_looks_at_mirrored_frames(kind: type[OccupancyNetwork]) -> None:
    parts = make_detector(["lidar"])
    heads = {"boxes": parts.heads["boxes"], "space": OccupancyHead(network=network(kind, 16))}
    detector = Detector(
        grids=parts.grids,
        class_names=list(parts.class_names),
        branches=dict(parts.branches),
        fuser=parts.fuser,
        neck=parts.neck,
        heads=heads,
        test_flips=("y",),
    )
    batch = make_batch(None, make_lidar([50, 80]), [two_boxes(), None], augmentation())
    batch = dataclasses.replace(batch, occupancy=(None, truth_of(random_labels())))
    losses = detector.losses(detector(batch), batch)
    names = {"cross_entropy", "lovasz", "semantic_affinity", "geometric_affinity"}
    assert {f"space/{name}" for name in names} < set(losses)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert not name.startswith("heads.space") or parameter.grad.abs().sum() > 0, name
    detector.eval()
    for found in detector.predict(detector(batch), batch):
        assert found.detections is not None and found.occupancy is not None
        assert found.occupancy.grid == GRID and found.occupancy.labels.max() < CLASSES
