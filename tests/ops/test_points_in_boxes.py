import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import perception.ops.points_in_boxes as module
from perception.geometry.transforms import rigid_from_quaternion, transform_points
from perception.ops.points_in_boxes import (
    count_points_in_boxes,
    count_points_in_boxes_reference,
    points_in_boxes,
    points_in_boxes_reference,
)

REAL_DATA = os.environ.get("PERCEPTION_REAL_DATA")


def random_case(generator, device, num_points=3000, num_boxes=20, columns=9):
    points = (torch.rand(num_points, 5, generator=generator) * 12 - 6).to(device)
    boxes = torch.rand(num_boxes, columns, generator=generator) * 6 - 3
    boxes[:, :3] *= 2
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 1
    return points, boxes.to(device)


def test_known_values(device):
    boxes = torch.tensor(
        [[0, 0, 0, 4, 2, 2, 0], [10, 0, 0, 4, 2, 2, math.pi / 2], [0, 0, 0, 20, 20, 20, 0]],
        dtype=torch.float64,
        device=device,
    )
    points = torch.tensor(
        [[0, 0, 0], [2, 1, 1], [2.001, 0, 0], [10, 2, 0], [12, 0, 0], [0, 0, 10.001]],
        dtype=torch.float64,
        device=device,
    )
    assert points_in_boxes(points, boxes).tolist() == [0, 0, 2, 1, -1, -1]
    assert points_in_boxes(points, boxes[:2]).tolist() == [0, 0, -1, 1, -1, -1]
    assert count_points_in_boxes(points, boxes).tolist() == [2, 1, 4]


@pytest.mark.parametrize("columns", [7, 9])
def test_matches_the_devkit(generator, columns):
    data_classes = pytest.importorskip("nuscenes.utils.data_classes", reason="the nuscenes extra is not installed")
    geometry = pytest.importorskip("nuscenes.utils.geometry_utils")
    quaternion = pytest.importorskip("pyquaternion")
    points, boxes = random_case(generator, "cpu", columns=columns)
    held = np.stack(
        [
            geometry.points_in_box(
                data_classes.Box(box[:3], box[[4, 3, 5]], quaternion.Quaternion(axis=[0, 0, 1], radians=box[6])),
                points[:, :3].double().numpy().T,
            )
            for box in boxes.double().numpy()
        ],
        axis=1,
    )  # (P, M)
    assert held.sum() > 100
    assert count_points_in_boxes(points, boxes).tolist() == held.sum(0).tolist()
    assert points_in_boxes(points, boxes).tolist() == np.where(held.any(1), held.argmax(1), -1).tolist()


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float32, torch.float64)])
@pytest.mark.parametrize(("num_points", "num_boxes"), [(1, 1), (127, 3), (3000, 70), (2001, 1)])
def test_matches_reference(device, generator, dtypes, num_points, num_boxes):
    points, boxes = random_case(generator, device, num_points, num_boxes)
    points[::7, 1], boxes[::9, 4] = math.nan, math.inf
    case = points.to(dtypes[0]), boxes.to(dtypes[1])
    assert torch.equal(points_in_boxes(*case), points_in_boxes_reference(*case))
    assert torch.equal(count_points_in_boxes(*case), count_points_in_boxes_reference(*case))


def test_boxes_of_very_different_sizes_match_reference(device, generator):
    points, boxes = random_case(generator, device, 4000, 90)
    points *= 10 ** (torch.rand(4000, 1, generator=generator) * 4 - 2).to(device)
    boxes[:, :6] *= 10 ** (torch.rand(90, 1, generator=generator) * 5 - 3).to(device)
    boxes[3, 4], boxes[4, 3:5], boxes[5, :2] = -2.0, 0.0, 1e6  # holds nothing, holds a line, far away
    first = points_in_boxes(points, boxes)
    assert len(first.unique()) > 20
    assert torch.equal(first, points_in_boxes_reference(points, boxes))
    assert torch.equal(count_points_in_boxes(points, boxes), count_points_in_boxes_reference(points, boxes))


def test_chunks_do_not_matter(device, generator, monkeypatch):
    points, boxes = random_case(generator, device)
    expected = points_in_boxes_reference(points, boxes), count_points_in_boxes_reference(points, boxes)
    monkeypatch.setattr(module, "_PAIRS_PER_CHUNK", 130)  # six points at a time
    assert torch.equal(points_in_boxes_reference(points, boxes), expected[0])
    assert torch.equal(count_points_in_boxes_reference(points, boxes), expected[1])


def test_same_counts_on_any_number_of_threads(generator, on_threads):
    points, boxes = random_case(generator, "cpu", 20_000, 60)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append((points_in_boxes(points, boxes).tolist(), count_points_in_boxes(points, boxes).tolist()))
    assert results[0] == results[1] == results[2]


