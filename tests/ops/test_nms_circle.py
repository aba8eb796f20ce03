import math

import pytest
import torch

from perception.ops.nms_circle import nms_circle, nms_circle_reference


def greedy(centers, scores, radius_m):
    """The definition, centre by centre."""
    kept = []
    for row in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(math.dist(centers[row], centers[other]) > radius_m for other in kept):
            kept.append(row)
    return kept


def test_known_values(device):
    centers = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.5, 0.0], [9.0, 9.0]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.7, 0.1], device=device)
    assert nms_circle(centers, scores, 1.0).tolist() == [1, 2, 3]
    assert nms_circle(centers, scores, 0.4).tolist() == [1, 2, 0, 3]
    assert nms_circle(centers[:2], scores[:2], 5.0).tolist() == [1]  # exactly the radius apart: suppressed
    assert nms_circle(centers[:2], scores[:2], 4.99).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_matches_the_definition(device, generator, dtype):
    centers = (torch.rand(200, 2, generator=generator) * 20).to(device, dtype)
    scores = (torch.rand(200, generator=generator) * 20).round().to(device, dtype)  # many ties
    expected = greedy(centers.double().tolist(), scores.double().tolist(), 2.0)
    assert nms_circle(centers, scores, 2.0).tolist() == expected


def test_matches_reference(device, generator):
    centers = (torch.rand(300, 2, generator=generator, dtype=torch.float64) * 30).to(device)
    kept = nms_circle(centers, torch.arange(300, 0, -1.0, device=device), 2.0)
    assert kept.tolist() == nms_circle_reference(centers, 2.0).nonzero()[:, 0].tolist()


def test_same_rows_on_any_number_of_threads(generator, on_threads):
    centers, scores = torch.rand(4000, 2, generator=generator) * 100, torch.rand(4000, generator=generator)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append(nms_circle(centers, scores, 1.0).tolist())
    assert results[0] == results[1] == results[2]


def test_opcheck(kernel_device, generator):
    centers = torch.rand(20, 2, generator=generator, dtype=torch.float64).to(kernel_device)
    scores = torch.rand(20, generator=generator, dtype=torch.float64).to(kernel_device)
    torch.library.opcheck(torch.ops.perception.nms_circle.default, (centers, scores, scores.argsort(), 0.3))


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device):
    op = torch.ops.perception.nms_circle
    centers = torch.zeros(3, 2, dtype=torch.float64, device=kernel_device)
    scores, order = centers[:, 0], torch.arange(3, device=kernel_device)
    with pytest.raises(RuntimeError, match=r"nms_circle: centers must be \(any, 2\), got \(3, 1\) Double"):
        op(centers[:, :1], scores, order, 0.5)
    with pytest.raises(RuntimeError, match=r"nms_circle: centers must be float64, got \(3, 2\) Float"):
        op(centers.float(), scores, order, 0.5)
    with pytest.raises(RuntimeError, match=r"nms_circle: scores must be \(3\), got \(2\) Double"):
        op(centers, scores[:2], order, 0.5)
    with pytest.raises(RuntimeError, match=r"nms_circle: order must be int64, got \(3\) Int"):
        op(centers, scores, order.int(), 0.5)
    with pytest.raises(RuntimeError, match="nms_circle: radius_m must be 0 or more, got -1"):
        op(centers, scores, order, -1.0)
    assert op(centers, scores, order + 1, 0.5).tolist() == [True, False, False]  # row 3 does not exist


@pytest.mark.parametrize("spread", [1e-150, 1e-3, 1e3, 1e150])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, math.inf])
def test_any_scale_matches_the_definition(device, generator, spread, share):
    centers = (torch.rand(300, 2, generator=generator, dtype=torch.float64) - 0.5) * spread
    centers[::5] = centers[:60]  # some at the same place
    centers[7] = 1.7e308  # one far from all others
    scores = torch.rand(300, generator=generator)
    radius_m = share * spread
    expected = greedy(centers.tolist(), scores.tolist(), radius_m)
    assert nms_circle(centers.to(device), scores.to(device), radius_m).tolist() == expected


def test_of_equal_scores_the_first_row_stays(device):
    assert nms_circle(torch.zeros(5, 2, device=device), torch.ones(5, device=device), 0.0).tolist() == [0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_centres_that_are_not_finite_never_survive(device, bad):
    centers = torch.tensor([[bad, 0.0], [0.0, bad], [0.0, 0.0]], device=device)
    assert nms_circle(centers, torch.tensor([0.9, 0.8, 0.1], device=device), 100.0).tolist() == [2]


def test_nan_scores_never_survive_and_suppress_nothing(device):
    scores = torch.tensor([math.nan, 0.1, -math.inf], device=device)
    centers = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]], device=device)
    assert nms_circle(centers, scores, 1.0).tolist() == [1, 2]


def test_no_centre_gives_no_row(device):
    kept = nms_circle(torch.zeros(0, 2, device=device), torch.zeros(0, device=device), 1.0)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_takes_strided_views_and_leaves_inputs_alone(device, generator):
    boxes = torch.rand(50, 9, generator=generator).to(device)
    before = boxes.clone()
    kept = nms_circle(boxes[:, :2], boxes[:, 8], 0.1)
    assert torch.equal(kept, nms_circle(boxes[:, :2].clone(), boxes[:, 8].clone(), 0.1))
    assert torch.equal(boxes, before)


def test_rejects_wrong_arguments():
    with pytest.raises(ValueError, match=r"nms_circle: centers must be \(M, 2\) .*, got \(4, 3\) float32"):
        nms_circle(torch.zeros(4, 3), torch.zeros(4), 1.0)
    with pytest.raises(ValueError, match=r"nms_circle: scores must be \(4\) .*, got \(3,\) float32"):
        nms_circle(torch.zeros(4, 2), torch.zeros(3), 1.0)
    for radius_m in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"nms_circle: radius_m must be 0 or more, got {radius_m}"):
            nms_circle(torch.zeros(4, 2), torch.zeros(4), radius_m)
