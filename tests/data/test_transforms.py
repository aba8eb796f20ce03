"""What random changes do to geometry and pixels must be the same thing."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perception.data.transforms import BevAugmentation, ImageAugmentation, warp_image
from perception.geometry.boxes import transform_boxes
from perception.geometry.cameras import project, transform_pixels
from perception.geometry.transforms import transform_points
from perception.structures import Boxes3D, CameraImages, PointCloud, Sample

SIZE_PX = (96, 160)
INTRINSICS = torch.tensor([[120.0, 0, 79.5], [0, 120.0, 47.5], [0, 0, 1]], dtype=torch.float64)
TURNS = st.floats(-0.5, 0.5)
SCALES = st.floats(0.7, 1.5)
SEEDS = st.integers(0, 2**32 - 1)


def identities(count: int, size: int) -> torch.Tensor:
    return torch.eye(size, dtype=torch.float64).repeat(count, 1, 1)


def sample_of(images: torch.Tensor, present: list[bool] | None = None) -> Sample:
    count = len(images)
    cameras = CameraImages(
        names=tuple(f"CAM_{row}" for row in range(count)),
        camera_model="pinhole",
        images=images,
        intrinsics=INTRINSICS.repeat(count, 1, 1),
        distortion=torch.zeros((count, 4), dtype=torch.float64),
        camera2ego=identities(count, 4),
        image2aug=identities(count, 3),
        present=torch.tensor(present or [True] * count),
    )
    return Sample(
        token="a",
        scene="s",
        timestamp_us=0,
        ego2global=identities(1, 4)[0],
        cameras={"surround": cameras},
    )


def spot_picture(center_px: torch.Tensor) -> torch.Tensor:
    """(3, H, W) uint8 with a bright spot three pixels wide."""
    rows, columns = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in SIZE_PX), indexing="ij")
    squared = (columns - center_px[0]).square() + (rows - center_px[1]).square()
    return (250 * torch.exp(-squared / 18)).to(torch.uint8).expand(3, -1, -1).clone()


def spot_center(image: torch.Tensor) -> torch.Tensor:
    weights = image[1].to(torch.float64)
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in SIZE_PX), indexing="ij")
    return torch.stack(((weights * columns).sum(), (weights * rows).sum())) / weights.sum()


@given(SEEDS, TURNS, SCALES, st.booleans())
def test_the_picture_of_a_point_moves_with_image2aug(seed: int, turn_rad: float, scale: float, flip: bool) -> None:
    """A spot drawn where a 3-D point is seen lies, after the change, where image2aug puts that point's pixel."""
    point = torch.tensor([[0.4, -0.2, 4.0]], dtype=torch.float64)
    pixel, _ = project(point, "pinhole", INTRINSICS)
    change = ImageAugmentation(
        resize_range=(min(scale, 1.0), max(scale, 1.0)), rotation_range_rad=(-abs(turn_rad), abs(turn_rad)), flip=flip
    )
    changed = change(sample_of(spot_picture(pixel[0])[None]), torch.Generator().manual_seed(seed)).cameras["surround"]
    moved, _ = project(point, "pinhole", changed.intrinsics[0])
    expected = transform_pixels(changed.image2aug[0], moved)[0]
    if (expected > 12).all() and (expected < torch.tensor([SIZE_PX[1] - 13, SIZE_PX[0] - 13])).all():
        torch.testing.assert_close(spot_center(changed.images[0]), expected, atol=0.06, rtol=0)


@given(SEEDS)
def test_image_changes_compose(seed: int) -> None:
    change = ImageAugmentation(resize_range=(0.8, 1.2), rotation_range_rad=(-0.2, 0.2), flip=True)
    plain = sample_of(torch.zeros((1, 3, *SIZE_PX), dtype=torch.uint8))
    before = torch.tensor([[0.44, 0, -0.28], [0, 0.44, -140.28], [0, 0, 1]], dtype=torch.float64)
    cropped = replace(plain.cameras["surround"], image2aug=before[None])
    alone, after = (
        change(sample, torch.Generator().manual_seed(seed)).cameras["surround"].image2aug[0]
        for sample in (plain, replace(plain, cameras={"surround": cropped}))
    )
    torch.testing.assert_close(after, alone @ before)