numbers = st.one_of(st.floats(-3, 3, width=32), st.floats(width=32))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(numbers, min_size=3, max_size=3), max_size=5),
    st.lists(st.lists(numbers, min_size=7, max_size=7), max_size=5),
)
def test_any_numbers_give_what_the_reference_gives(points, boxes):
    case = torch.tensor(points).reshape(-1, 3), torch.tensor(boxes).reshape(-1, 7)
    assert torch.equal(points_in_boxes(*case), points_in_boxes_reference(*case))
    assert torch.equal(count_points_in_boxes(*case), count_points_in_boxes_reference(*case))


@pytest.mark.parametrize("op", ["points_in_boxes", "count_points_in_boxes"])
def test_opcheck(kernel_device, generator, op):
    points, boxes = random_case(generator, kernel_device, 50, 4)
    torch.library.opcheck(getattr(torch.ops.perception, op).default, (points, boxes))


@pytest.mark.parametrize("name", ["points_in_boxes", "count_points_in_boxes"])
def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device, name):
    op = getattr(torch.ops.perception, name)
    points, boxes = torch.zeros(3, 3, device=kernel_device), torch.zeros(2, 7, device=kernel_device)
    with pytest.raises(RuntimeError, match=r"points must be \(P, 3\+\) and boxes \(M, 7\+\), got \(3, 2\) Float"):
        op(points[:, :2], boxes)
    with pytest.raises(RuntimeError, match=r"points_in_boxes: points must be float32 or float64, got \(3, 3\) Half"):
        op(points.half(), boxes)


@pytest.mark.parametrize(("num_points", "num_boxes"), [(0, 3), (3, 0), (0, 0)])
def test_empty_inputs(device, generator, num_points, num_boxes):
    points, boxes = random_case(generator, device, num_points, num_boxes)
    assert points_in_boxes(points, boxes).tolist() == [-1] * num_points
    assert count_points_in_boxes(points, boxes).tolist() == [0] * num_boxes


def test_nan_is_in_no_box(device, generator):
    points, boxes = random_case(generator, device, num_points=2, num_boxes=2)
    points[0, :3], boxes[0, :3] = math.nan, math.nan
    points[1, :3] = boxes[1, :3]
    assert points_in_boxes(points, boxes).tolist() == [-1, 1]
    assert count_points_in_boxes(points, boxes).tolist() == [0, 1]


def test_takes_strided_views_and_leaves_inputs_alone(device, generator):
    points, boxes = random_case(generator, device)
    before = points.clone(), boxes.clone()
    copies = points[::2].clone(), boxes[::3].clone()
    assert torch.equal(points_in_boxes(points[::2], boxes[::3]), points_in_boxes(*copies))
    assert torch.equal(points, before[0])
    assert torch.equal(boxes, before[1])


@pytest.mark.parametrize("function", [points_in_boxes, count_points_in_boxes])
def test_rejects_wrong_arguments(function):
    name = function.__name__
    with pytest.raises(ValueError, match=rf"{name}: points must be \(P, 3\+\) .*, got \(4, 2\) float32"):
        function(torch.zeros(4, 2), torch.zeros(2, 7))
    with pytest.raises(ValueError, match=rf"{name}: boxes must be \(M, 7\) or \(M, 9\), got \(2, 8\)"):
        function(torch.zeros(4, 3), torch.zeros(2, 8))
    with pytest.raises(TypeError, match=f"{name}: boxes must be a tensor, got ndarray"):
        function(torch.zeros(4, 3), np.zeros((2, 7)))


@pytest.mark.skipif(not REAL_DATA, reason="PERCEPTION_REAL_DATA is not set")
def test_counts_of_recorded_frames_are_the_annotators(device):
    root = Path(REAL_DATA, "nuscenes")
    names = ("sample_data", "sample_annotation", "ego_pose", "calibrated_sensor")
    frames, annotations, poses, sensors = (json.loads((root / "v1.0-mini" / f"{n}.json").read_text()) for n in names)
    matrix = {
        record["token"]: rigid_from_quaternion(
            *(torch.tensor(record[k], dtype=torch.float64) for k in ("translation", "rotation"))
        )
        for record in (*poses, *sensors)
    }
    num_boxes = 0
    for frame in (f for f in frames if "LIDAR_TOP" in f["filename"]):
        points = torch.from_numpy(np.fromfile(root / frame["filename"], np.float32).reshape(-1, 5)[:, :3])
        sensor2global = matrix[frame["ego_pose_token"]] @ matrix[frame["calibrated_sensor_token"]]
        own = [a for a in annotations if a["sample_token"] == frame["sample_token"]]
        rows = [[*a["translation"], *(a["size"][i] for i in (1, 0, 2)), yaw_of(a["rotation"])] for a in own]
        boxes = torch.tensor(rows, dtype=torch.float64)
        counts = count_points_in_boxes(transform_points(sensor2global, points.double()).to(device), boxes.to(device))
        assert counts.tolist() == [a["num_lidar_pts"] for a in own]
        num_boxes += len(own)
    assert num_boxes == 230


def yaw_of(rotation_wxyz):
    w, x, y, z = rotation_wxyz
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
