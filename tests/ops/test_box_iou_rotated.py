import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.geometry.boxes import box_corners
from perception.ops.box_iou_rotated import (
    box_iou_3d,
    box_iou_3d_reference,
    box_iou_rotated,
    box_iou_rotated_reference,
)

PAIRS = [(box_iou_rotated, box_iou_rotated_reference), (box_iou_3d, box_iou_3d_reference)]
FUNCTIONS = [function for pair in PAIRS for function in pair]


def random_boxes(generator, count, dtype=torch.float64, half_m=6.0, columns=9):
    """Boxes of which many overlap, some share a heading, and some are turned by whole right angles."""
    boxes = torch.rand(count, columns, generator=generator, dtype=torch.float64)
    boxes[:, :3] = (2 * boxes[:, :3] - 1) * half_m
    boxes[:, 3:6] = 0.5 + 5 * boxes[:, 3:6]
    boxes[:, 6] = (2 * boxes[:, 6] - 1) * math.pi
    boxes[::4, 6] = (boxes[::4, 6] / (math.pi / 2)).round() * (math.pi / 2)
    boxes[1::4, 6] = 0.3
    return boxes.to(dtype)


def box(x=0.0, y=0.0, z=0.0, length=4.0, width=2.0, height=2.0, yaw=0.0):
    return [x, y, z, length, width, height, yaw]


