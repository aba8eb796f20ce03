"""Structures refuse what does not fit, and move as a whole."""

import dataclasses
from typing import Any

import pytest
import torch

from perception.geometry.grid import Grid
from perception.structures import (
    Batch,
    BevMap,
    Boxes3D,
    CameraImages,
    Detections,
    EchoBatch,
    NearField,
    PointBatch,
    PointCloud,
    Sample,
    UltrasonicEchoes,
)
from perception.structures.tensors import map_tensors

EYE = torch.eye(4, dtype=torch.float64)


def camera_fields(num: int = 2, batch: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "names": tuple(f"CAM_{i}" for i in range(num)),
        "camera_model": "pinhole",
        "images": torch.zeros(*batch, num, 3, 4, 6, dtype=torch.uint8),
        "intrinsics": torch.zeros(*batch, num, 3, 3),
        "distortion": torch.zeros(*batch, num, 4),
        "camera2ego": torch.zeros(*batch, num, 4, 4),
        "image2aug": torch.zeros(*batch, num, 3, 3),
        "present": torch.ones(*batch, num, dtype=torch.bool),
    }


def make_batch(size: int = 2) -> Batch:
    lidar = PointBatch(
        points=torch.zeros(5, 5),
        batch_index=torch.zeros(5, dtype=torch.long),
        present=torch.ones(size, dtype=torch.bool),
        sensor2ego=EYE.expand(size, 4, 4),
        fields=("intensity", "time_lag_s"),
    )
    return Batch(
        tokens=tuple(f"t{i}" for i in range(size)),
        scenes=("s",) * size,
        timestamps_us=torch.zeros(size, dtype=torch.long),
        ego2global=EYE.expand(size, 4, 4),
        ego2aug=EYE.expand(size, 4, 4),
        cameras={"surround": CameraImages(**camera_fields(batch=(size,)))},
        lidar=lidar,
        boxes=(None,) * size,
    )


def test_camera_images_of_a_sample_and_of_a_batch() -> None:
    assert CameraImages(**camera_fields()).image_size_px == (4, 6)
    assert CameraImages(**camera_fields(batch=(3,))).images.shape == (3, 2, 3, 4, 6)


@pytest.mark.parametrize(
    ("field", "shape", "message"),
    [
        ("intrinsics", (3, 3, 3), r"CameraImages: intrinsics must be \(N, 3, 3\) with N = 2.*got \(3, 3, 3\)"),
        ("images", (2, 1, 4, 6), r"images must be \(N, 3, H, W\)"),
        ("distortion", (2, 5), r"distortion must be \(N, 4\)"),
        ("present", (2, 1), r"present must be \(N\)"),
    ],
)
def test_camera_images_name_the_field_that_does_not_fit(field: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraImages(**{**camera_fields(), field: torch.zeros(shape)})


def test_a_field_that_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="CameraImages: images must be a tensor, got list"):
        CameraImages(**{**camera_fields(), "images": [[1]]})


def test_points_have_as_many_columns_as_fields_say() -> None:
    with pytest.raises(ValueError, match=r"PointCloud: points must be \(P, F\) with F = 4.*got \(7, 5\)"):
        PointCloud(points=torch.zeros(7, 5), fields=("intensity",), sensor2ego=EYE)
    assert PointCloud(points=torch.zeros(0, 3), fields=(), sensor2ego=EYE).points.shape == (0, 3)


def test_boxes_share_one_count() -> None:
    with pytest.raises(ValueError, match=r"Boxes3D: labels must be \(M\) with M = 1, got \(2\,?\)"):
        Boxes3D(
            boxes=torch.zeros(1, 9),
            labels=torch.zeros(2, dtype=torch.long),
            num_lidar_points=torch.zeros(1, dtype=torch.long),
            tokens=("a",),
        )
    with pytest.raises(ValueError, match="Detections: scores must be"):
        Detections(boxes=torch.zeros(1, 9), scores=torch.zeros(2), labels=torch.zeros(1, dtype=torch.long))


def test_a_sample_may_have_no_sensor_and_no_annotation() -> None:
    sample = Sample(token="t", scene="s", timestamp_us=1, ego2global=EYE)
    assert sample.lidar is None and sample.boxes is None and not sample.cameras
    assert torch.equal(sample.ego2aug, EYE)
    with pytest.raises(ValueError, match=r"Sample: ego2global must be \(4, 4\)"):
        Sample(token="t", scene="s", timestamp_us=1, ego2global=torch.eye(3))


