import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.ops.box_iou_rotated import box_iou_rotated
from perception.ops.nms_rotated import nms_rotated, nms_rotated_reference


def random_case(generator, device, count=300, half_m=20.0, dtype=torch.float32):
    boxes = torch.rand(count, 9, generator=generator, dtype=torch.float64)
    boxes[:, :2] = (2 * boxes[:, :2] - 1) * half_m
    boxes[:, 3:6] = 1 + 4 * boxes[:, 3:6]
    boxes[:, 6] = (2 * boxes[:, 6] - 1) * math.pi
    scores = (torch.rand(count, generator=generator) * 40).round()  # many ties
    return boxes.to(device, dtype), scores.to(device)


def greedy(boxes, scores, iou_threshold):
    """The definition, box by box."""
    iou = box_iou_rotated(boxes, boxes).tolist()
    kept = []
    for row in sorted(range(len(scores)), key=lambda i: -scores[i].item()):
        if all(iou[other][row] <= iou_threshold for other in kept):
            kept.append(row)
    return kept


def test_known_values(device):
    boxes = torch.tensor([[0, 0, 0, 4, 2, 2, 0], [1, 0, 9, 4, 2, 2, 0], [9, 0, 0, 4, 2, 2, 0.5]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.1], device=device)  # the first two share 6 of 10
    assert nms_rotated(boxes, scores, 0.59).tolist() == [1, 2]
    assert nms_rotated(boxes, scores, 0.61).tolist() == [1, 0, 2]


@pytest.mark.parametrize("iou_threshold", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("half_m", [6.0, 60.0])
def test_matches_the_definition(device, generator, iou_threshold, half_m):
    boxes, scores = random_case(generator, device, 700, half_m)  # more than are settled together
    assert nms_rotated(boxes, scores, iou_threshold).tolist() == greedy(boxes, scores, iou_threshold)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matches_reference(device, generator, dtype):
    boxes, _ = random_case(generator, device, 70, 8.0, dtype)
    kept = nms_rotated(boxes, torch.arange(70, 0, -1.0, device=device), 0.1)
    assert kept.tolist() == nms_rotated_reference(boxes[:, :7], 0.1).nonzero()[:, 0].tolist()


def test_what_is_kept_does_not_overlap_and_the_rest_does(device, generator):
    boxes, scores = random_case(generator, device)
    kept = nms_rotated(boxes, scores, 0.3)
    iou = box_iou_rotated(boxes, boxes)
    assert (iou[kept][:, kept].fill_diagonal_(0) <= 0.3).all()
    dropped = sorted(set(range(300)) - set(kept.tolist()))
    assert (iou[kept][:, dropped] > 0.3).any(0).all()


@pytest.mark.parametrize("column", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_survives(device, column, bad):
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0]] * 2, device=device)
    boxes[0, column] = bad
    assert nms_rotated(boxes, torch.tensor([0.9, 0.1], device=device), 0.5).tolist() == [1]


def test_height_and_velocity_may_be_unknown(device):
    boxes = torch.tensor([[0.0, 0, math.nan, 4, 2, math.nan, 0, math.nan, math.nan]] * 2, device=device)
    assert nms_rotated(boxes, torch.tensor([0.1, 0.9], device=device), 0.5).tolist() == [1]


def test_boxes_without_size_and_nan_scores_never_survive(device):
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0]] * 4, device=device)
    boxes[0, 3], boxes[1, 4] = 0, -2
    scores = torch.tensor([0.9, 0.8, math.nan, -math.inf], device=device)
    assert nms_rotated(boxes, scores, 0.5).tolist() == [3]


def test_no_box_gives_no_row(device):
    kept = nms_rotated(torch.zeros(0, 7, device=device), torch.zeros(0, device=device), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_takes_strided_views_and_leaves_inputs_alone(device, generator):
    boxes, scores = random_case(generator, device)
    before = boxes.clone(), scores.clone()
    assert torch.equal(nms_rotated(boxes[::2], scores[::2], 0.2), nms_rotated(*(t[::2].clone() for t in before), 0.2))
    assert torch.equal(boxes, before[0])
    assert torch.equal(scores, before[1])


def test_same_rows_on_any_number_of_threads(generator, on_threads):
    boxes, scores = random_case(generator, "cpu", 3000, 50.0)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append(nms_rotated(boxes, scores, 0.1).tolist())
    assert results[0] == results[1] == results[2]


numbers = st.one_of(st.floats(-5, 5, width=32), st.floats(width=32))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(numbers, min_size=8, max_size=8), max_size=6), st.floats(0, 1))
def test_any_numbers_give_rows_in_falling_order(rows, iou_threshold):
    table = torch.tensor(rows).reshape(-1, 8)
    kept = nms_rotated(table[:, :7], table[:, 7], iou_threshold)
    scores = table[kept, 7]
    assert len(kept.unique()) == len(kept)
    assert (scores[:-1] >= scores[1:]).all()
    assert table[kept][:, [0, 1, 3, 4, 6]].isfinite().all()


def test_rejects_wrong_arguments():
    boxes, scores = torch.zeros(4, 7), torch.zeros(4)
    with pytest.raises(ValueError, match=r"nms_rotated: boxes must be \(M, 7\+\) .*, got \(4, 5\) float32"):
        nms_rotated(boxes[:, :5], scores, 0.5)
    with pytest.raises(ValueError, match=r"nms_rotated: scores must be \(4\) .*, got \(3,\) float32"):
        nms_rotated(boxes, scores[:3], 0.5)
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"nms_rotated: iou_threshold must be in \[0, 1\], got {bad}"):
            nms_rotated(boxes, scores, bad)


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device):
    with pytest.raises(RuntimeError, match=r"nms_rotated: boxes must be \(M, 7\+\), got \(3, 5\) Float"):
        torch.ops.perception.nms_rotated(torch.zeros(3, 5, device=kernel_device), 0.5)


def test_opcheck(kernel_device, generator):
    boxes, _ = random_case(generator, kernel_device, 20, 4.0)
    torch.library.opcheck(torch.ops.perception.nms_rotated.default, (boxes, 0.2))
