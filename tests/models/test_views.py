"""Lift-splat: where a bright image cell lands, by hand-computed rays, for pinhole and fisheye; LiDAR as its referee."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.geometry.transforms import transform_points
from perception.models.losses.depth import DepthLoss, distance_bin
from perception.models.views.frustum import feature_rays, frustum_cells, lidar_distances
from perception.models.views.lift_splat import LiftSplat
from perception.structures import CameraImages, CameraViews, PointBatch
from tests.models.scenes import FORWARD, IMAGE_SIZE_PX, augmentation, make_batch, make_cameras, make_lidar

GRID = Grid.square(12.8, 0.4)
STRIDE = 4
FEATURE_SIZE = (IMAGE_SIZE_PX[0] // STRIDE, IMAGE_SIZE_PX[1] // STRIDE)
BIN_M = 0.5


def bright_view(bin_index: int) -> LiftSplat:
    """A view that lifts channel 0 unchanged to one distance bin."""
    view = LiftSplat(
        in_channels=1, context_channels=1, out_channels=1, distance_range_m=(2.0, 10.0), distance_step_m=BIN_M
    ).eval()
    (convolution, *_), last = view.lift
    with torch.no_grad():
        for layer in (convolution, view.refine[0]):
            layer.weight.zero_()
            layer.weight[0, 0, 1, 1] = 1.0
        last.weight.zero_()
        last.bias.zero_()
        last.bias[bin_index] = 100.0  # the softmax puts everything into this bin
        last.weight[view.num_bins, 0] = 1.0
    return view


def views_with_pixel(cameras: CameraImages, camera: int, row: int, column: int) -> CameraViews:
    batch_size, number = cameras.present.shape
    level = torch.zeros(batch_size, number, 1, *FEATURE_SIZE)
    level[0, camera, 0, row, column] = 1.0
    return CameraViews(levels=(level,), strides=(STRIDE,), cameras=cameras)


def ray_by_hand(camera_model: str, u: float, v: float) -> Tensor:
    """Unit ray of a pixel in the camera frame, from the definitions of the two models (no distortion)."""
    height, width = IMAGE_SIZE_PX
    x, y = u - (width - 1) / 2, v - (height - 1) / 2
    if camera_model == "pinhole":
        focal = width / 2
        ray = torch.tensor([x / focal, y / focal, 1.0], dtype=torch.float64)
        return ray / ray.norm()
    theta, around = math.hypot(x, y) / (width / math.pi), math.atan2(y, x)
    sine = math.sin(theta)
    return torch.tensor([sine * math.cos(around), sine * math.sin(around), math.cos(theta)], dtype=torch.float64)


@pytest.mark.parametrize("camera_model", ["pinhole", "kannala_brandt"])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize(("camera", "row", "column"), [(0, 4, 8), (1, 3, 2), (2, 5, 14)])
def test_a_bright_cell_lands_where_its_ray_leads(
    camera_model: str, augmented: bool, camera: int, row: int, column: int
) -> None:
    cameras = make_cameras([[True] * 3], camera_model)
    ego2aug = augmentation() if augmented else torch.eye(4, dtype=torch.float64)
    bin_index = 9
    distance = 2.0 + (bin_index + 0.5) * BIN_M
    result = bright_view(bin_index)(views_with_pixel(cameras, camera, row, column), ego2aug[None], {"main": GRID})

    u, v = (column + 0.5) * STRIDE - 0.5, (row + 0.5) * STRIDE - 0.5
    in_camera = ray_by_hand(camera_model, u, v) * distance
    in_ego = transform_points(cameras.camera2ego[0, camera], in_camera[None])
    x, y, _ = transform_points(ego2aug, in_ego)[0].tolist()
    cell = (math.floor((y + 12.8) / 0.4), math.floor((x + 12.8) / 0.4))
    bev = result.bev["main"]
    assert (bev.features[0, 0] > 1e-6).nonzero().tolist() == [list(cell)]
    assert bev.validity[0, 0, cell[0], cell[1]]


def test_image_augmentation_is_undone() -> None:
    # The picture mirrored and halved: the cell under the mirrored, halved pixel looks along the same ray.
    cameras = make_cameras([[True]])
    width = IMAGE_SIZE_PX[1]
    mirror = torch.tensor([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    mirrored = dataclasses.replace(cameras, image2aug=mirror.expand(1, 1, 3, 3).clone())
    rays, _ = feature_rays(cameras, FEATURE_SIZE)
    mirrored_rays, _ = feature_rays(mirrored, FEATURE_SIZE)
    torch.testing.assert_close(mirrored_rays, rays.flip(2))

    half = torch.tensor([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]], dtype=torch.float64)
    halved = dataclasses.replace(
        cameras,
        images=cameras.images[..., ::2, ::2],
        image2aug=half.expand(1, 1, 3, 3).clone(),
    )
    halved_rays, _ = feature_rays(halved, FEATURE_SIZE)
    torch.testing.assert_close(halved_rays, rays)


def test_pixels_outside_the_fisheye_circle_give_nothing() -> None:
    cameras = make_cameras([[True]], "kannala_brandt")
    tight = dataclasses.replace(cameras, distortion=torch.tensor([[[-0.2, 0.0, 0, 0]]], dtype=torch.float64))
    _, valid = feature_rays(tight, FEATURE_SIZE)
    assert not valid[0, 0, 0]
    assert valid[0, 4, 8]
    result = bright_view(9)(views_with_pixel(tight, 0, 0, 0), torch.eye(4, dtype=torch.float64)[None], {"main": GRID})
    assert not result.bev["main"].features.any()


def test_samples_with_different_cameras_share_one_pooling() -> None:
    cameras = make_cameras([[False] * 3, [True, False, True], [False, True, False]])
    level = torch.rand(3, 3, 1, *FEATURE_SIZE)
    view, moves = bright_view(5), torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    result = view(CameraViews(levels=(level,), strides=(STRIDE,), cameras=cameras), moves, {"main": GRID})
    assert result.present.tolist() == [False, True, True]
    assert not result.bev["main"].features[0].any()
    only_second = make_cameras([[True, False, True]])
    alone = view(CameraViews(levels=(level[1:2],), strides=(STRIDE,), cameras=only_second), moves[:1], {"main": GRID})
    torch.testing.assert_close(result.bev["main"].features[1:2], alone.bev["main"].features)
    assert torch.equal(result.bev["main"].validity[1:2], alone.bev["main"].validity)


@pytest.mark.parametrize("camera_model", ["pinhole", "kannala_brandt"])
def test_frustum_cells_are_those_of_the_points(camera_model: str) -> None:
    cameras = make_cameras([[False, True], [False, False], [True, True]], camera_model)
    moves = torch.stack((augmentation(0.3), torch.eye(4, dtype=torch.float64), augmentation(-2.0, 0.9, False)))
    distances = torch.arange(1.25, 16.0, 0.5)
    grid = Grid((-12.8, 12.8), (-9.6, 9.6), (-1.0, 3.0), (0.4, 0.8, 4.0))
    cells = frustum_cells(cameras, moves, FEATURE_SIZE, distances, grid)
    rays, valid = feature_rays(cameras, FEATURE_SIZE)
    for number, (sample, camera, row) in enumerate([(0, 1, 0), (2, 0, 1), (2, 1, 1)]):
        points = rays[number] * distances[:, None, None, None]  # (D, h, w, 3) in the camera frame
        points = transform_points(moves[sample] @ cameras.camera2ego[sample, camera], points)
        places, inside = grid.cells(points)
        expected = (row * grid.num_y + places[..., 1]) * grid.num_x + places[..., 2]
        expected = torch.where(inside & valid[number], expected, -1)
        assert (cells[number] >= 0).any()
        assert (cells[number] == expected).float().mean() > 0.999  # float32 may decide otherwise at a border


def test_a_plan_serves_every_picture_of_its_calibration() -> None:
    cameras = make_cameras([[True, False], [True, True]])
    moves = torch.stack((augmentation(), torch.eye(4, dtype=torch.float64)))
    view = LiftSplat(in_channels=3, context_channels=4, out_channels=5).eval()
    plan = view.plan(cameras, FEATURE_SIZE, moves, {"main": GRID})
    for _ in range(2):
        level = torch.rand(2, 2, 3, *FEATURE_SIZE)
        views = CameraViews(levels=(level,), strides=(STRIDE,), cameras=cameras)
        planned = view(views, moves, {"main": GRID}, plan.to("cpu"))
        worked_out = view(views, moves, {"main": GRID})
        assert torch.equal(planned.bev["main"].features, worked_out.bev["main"].features)
        assert torch.equal(planned.bev["main"].validity, worked_out.bev["main"].validity)
    fewer = dataclasses.replace(cameras, present=torch.tensor([[True, False], [True, False]]))
    with pytest.raises(ValueError, match="LiftSplat: plan must be of the cameras that are present"):
        view(CameraViews(levels=(level,), strides=(STRIDE,), cameras=fewer), moves, {"main": GRID}, plan)


def test_features_may_be_summed_in_finer_cells() -> None:
    cameras = make_cameras([[True] * 3])
    views = views_with_pixel(cameras, 0, 4, 8)
    fine = LiftSplat(in_channels=1, context_channels=2, out_channels=3, splat_stride=2).eval()
    coarse_grid = Grid.square(12.8, 0.8)
    plan = fine.plan(cameras, FEATURE_SIZE, torch.eye(4, dtype=torch.float64)[None], {"main": coarse_grid})
    assert plan.pool.shape == (64, 64)
    same = LiftSplat(in_channels=1, context_channels=2, out_channels=3).eval()
    expected = same.plan(cameras, FEATURE_SIZE, torch.eye(4, dtype=torch.float64)[None], {"main": coarse_grid})
    assert torch.equal(plan.validity, expected.validity)
    level = fine(views, torch.eye(4, dtype=torch.float64)[None], {"main": coarse_grid}).bev["main"]
    assert level.features.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("camera_model", ["pinhole", "kannala_brandt"])
def test_lidar_points_are_seen_at_their_distance(camera_model: str) -> None:
    cameras = make_cameras([[False, False], [True, True]], camera_model)
    row, column = 3, 11
    ray = ray_by_hand(camera_model, (column + 0.5) * STRIDE - 0.5, (row + 0.5) * STRIDE - 0.5)
    in_camera = torch.stack((ray * 7.25, ray * 4.5, -ray * 3.0))  # the third lies behind
    in_ego = transform_points(cameras.camera2ego[1, 1], in_camera)
    points = torch.cat((in_ego.float(), torch.zeros(3, 2)), dim=1)
    lidar = PointBatch(
        points=points,
        batch_index=torch.ones(3, dtype=torch.long),
        present=torch.tensor([True, True]),
        sensor2ego=torch.eye(4, dtype=torch.float64).repeat(2, 1, 1),
        fields=("intensity", "time_lag_s"),
    )
    seen = lidar_distances(cameras, lidar, FEATURE_SIZE)
    assert seen.shape == (2, *FEATURE_SIZE)
    assert seen[1, row, column].item() == pytest.approx(4.5, abs=1e-4)
    assert seen[1].isfinite().sum() == 1
    absent = dataclasses.replace(lidar, present=torch.tensor([True, False]))  # what lies in its place is not read
    assert not lidar_distances(cameras, absent, FEATURE_SIZE).isfinite().any()


def test_a_feature_cell_begins_half_a_pixel_before_its_first_pixel() -> None:
    cameras = make_cameras([[True]])
    rays = torch.stack(
        [ray_by_hand("pinhole", 8 * STRIDE - 0.5 + side, 4 * STRIDE - 0.5 + side) for side in (-0.1, 0.1)]
    )
    in_ego = transform_points(cameras.camera2ego[0, 0], rays * 3.0)
    lidar = dataclasses.replace(make_lidar([2]), points=torch.cat((in_ego.float(), torch.zeros(2, 2)), dim=1))
    seen = lidar_distances(cameras, lidar, FEATURE_SIZE)
    assert seen[0].isfinite().nonzero().tolist() == [[3, 7], [4, 8]]


def test_distance_bins_hold_their_lower_edge() -> None:
    edges = torch.tensor([1.0, 2.0, 3.0])
    distances = torch.tensor([0.99, 1.0, 1.99, 2.0, 3.0, math.inf])
    assert distance_bin(distances, edges).tolist() == [-1, 0, 0, 1, -1, -1]


def test_depth_loss_is_the_cross_entropy_at_the_points() -> None:
    cameras = make_cameras([[True]])
    ray = ray_by_hand("pinhole", 8.5 * STRIDE - 0.5, 4.5 * STRIDE - 0.5)
    in_ego = transform_points(cameras.camera2ego[0, 0], (ray * 3.5)[None])
    lidar = dataclasses.replace(make_lidar([1]), points=torch.cat((in_ego.float(), torch.zeros(1, 2)), dim=1))
    logits = torch.randn(1, 4, *FEATURE_SIZE, requires_grad=True)
    aux = {"camera/depth_logits": logits, "camera/depth_edges_m": torch.arange(1.0, 6.0)}
    loss = DepthLoss(weight=2.0)(aux, make_batch(cameras, lidar, [None]))
    torch.testing.assert_close(loss, -2.0 * logits[0, :, 4, 8].log_softmax(0)[2])
    without = DepthLoss()(aux, make_batch(cameras, make_lidar([0]), [None]))
    assert without == 0
    assert DepthLoss()({}, make_batch(None, lidar, [None])) == 0


def test_bins_must_fill_the_range() -> None:
    with pytest.raises(ValueError, match=r"must rise and hold a whole number of bins of 0.7 m, got \(1.0, 5.0\)"):
        LiftSplat(in_channels=1, context_channels=1, out_channels=1, distance_range_m=(1.0, 5.0), distance_step_m=0.7)


def test_the_camera_frame_of_the_scenes_looks_forward() -> None:
    assert (FORWARD @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).tolist() == [1, 0, 0]