def test_a_bev_map_fits_its_grid() -> None:
    grid = Grid((-2.0, 2.0), (-1.0, 1.0), (-1.0, 1.0), (1.0, 1.0, 2.0))
    BevMap(features=torch.zeros(1, 8, 2, 4), validity=torch.zeros(1, 1, 2, 4), grid=grid)
    with pytest.raises(
        ValueError, match=r"BevMap: features must be \(B, C, Y, X\) with Y = 2, X = 4.*got \(1, 8, 4, 2\)"
    ):
        BevMap(features=torch.zeros(1, 8, 4, 2), validity=torch.zeros(1, 1, 4, 2), grid=grid)


def test_a_batch_moves_every_tensor_and_leaves_the_original() -> None:
    batch = make_batch()
    moved = batch.to("meta")
    assert moved.lidar is not None and moved.lidar.points.device.type == "meta"
    assert moved.cameras["surround"].images.device.type == "meta"
    assert moved.device.type == "meta" and batch.device.type == "cpu"
    assert moved.tokens == batch.tokens and len(moved) == 2


def test_a_batch_wants_one_entry_per_sample() -> None:
    with pytest.raises(ValueError, match="boxes and scenes must have 2 entries, got 1 and 2"):
        dataclasses.replace(make_batch(), boxes=(None,))


def test_tensors_are_mapped_inside_tuples_and_mappings() -> None:
    doubled = map_tensors({"a": (torch.ones(1), "text"), "b": torch.ones(2)}, lambda t: t * 2)
    assert doubled["a"][0].item() == 2 and doubled["a"][1] == "text" and doubled["b"].sum() == 4


def echo_fields(count: int = 4) -> dict[str, torch.Tensor]:
    lengths = {name: torch.zeros(count) for name in ("distance_m", "beam_rad", "sigma_m", "level", "age_s")}
    codes = {name: torch.zeros(count, dtype=torch.long) for name in ("kind", "state", "sensor")}
    return {"sender": torch.zeros(count, 3), "receiver": torch.zeros(count, 3), **lengths, **codes}


@pytest.mark.parametrize(
    ("field", "shape", "message"),
    [
        ("receiver", (4, 2), r"UltrasonicEchoes: receiver must be \(E, 3\) with E = 4, got \(4, 2\)"),
        ("level", (3,), r"level must be \(E\) with E = 4, got \(3,\)"),
        ("sent_by", (5,), r"sent_by must be \(E\) with E = 4, got \(5,\)"),
    ],
)
def test_echoes_name_the_field_that_does_not_fit(field: str, shape: tuple[int, ...], message: str) -> None:
    assert len(UltrasonicEchoes(**echo_fields())) == 4
    with pytest.raises(ValueError, match=message):
        UltrasonicEchoes(**{**echo_fields(), field: torch.zeros(shape)})


def test_echoes_of_a_batch_belong_to_samples() -> None:
    index, present = torch.zeros(4, dtype=torch.long), torch.tensor([True, False])
    echoes = EchoBatch(**echo_fields(), batch_index=index, present=present)
    batch = dataclasses.replace(make_batch(), ultrasonic=echoes)
    assert batch.ultrasonic is not None and batch.to("meta").ultrasonic.batch_index.device.type == "meta"
    assert batch.near_field == (None, None)
    with pytest.raises(ValueError, match=r"EchoBatch: batch_index must be \(E\) with E = 4"):
        EchoBatch(**echo_fields(), batch_index=index[:3], present=present)
    with pytest.raises(ValueError, match=r"Batch: ultrasonic.present must be \(3\), got \(2,\)"):
        dataclasses.replace(make_batch(3), ultrasonic=echoes)
    with pytest.raises(ValueError, match="Batch: near_field must have 2 entries, got 1"):
        dataclasses.replace(make_batch(), near_field=(None,))


def test_near_field_truth_fits_its_grid() -> None:
    grid = Grid.square(1.0, 0.5)
    assert NearField(cells=torch.zeros(4, 4, dtype=torch.uint8), grid=grid).grid is grid
    with pytest.raises(ValueError, match=r"NearField: cells must be \(Y, X\) with Y = 4, X = 4, got \(4, 5\)"):
        NearField(cells=torch.zeros(4, 5, dtype=torch.uint8), grid=grid)


def test_optional_tensors_are_checked_where_they_are_given() -> None:
    with pytest.raises(ValueError, match=r"theta_max_rad must be \(N\) with N = 2"):
        CameraImages(**camera_fields(), theta_max_rad=torch.zeros(3))
    assert CameraImages(**camera_fields(batch=(3,)), theta_max_rad=torch.zeros(3, 2)).theta_max_rad is not None
    with pytest.raises(ValueError, match=r"PointCloud: sensor must be \(P\)"):
        PointCloud(points=torch.zeros(5, 3), fields=(), sensor2ego=EYE, sensor=torch.zeros(4))
