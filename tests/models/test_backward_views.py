"""Sampling and deformable views: what cells read, against projection by hand, for pinholes and fisheyes alike."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.geometry.transforms import invert_rigid, transform_points
from perception.models.branches import CameraBranch
from perception.models.parts import View
from perception.models.views.deformable import DeformablePlan, DeformableView
from perception.models.views.frustum import feature_rays, lidar_distances
from perception.models.views.lift_splat import LiftSplat
from perception.models.views.projection import project_columns
from perception.models.views.sampling import SamplingView
from perception.structures import CameraImages, CameraViews, PointBatch
from perception.structures.tensors import map_tensors
from tests.models.near_scenes import NEAR, make_fisheyes
from tests.models.scenes import GRID, IMAGE_SIZE_PX, augmentation, image_encoder, make_batch, make_cameras

GRIDS = {"main": GRID, "near": NEAR}
NOTHING = torch.eye(4, dtype=torch.float64)
MODELS = ["pinhole", "kannala_brandt"]
HEIGHTS_M = (0.3, 1.2)


def pixel_by_hand(point: Tensor, camera_model: str) -> tuple[float, float] | None:
    """Pixel of a point in the camera frame, from the definitions of the two models; None where it is not seen."""
    (height, width), (x, y, z) = IMAGE_SIZE_PX, point.tolist()
    if camera_model == "pinhole":
        if z <= 1e-3:
            return None
        u, v = width / 2 * x / z, width / 2 * y / z
    else:
        theta, around = math.atan2(math.hypot(x, y), z), math.atan2(y, x)
        radius = theta * width / math.pi
        u, v = radius * math.cos(around), radius * math.sin(around)
    u, v = u + (width - 1) / 2, v + (height - 1) / 2
    return (u, v) if -0.5 <= u <= width - 0.5 and -0.5 <= v <= height - 0.5 else None


def bilinear(level: Tensor, u: float, v: float) -> Tensor:
    """(C,) a feature map (C, h, w) at a pixel of the picture, continued beyond the outermost centres."""
    _, height, width = level.shape
    column = min(max((u + 0.5) * width / IMAGE_SIZE_PX[1] - 0.5, 0), width - 1)
    row = min(max((v + 0.5) * height / IMAGE_SIZE_PX[0] - 0.5, 0), height - 1)
    left, top = min(int(column), width - 2), min(int(row), height - 2)
    a, b = column - left, row - top
    upper = (1 - a) * level[:, top, left] + a * level[:, top, left + 1]
    return (1 - b) * upper + b * ((1 - a) * level[:, top + 1, left] + a * level[:, top + 1, left + 1])


def bare_sampling(channels: int, heights_m: tuple[float, ...], levels: tuple[str, ...] = ("main",)) -> SamplingView:
    """A sampling view without convolutions."""
    view = SamplingView(
        in_channels=channels, context_channels=channels, out_channels=dict.fromkeys(levels, channels),
        heights_m=heights_m,
    ).eval()  # fmt: skip
    view.reduce = nn.ModuleList([nn.Identity()])
    view.refine = nn.ModuleDict({level: nn.Identity() for level in levels})
    return view


def in_picture(cameras: CameraImages, camera: int, point_in_aug: Tensor, ego2aug: Tensor) -> tuple[float, float] | None:
    aug2camera = invert_rigid(cameras.camera2ego[0, camera]) @ torch.linalg.inv(ego2aug)
    return pixel_by_hand(transform_points(aug2camera, point_in_aug[None])[0], cameras.camera_model)


@pytest.mark.parametrize("camera_model", MODELS)
@pytest.mark.parametrize("augmented", [False, True])
def test_cells_take_the_weighted_mean_of_what_is_seen_of_their_column(camera_model: str, augmented: bool) -> None:
    cameras, ego2aug = make_cameras([[True, True, False]], camera_model), augmentation() if augmented else NOTHING
    level = torch.rand(1, 3, 2, 8, 16)
    view = bare_sampling(2, HEIGHTS_M)
    with torch.no_grad():
        view.height_logits["main"].copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    weights = view.height_logits["main"].softmax(1).detach()  # (C, Z)
    views = CameraViews(levels=(level,), strides=(4,), cameras=cameras)
    bev = view(views, ego2aug[None], GRIDS).bev["main"]
    centers, num_seen = GRID.centers_xy(), 0
    for row in range(0, GRID.num_y, 3):
        for column in range(1, GRID.num_x, 3):
            total, share = torch.zeros(2), torch.zeros(2)
            for number, height in enumerate(HEIGHTS_M):
                point = torch.tensor([*centers[row, column].tolist(), height], dtype=torch.float64)
                pixels = [in_picture(cameras, camera, point, ego2aug) for camera in range(2)]
                hits = [bilinear(level[0, n], *pixel) for n, pixel in enumerate(pixels) if pixel is not None]
                if hits:
                    total += weights[:, number] * torch.stack(hits).mean(0)
                    share += weights[:, number]
            seen = bool(share.any())
            assert bool(bev.validity[0, 0, row, column]) == seen
            expected = total / share if seen else torch.zeros(2)
            torch.testing.assert_close(bev.features[0, :, row, column], expected, rtol=1e-4, atol=1e-4)
            num_seen += seen
    assert num_seen > 20


def test_a_height_of_little_weight_that_is_seen_alone_counts_in_full() -> None:
    cameras, view = make_cameras([[True]]), bare_sampling(1, (-2.5, 0.5))
    with torch.no_grad():
        view.height_logits["main"].copy_(torch.tensor([[16.0, 0.0]]))
    views = CameraViews(levels=(torch.ones(1, 1, 1, 8, 16),), strides=(4,), cameras=cameras)
    bev = view(views, NOTHING[None], GRIDS).bev["main"]
    seen = [project_columns(cameras, NOTHING[None], GRID, (height,))[1].seen.any(1) for height in (-2.5, 0.5)]
    assert (seen[1] & ~seen[0]).any()
    assert bev.features[bev.validity].tolist() == pytest.approx([1.0] * int(bev.validity.sum()), abs=1e-5)


def ground_picture(cameras: CameraImages, scene: object) -> Tensor:
    """(1, N, 1, h, w) what cameras see of a painted ground; 0 above the horizon."""
    size = (IMAGE_SIZE_PX[0] * 4, IMAGE_SIZE_PX[1] * 4)
    rays, valid = feature_rays(cameras, size)  # (N, h, w, 3)
    camera2ego = cameras.camera2ego[0][:, None, None]
    rays = (camera2ego[..., :3, :3] @ rays[..., None])[..., 0]
    start = camera2ego[..., :3, 3]
    distance = -start[..., 2] / rays[..., 2].clamp(max=-1e-6)
    ground = start + distance[..., None] * rays
    return torch.where(valid & (rays[..., 2] < -1e-6), scene(ground), 0.0).float()[None, :, None]  # type: ignore[operator]


def test_fisheyes_and_pinholes_see_one_ground() -> None:
    def scene(places: Tensor) -> Tensor:
        return 2 + torch.sin(0.9 * places[..., 0]) + torch.cos(0.7 * places[..., 1])

    view, maps = bare_sampling(1, (0.0,), ("near",)), {}
    for name, cameras in (("pinhole", make_cameras([[True] * 4])), ("fisheye", make_fisheyes([[True] * 4]))):
        views = CameraViews(levels=(ground_picture(cameras, scene),), strides=(1,), cameras=cameras)
        maps[name] = view(views, NOTHING[None], GRIDS).bev["near"]
    both = (maps["pinhole"].validity & maps["fisheye"].validity)[0, 0] & (NEAR.centers_xy().norm(dim=-1) < 6)
    assert both.sum() > 500
    truth = scene(NEAR.centers_xy()).float()
    for bev in maps.values():
        torch.testing.assert_close(bev.features[0, 0][both], truth[both], rtol=0, atol=0.08)
    assert maps["fisheye"].validity.sum() > 1.3 * maps["pinhole"].validity.sum()  # they see the ground beside the car


def bright_views(cameras: CameraImages, camera: int, row: int, column: int, size: tuple[int, int]) -> CameraViews:
    level = torch.zeros(1, len(cameras.names), 1, *size)
    level[0, camera, 0, row, column] = 1.0
    return CameraViews(levels=(level,), strides=(IMAGE_SIZE_PX[0] // size[0],), cameras=cameras)


@pytest.mark.parametrize("camera_model", MODELS)
@pytest.mark.parametrize(("camera", "x", "y"), [(0, 5.0, 1.0), (1, -0.6, 6.2), (3, 1.4, -4.2)])
def test_a_bright_point_appears_in_the_cell_where_it_is(camera_model: str, camera: int, x: float, y: float) -> None:
    cameras, ego2aug, size = make_cameras([[True] * 4], camera_model), augmentation(), (16, 32)
    center = GRID.centers_xy().flatten(0, 1)
    place = (ego2aug @ torch.tensor([x, y, 0.0, 1.0], dtype=torch.float64))[:2]
    cell = int((center - place).norm(dim=1).argmin())
    point = torch.tensor([*center[cell].tolist(), 0.5], dtype=torch.float64)
    pixel = in_picture(cameras, camera, point, ego2aug)
    assert pixel is not None
    column, row = (int((value + 0.5) / 2) for value in pixel)
    views = bright_views(cameras, camera, row, column, size)
    lit = bare_sampling(1, (0.5,))(views, ego2aug[None], GRIDS).bev["main"].features[0, 0].flatten()
    assert lit[cell] >= 0.25 / 2  # the pixel lies in that feature cell, and at most two cameras see the point
    for index in lit.nonzero()[:, 0].tolist():  # all that is lit looks past that pixel
        seen = in_picture(cameras, camera, torch.tensor([*center[index].tolist(), 0.5], dtype=torch.float64), ego2aug)
        assert seen is not None
        assert math.hypot(seen[0] - 2 * column - 0.5, seen[1] - 2 * row - 0.5) < 2 * math.sqrt(2) + 1e-6


def deformable(**values: object) -> DeformableView:
    settings = {"in_channels": 1, "out_channels": 8, "channels": 8, "num_heads": 2, "heights_m": HEIGHTS_M} | values
    return DeformableView(**settings).eval()  # type: ignore[arg-type]


def test_deformable_queries_look_where_their_column_is_seen() -> None:
    cameras, ego2aug, size = make_cameras([[True] * 3], "kannala_brandt"), augmentation(), (16, 32)
    view = deformable()
    view.refine = nn.Identity()
    camera, row, column = 1, 9, 14
    dark = bright_views(cameras, camera, row, column, size)
    dark.levels[0].zero_()
    lit = bright_views(cameras, camera, row, column, size)
    change = (
        view(lit, ego2aug[None], GRIDS).bev["main"].features - view(dark, ego2aug[None], GRIDS).bev["main"].features
    )
    changed = change[0].abs().amax(0).flatten() > 1e-7
    assert 0 < changed.sum() < 400
    farthest = torch.hypot(torch.tensor(2.0 + 1), torch.tensor(2.0 + 1))  # first offsets of 2 cells, a cell between
    for index in changed.nonzero()[:, 0].tolist():
        place = GRID.centers_xy().flatten(0, 1)[index].tolist()
        seen = [in_picture(cameras, camera, torch.tensor([*place, z], dtype=torch.float64), ego2aug) for z in HEIGHTS_M]
        cells = [((u + 0.5) / 2 - 0.5, (v + 0.5) / 2 - 0.5) for u, v in (pixel for pixel in seen if pixel)]
        assert min(math.hypot(u - column, v - row) for u, v in cells) <= farthest


def test_cross_attention_is_that_of_every_query_alone() -> None:
    cameras = make_cameras([[True, False, True], [False, True, False]])
    view = deformable(in_channels=3, num_view_levels=2, num_points=2)
    layer = view.layers[0]
    nn.init.normal_(layer.offsets.weight, std=0.5)
    plan: DeformablePlan = view.plan(cameras, (8, 16), torch.stack([NOTHING, augmentation()]), GRIDS)
    levels = [torch.randn(3, 8, 8, 16), torch.randn(3, 8, 4, 8)]  # (K, C, h, w)
    values = torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2).unflatten(2, (2, 4))
    queries = torch.randn(2 * GRID.num_y * GRID.num_x, 8)
    result = layer(queries, values, [(8, 16), (4, 8)], plan)
    hits = {camera: dict(zip(plan.cells[camera].tolist(), range(10**6))) for camera in range(3)}  # noqa: B905
    for cell in [*plan.cells[0, ::40].tolist(), *plan.cells[1, ::40].tolist(), *plan.cells[2, ::60].tolist(), 3]:
        if cell < 0:
            continue
        read = []
        for camera in range(3):
            slot = hits[camera].get(cell)
            if slot is None:
                continue
            offsets = layer.offsets(queries[cell]).view(2, 2, 2, 2, 2)  # H L Z P 2
            logits = layer.weights(queries[cell]).view(2, 2, 2, 2)
            logits = logits.masked_fill(~plan.seen[camera, slot][None, None, :, None], -torch.inf)
            weights = logits.flatten(1).softmax(1).view(2, 2, 2, 2)
            total = torch.zeros(2, 4)
            for head, number, height, point in torch.cartesian_prod(*[torch.arange(2)] * 4).tolist():
                level = levels[number][camera].view(2, 4, *levels[number].shape[2:])[head]
                size = torch.tensor(level.shape[:0:-1])
                at = plan.references[camera, slot, height] + offsets[head, number, height, point] / size
                grid = (2 * at - 1).view(1, 1, 1, 2)
                value = nn.functional.grid_sample(level[None], grid, align_corners=False)[0, :, 0, 0]
                total[head] += weights[head, number, height, point] * value
            read.append(total.flatten())
        mean = torch.stack(read).mean(0) if read else torch.zeros(8)
        expected = layer.after_attention(queries[cell] + layer.attended(mean))
        expected = layer.after_feed(expected + layer.feed(expected))
        torch.testing.assert_close(result[cell], expected, rtol=1e-4, atol=1e-4)


def test_cells_take_the_mean_over_the_cameras_that_see_them() -> None:
    """Two cameras in one place with one picture say what one of them says."""
    cameras = make_cameras([[True, True, False]])
    twin = map_tensors(cameras, lambda tensor: tensor.clone())
    for name in ("camera2ego", "intrinsics", "image2aug"):
        getattr(twin, name)[:, 1] = getattr(twin, name)[:, 0]
    level = torch.rand(1, 3, 1, 8, 16)
    level[:, 1] = level[:, 0]
    view, found = deformable(), []
    for present in ([[True, False, False]], [[True, True, False]]):
        views = CameraViews(
            levels=(level,), strides=(8,), cameras=dataclasses.replace(twin, present=torch.tensor(present))
        )
        found.append(view(views, NOTHING[None], GRIDS).bev["main"].features)
    assert found[0].any()
    torch.testing.assert_close(*found)


def make_view(kind: str) -> View:
    if kind == "lift-splat":
        return LiftSplat(in_channels=12, context_channels=8, out_channels=10, distance_range_m=(1.0, 13.0))
    if kind == "sampling":
        return SamplingView(in_channels=12, context_channels=8, out_channels={"main": 10})
    return DeformableView(in_channels=12, out_channels=10, channels=16, num_layers=2)


KINDS = ["lift-splat", "sampling", "deformable"]
PRESENT = [[True, False, True], [False] * 3, [True, True, True]]


def branch_of(kind: str, group: str) -> CameraBranch:
    return CameraBranch(encoder=image_encoder(), view=make_view(kind), group=group)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", ["surround", "fisheye"])
def test_views_can_be_exchanged(kind: str, group: str) -> None:
    cameras = make_cameras(PRESENT) if group == "surround" else make_fisheyes(PRESENT)
    batch = dataclasses.replace(make_batch(None, None, [None] * 3, augmentation()), cameras={group: cameras})
    branch = branch_of(kind, group)
    result = branch(batch, GRIDS)
    level = result.bev["main"]
    assert result.present.tolist() == [True, False, True]
    assert level.features.shape == (3, 10, 32, 40)
    assert level.features.isfinite().all()
    assert not level.features[1].any()
    assert level.validity.flatten(1).any(1).tolist() == [True, False, True]
    level.features.square().sum().backward()
    unused = {name for name, p in branch.named_parameters() if p.grad is None or not p.grad.any()}
    assert all("stages.3" in name or (name == "view.lift.1.bias") for name in unused), unused
    branch.eval()
    planned, worked_out = branch(batch, GRIDS, branch.plan(batch, GRIDS).to("cpu")), branch(batch, GRIDS)
    assert torch.equal(planned.bev["main"].features, worked_out.bev["main"].features)
    fewer = dataclasses.replace(cameras, present=cameras.present & torch.tensor([True, True, False]))
    with pytest.raises(ValueError, match=r"plan must be of the cameras that are present, .*, it is of"):
        branch(dataclasses.replace(batch, cameras={group: fewer}), GRIDS, branch.plan(batch, GRIDS))


@pytest.mark.parametrize("kind", KINDS)
def test_absent_cameras_and_neighbours_do_not_matter(kind: str) -> None:
    cameras, moves = make_fisheyes(PRESENT), torch.stack([augmentation(), NOTHING, augmentation(-2.0)])
    batch = dataclasses.replace(make_batch(None, None, [None] * 3), cameras={"fisheye": cameras}, ego2aug=moves)
    branch = branch_of(kind, "fisheye").eval()
    result = branch(batch, GRIDS).bev["main"]
    absent = ~cameras.present[..., None, None]
    garbled = dataclasses.replace(
        cameras,
        images=torch.where(absent[..., None], 255 - cameras.images, cameras.images),
        intrinsics=torch.where(absent, torch.nan, cameras.intrinsics),
        distortion=torch.where(absent[..., 0], torch.nan, cameras.distortion),
        camera2ego=torch.where(absent, torch.nan, cameras.camera2ego),
        image2aug=torch.where(absent, torch.nan, cameras.image2aug),
        theta_max_rad=torch.where(absent[..., 0, 0], torch.nan, cameras.theta_max_rad),
    )
    again = branch(dataclasses.replace(batch, cameras={"fisheye": garbled}), GRIDS).bev["main"]
    assert torch.equal(again.features, result.features)
    assert torch.equal(again.validity, result.validity)
    fewer = dataclasses.replace(cameras, present=torch.tensor([[True, False, True], [False] * 3, [False] * 3]))
    alone = branch(dataclasses.replace(batch, cameras={"fisheye": fewer}), GRIDS).bev["main"]
    torch.testing.assert_close(alone.features[0], result.features[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(alone.validity[0], result.validity[0])


def test_a_stated_largest_angle_ends_rays_points_and_columns() -> None:
    size, limit = (16, 32), 1.1
    whole, narrow = make_fisheyes([[True]], None), make_fisheyes([[True]], limit)
    rays, valid = feature_rays(narrow, size)
    expected = rays[..., 2].clamp(-1, 1).acos() <= limit
    assert torch.equal(valid, expected)
    assert feature_rays(whole, size)[1].sum() > valid.sum() > 0

    angles = torch.tensor([0.9, 1.3], dtype=torch.float64)
    in_camera = torch.stack((angles.sin(), 0 * angles, angles.cos()), dim=1) * 5
    points = transform_points(narrow.camera2ego[0, 0], in_camera).float()
    lidar = PointBatch(
        points=points, batch_index=torch.zeros(2, dtype=torch.long), present=torch.tensor([True]),
        sensor2ego=NOTHING[None], fields=(),
    )  # fmt: skip
    assert lidar_distances(whole, lidar, size).isfinite().sum() == 2
    assert lidar_distances(narrow, lidar, size).isfinite().sum() == 1

    _, plan = project_columns(narrow, NOTHING[None], NEAR, HEIGHTS_M)
    centers = torch.stack([nn.functional.pad(NEAR.centers_xy(), (0, 1), value=z) for z in HEIGHTS_M])
    in_camera = transform_points(invert_rigid(narrow.camera2ego[0, 0]), centers.flatten(0, 2))
    theta = torch.atan2(in_camera[:, :2].norm(dim=1), in_camera[:, 2])
    _, free = project_columns(whole, NOTHING[None], NEAR, HEIGHTS_M)
    assert torch.equal(plan.valid[0, 0], free.valid[0, 0] & (theta <= limit))
    assert torch.equal(plan.counts[0], plan.valid[0, 0].long())


def test_one_view_fills_two_levels_and_reads_several_image_levels() -> None:
    view = SamplingView(in_channels=2, context_channels=3, out_channels={"main": 4, "near": 5}, num_view_levels=2)
    levels = tuple(torch.rand(1, 3, 2, height, 2 * height) for height in (8, 4))
    views = CameraViews(levels=levels, strides=(4, 8), cameras=make_cameras([[True] * 3]))
    result = view(views, NOTHING[None], GRIDS)
    assert {name: tuple(level.features.shape) for name, level in result.bev.items()} == {
        "main": (1, 4, 32, 40),
        "near": (1, 5, 64, 80),
    }
    sum(level.features.square().sum() for level in result.bev.values()).backward()
    assert all(parameter.grad.any() for parameter in view.parameters())


def test_a_grid_that_no_camera_sees_stays_empty() -> None:
    behind = {"main": Grid((-12.8, -6.4), (-3.2, 3.2), (-5.0, 3.0), (0.8, 0.8, 8.0))}
    cameras = make_cameras([[True]])  # it looks ahead
    views = CameraViews(levels=(torch.rand(1, 1, 12, 8, 16),), strides=(4,), cameras=cameras)
    for kind in KINDS[1:]:
        view = make_view(kind)
        level = view(views, NOTHING[None], behind).bev["main"]
        assert not level.validity.any()
        level.features.square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in view.parameters())


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="out_channels and heights_m must not be empty"):
        SamplingView(in_channels=2, context_channels=2, out_channels={})
    with pytest.raises(ValueError, match="num_heads must divide 6 channels"):
        DeformableView(in_channels=2, out_channels=2, channels=6, num_heads=4)