def test_a_mirrored_picture_is_the_reversed_one() -> None:
    image = torch.randint(0, 255, (3, *SIZE_PX), dtype=torch.uint8)
    mirror = torch.tensor([[-1.0, 0, SIZE_PX[1] - 1], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.equal(warp_image(image, mirror), image.flip(2))
    changes = [
        ImageAugmentation(flip=True)(sample_of(image[None]), torch.Generator().manual_seed(s)) for s in range(20)
    ]
    found = [changed.cameras["surround"] for changed in changes]
    flipped = [cameras.image2aug[0, 0, 0] < 0 for cameras in found]
    assert 4 < sum(flipped) < 16
    for cameras, was_flipped in zip(found, flipped, strict=True):
        assert torch.equal(cameras.images[0], image.flip(2) if was_flipped else image)


def test_a_smaller_picture_stands_at_the_bottom_and_a_larger_is_cropped_at_the_top() -> None:
    for scale in (0.5, 2.0):
        change = ImageAugmentation(resize_range=(scale, scale))
        cameras = change(
            sample_of(torch.full((1, 3, *SIZE_PX), 200, dtype=torch.uint8)), torch.Generator().manual_seed(1)
        ).cameras["surround"]
        bottom_row = transform_pixels(cameras.image2aug[0], torch.tensor([0.0, SIZE_PX[0] - 0.5], dtype=torch.float64))
        assert bottom_row[1] == pytest.approx(SIZE_PX[0] - 0.5)
        edges = transform_pixels(
            cameras.image2aug[0], torch.tensor([[-0.5, 0], [SIZE_PX[1] - 0.5, 0]], dtype=torch.float64)
        )[:, 0]
        inside = (edges > -0.5 - 1e-9) & (edges < SIZE_PX[1] - 0.5 + 1e-9)
        assert inside.all() == (scale < 1)
        filled = (cameras.images[0] == 200).float().mean()
        assert filled == pytest.approx(min(scale, 1) ** 2, abs=0.03)


def test_cameras_change_on_their_own_and_absent_ones_not_at_all() -> None:
    images = torch.randint(0, 255, (3, 3, *SIZE_PX), dtype=torch.uint8)
    change = ImageAugmentation(resize_range=(0.8, 1.2), rotation_range_rad=(-0.2, 0.2))
    whole, partly = (
        change(sample, torch.Generator().manual_seed(5)).cameras["surround"]
        for sample in (sample_of(images), sample_of(images, [True, False, True]))
    )
    assert not torch.equal(whole.image2aug[0], whole.image2aug[1])
    assert torch.equal(partly.image2aug[[0, 2]], whole.image2aug[[0, 2]])
    assert torch.equal(partly.images[[0, 2]], whole.images[[0, 2]])
    assert torch.equal(partly.image2aug[1], torch.eye(3, dtype=torch.float64))
    assert torch.equal(partly.images[1], images[1])


@given(SEEDS, TURNS, SCALES, st.booleans(), st.booleans())
def test_points_stay_in_their_boxes_in_the_augmented_frame(
    seed: int, turn_rad: float, scale: float, flip_x: bool, flip_y: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    box = torch.tensor([[10.0, -4.0, 0.5, 4.5, 1.9, 1.6, 0.7, 3.0, 1.0]], dtype=torch.float64)
    points = (torch.rand((200, 3), generator=generator, dtype=torch.float64) - 0.5) * 6 + box[0, :3]
    change = BevAugmentation(
        rotation_range_rad=(-abs(turn_rad), abs(turn_rad)),
        scale_range=(min(scale, 1.0), max(scale, 1.0)),
        flip_x=flip_x,
        flip_y=flip_y,
        translation_std_m=(0.5, 0.5, 0.2),
    )
    ego2aug = change(sample_of(torch.zeros((0, 3, 4, 4), dtype=torch.uint8)), generator).ego2aug
    moved_box, moved_points = transform_boxes(ego2aug, box), transform_points(ego2aug, points)
    inside = in_box(points, box[0])
    assert inside.any()
    assert torch.equal(in_box(moved_points, moved_box[0]), inside)
    # A second later the box is where its velocity leads, in either frame.
    later = transform_points(ego2aug, box[:, :3] + torch.cat((box[:, 7:], torch.zeros((1, 1))), dim=1))
    torch.testing.assert_close(later[:, :2], moved_box[:, :2] + moved_box[:, 7:])


def in_box(points: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    local = points - box[:3]
    along = local[:, 0] * box[6].cos() + local[:, 1] * box[6].sin()
    across = local[:, 1] * box[6].cos() - local[:, 0] * box[6].sin()
    return (torch.stack((along, across, local[:, 2]), dim=1).abs() <= box[3:6] / 2).all(1)


def test_bev_changes_set_ego2aug_alone_and_compose() -> None:
    cloud = PointCloud(points=torch.rand(5, 3), fields=(), sensor2ego=identities(1, 4)[0])
    boxes = Boxes3D(
        boxes=torch.rand(2, 9), labels=torch.zeros(2).long(), num_lidar_points=torch.ones(2).long(), tokens=("a", "b")
    )
    sample = replace(sample_of(torch.zeros((1, 3, 4, 4), dtype=torch.uint8)), lidar=cloud, boxes=boxes)
    turn, shrink = BevAugmentation(rotation_range_rad=(0.3, 0.3)), BevAugmentation(scale_range=(0.5, 0.5))
    changed = shrink(turn(sample, torch.Generator()), torch.Generator())
    c, s = 0.5 * math.cos(0.3), 0.5 * math.sin(0.3)
    expected = [[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(changed.ego2aug, torch.tensor(expected, dtype=torch.float64))
    assert replace(changed, ego2aug=sample.ego2aug) == sample  # the very same objects
    assert torch.equal(sample.ego2aug, torch.eye(4, dtype=torch.float64))


def test_mirrors_swap_the_side_they_name_half_of_the_time() -> None:
    sample = sample_of(torch.zeros((0, 3, 4, 4), dtype=torch.uint8))
    for change, axis in ((BevAugmentation(flip_x=True), 0), (BevAugmentation(flip_y=True), 1)):
        found = [change(sample, torch.Generator().manual_seed(seed)).ego2aug.diagonal() for seed in range(40)]
        signs = torch.stack(found)
        assert 10 < (signs[:, axis] < 0).sum() < 30
        assert (signs.sum(1) >= 2).all()


def test_both_mirrors_and_the_three_shifts_are_drawn_apart() -> None:
    sample = sample_of(torch.zeros((0, 3, 4, 4), dtype=torch.uint8))
    change = BevAugmentation(flip_x=True, flip_y=True, translation_std_m=(0.5, 0.1, 2.0))
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([change(sample, generator).ego2aug for _ in range(2000)])
    signs = {tuple(row) for row in found.diagonal(dim1=1, dim2=2)[:, :2].tolist()}
    assert signs == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    shifts_m = found[:, :3, 3]
    assert shifts_m.std(0).tolist() == pytest.approx([0.5, 0.1, 2.0], rel=0.1)
    assert (torch.corrcoef(shifts_m.T) - torch.eye(3)).abs().max() < 0.1


def test_inputs_stay_as_they_are() -> None:
    images = torch.randint(0, 255, (2, 3, *SIZE_PX), dtype=torch.uint8)
    sample, kept = sample_of(images), images.clone()
    ImageAugmentation(resize_range=(1.2, 1.2), flip=True)(sample, torch.Generator().manual_seed(0))
    assert torch.equal(sample.cameras["surround"].images, kept)
    assert torch.equal(sample.cameras["surround"].image2aug, identities(2, 3))


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        (
            ImageAugmentation,
            {"resize_range": (1.2, 1.0)},
            r"ImageAugmentation: resize_range must be two rising positive",
        ),
        (ImageAugmentation, {"resize_range": (0.0, 1.0)}, r"resize_range must be .* got \(0.0, 1.0\)"),
        (ImageAugmentation, {"rotation_range_rad": (float("nan"), 1.0)}, "rotation_range_rad must be two rising"),
        (BevAugmentation, {"scale_range": (-1.0, 1.0)}, "BevAugmentation: scale_range must be two rising positive"),
        (BevAugmentation, {"translation_std_m": (0.5, -0.5, 0.0)}, "translation_std_m must be three numbers >= 0"),
    ],
)
def test_wrong_settings_are_refused(transform: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(**options)