@pytest.mark.parametrize("function", [box_iou_rotated, box_iou_rotated_reference])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_known_footprints(device, function, dtype):
    others = torch.tensor(
        [
            box(),  # itself
            box(yaw=math.pi),  # turned round
            box(x=2.0),  # half of it
            box(yaw=math.pi / 2),  # a cross: 4 of 8 + 8 - 4
            box(x=4.0),  # shares an edge
            box(x=4.0, y=2.0),  # shares a corner
            box(length=2.0, width=1.0, yaw=math.pi / 2),  # inside
            box(z=100.0, height=0.1),  # height does not matter
            box(length=2.0 * math.sqrt(2), width=2.0 * math.sqrt(2), yaw=math.pi / 4),  # a diamond, corners cut off
        ],
        dtype=dtype,
        device=device,
    )
    iou = function(torch.tensor([box()], dtype=dtype, device=device), others)
    expected = [[1, 1, 1 / 3, 1 / 3, 0, 0, 0.25, 1, 6 / 10]]
    torch.testing.assert_close(iou.cpu(), torch.tensor(expected, dtype=dtype), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", [box_iou_3d, box_iou_3d_reference])
def test_known_volumes(device, function):
    others = torch.tensor([box(), box(z=1.0), box(z=2.0), box(x=2.0, z=1.0), box(height=1.0)], device=device)
    iou = function(torch.tensor([box()], device=device), others)
    torch.testing.assert_close(iou.cpu(), torch.tensor([[1, 1 / 3, 0, 4 / 28, 0.5]]))


@pytest.mark.parametrize(("function", "reference"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matches_reference(device, generator, function, reference, dtype):
    a, b = (random_boxes(generator, count, dtype).to(device) for count in (70, 131))
    actual, expected = function(a, b), reference(a, b)
    assert actual.dtype == dtype
    assert (expected > 0.05).sum() > 200
    reduced = {"rtol": 0, "atol": 2e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(actual, expected, **reduced)


def test_matches_shapely(generator):
    shapely = pytest.importorskip("shapely", reason="shapely comes with the nuscenes extra")
    boxes = random_boxes(generator, 60)
    polygons = [shapely.Polygon(corners[:4, :2].tolist()) for corners in box_corners(boxes)]
    expected = boxes.new_tensor([[p.intersection(q).area / p.union(q).area for q in polygons] for p in polygons])
    iou = box_iou_rotated(boxes, boxes)
    torch.testing.assert_close(iou, expected, rtol=0, atol=1e-9)
    assert torch.equal(iou > 1e-9, expected > 1e-9)
    assert not iou[expected == 0].any()
    torch.testing.assert_close(box_iou_rotated(boxes.float(), boxes.float()), expected.float(), rtol=0, atol=3e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_box_is_itself_at_every_heading_and_place(device, function):
    boxes = torch.tensor(box(x=1000.0, y=-2000.0)).repeat(200, 1)
    boxes[:, 6] = torch.linspace(-4, 4, 200)
    iou = function(boxes.to(device), boxes.to(device)).diagonal()
    torch.testing.assert_close(iou, torch.ones_like(iou), rtol=0, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_overlaps_nothing(device, function, column, bad):
    boxes = torch.tensor([box(), box()], device=device)
    boxes[0, column] = bad
    assert function(boxes, boxes).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("size", [{"length": 0.0}, {"width": -2.0}, {"length": -4.0, "width": -2.0}])
def test_what_has_no_size_overlaps_nothing(device, function, size):
    boxes = torch.tensor([box(**size), box()], device=device)
    assert function(boxes, boxes).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("num_a", "num_b"), [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(device, generator, function, num_a, num_b):
    iou = function(random_boxes(generator, num_a).to(device), random_boxes(generator, num_b).to(device))
    assert iou.shape == (num_a, num_b)


@pytest.mark.parametrize("function", [box_iou_rotated, box_iou_3d])
def test_takes_strided_views_and_leaves_inputs_alone(device, generator, function):
    boxes = random_boxes(generator, 90).to(device)
    before = boxes.clone()
    assert torch.equal(function(boxes[::2], boxes[1::3]), function(boxes[::2].clone(), boxes[1::3].clone()))
    assert torch.equal(function(boxes[:, :7], boxes), function(boxes, boxes))
    assert torch.equal(boxes, before)


def test_same_bits_on_any_number_of_threads(generator, on_threads):
    boxes = random_boxes(generator, 400, torch.float32)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append(box_iou_rotated(boxes, boxes))
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_autocast_computes_in_float32(device, generator, function):
    boxes = random_boxes(generator, 20, torch.bfloat16).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        iou = function(boxes, boxes)
    assert iou.dtype == torch.float32
    torch.testing.assert_close(iou, function(boxes.float(), boxes.float()))


coordinates = st.floats(-1e3, 1e3, width=32)
numbers = st.one_of(coordinates, st.floats(width=32), st.sampled_from([0.0, 1.0, math.pi / 2, 1e-20, 1e18]))
rows = st.lists(st.lists(numbers, min_size=7, max_size=7), max_size=4)


@settings(max_examples=200, deadline=None)
@given(rows, rows, st.sampled_from([torch.float32, torch.float64]))
def test_any_numbers_give_an_overlap_within_bounds(a, b, dtype):
    first, second = (torch.tensor(boxes, dtype=dtype).reshape(-1, 7) for boxes in (a, b))
    for function in FUNCTIONS:
        iou = function(first, second)
        assert iou.shape == (len(a), len(b))
        assert ((iou >= 0) & (iou <= 1)).all()


@settings(max_examples=100, deadline=None)
@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(-4, 4), st.floats(0.1, 9), st.floats(0.1, 9))
def test_order_and_common_motion_do_not_matter(x, y, yaw, length, width):
    a = torch.tensor([box(yaw=0.7)], dtype=torch.float64)
    b = torch.tensor([box(x=x, y=y, length=length, width=width, yaw=yaw)], dtype=torch.float64)
    iou = box_iou_rotated(a, b)
    turn = torch.tensor([[math.cos(1.1), math.sin(1.1)], [-math.sin(1.1), math.cos(1.1)]], dtype=torch.float64)
    moved = [torch.cat((boxes[:, :2] @ turn + 5, boxes[:, 2:6], boxes[:, 6:] + 1.1), 1) for boxes in (a, b)]
    torch.testing.assert_close(box_iou_rotated(b, a), iou, rtol=0, atol=1e-9)
    torch.testing.assert_close(box_iou_rotated(*moved), iou, rtol=0, atol=1e-9)


@pytest.mark.parametrize("function", [box_iou_rotated, box_iou_3d])
def test_rejects_wrong_arguments(function):
    name, boxes = function.__name__, torch.zeros(3, 7)
    with pytest.raises(ValueError, match=rf"{name}: boxes_a must be \(M, 7\+\) float32 .*, got \(3, 5\) float32"):
        function(boxes[:, :5], boxes)
    with pytest.raises(ValueError, match=rf"{name}: boxes_b must be \(M, 7\) or \(M, 9\), got \(3, 8\)"):
        function(boxes, torch.zeros(3, 8))
    with pytest.raises(ValueError, match=rf"{name}: boxes_b must be .*, got \(3, 7\) int64"):
        function(boxes, boxes.long())
    with pytest.raises(TypeError, match=f"{name}: boxes_a must be a tensor, got list"):
        function([], boxes)
    with pytest.raises(ValueError, match=f"{name}: boxes_a, boxes_b must be on one device, got cpu, meta"):
        function(boxes, boxes.to("meta"))


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device):
    op = torch.ops.perception.box_iou_rotated
    boxes = torch.zeros(3, 7, device=kernel_device)
    with pytest.raises(RuntimeError, match=r"box_iou_rotated: boxes_a must be \(M, 7\+\), got \(3, 6\) Float"):
        op(boxes[:, :6], boxes, False)
    with pytest.raises(RuntimeError, match=r"box_iou_rotated: boxes_b must be \(any, 7\), got \(3, 6\) Float"):
        op(boxes, boxes[:, :6], False)
    with pytest.raises(RuntimeError, match="box_iou_rotated: boxes_b must have the dtype of the first argument"):
        op(boxes, boxes.double(), False)


@pytest.mark.parametrize("volume", [False, True])
def test_opcheck(kernel_device, generator, volume):
    a, b = (random_boxes(generator, count).to(kernel_device) for count in (4, 6))
    torch.library.opcheck(torch.ops.perception.box_iou_rotated.default, (a, b, volume))
