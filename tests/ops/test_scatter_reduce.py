import math

import pytest
import torch

from perception.ops.scatter_reduce import scatter_reduce, scatter_reduce_reference

REDUCTIONS = ["sum", "mean", "max"]


def random_case(generator, device, num_rows=500, num_segments=60, channels=5, dtype=torch.float64):
    features = torch.randn(num_rows, channels, generator=generator, dtype=torch.float64).to(device, dtype)
    index = torch.randint(-1, num_segments, (num_rows,), generator=generator).to(device)
    return features, index


@pytest.mark.parametrize("function", [scatter_reduce, scatter_reduce_reference])
def test_known_values(device, function):
    features = torch.tensor([[1.0, -1.0], [5.0, 7.0], [3.0, -5.0], [9.0, 9.0]], device=device)
    index = torch.tensor([2, 0, 2, -1], device=device)
    assert function(features, index, 3, "sum").tolist() == [[5, 7], [0, 0], [4, -6]]
    assert function(features, index, 3, "mean").tolist() == [[5, 7], [0, 0], [2, -3]]
    assert function(features, index, 3, "max").tolist() == [[5, 7], [0, 0], [3, -1]]


@pytest.mark.parametrize("function", [scatter_reduce, scatter_reduce_reference])
def test_first_of_equal_maxima_receives_the_gradient(device, function):
    features = torch.tensor([[1.0], [4.0], [4.0], [4.0]], device=device, requires_grad=True)
    index = torch.tensor([0, 0, 0, -1], device=device)
    function(features, index, 2, "max").backward(torch.tensor([[2.0], [3.0]], device=device))
    assert features.grad.tolist() == [[0], [2], [0], [0]]


@pytest.mark.parametrize("function", [scatter_reduce, scatter_reduce_reference])
def test_nan_is_the_maximum(device, function):
    features = torch.tensor([[1.0], [math.nan], [3.0], [-math.inf]], device=device)
    reduced = function(features, torch.tensor([0, 0, 0, 1], device=device), 2, "max")
    assert reduced[0].isnan().all()
    assert reduced[1].item() == -math.inf


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(("num_rows", "num_segments", "channels"), [(0, 4, 3), (7, 0, 3), (7, 3, 0), (900, 1, 67)])
def test_matches_reference_at_odd_sizes(device, generator, reduce, num_rows, num_segments, channels):
    features, index = random_case(generator, device, num_rows, num_segments, channels)
    actual = scatter_reduce(features, index, num_segments, reduce)
    torch.testing.assert_close(actual, scatter_reduce_reference(features, index, num_segments, reduce))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_and_gradients_match_reference(device, generator, reduce, dtype):
    features, index = random_case(generator, device, dtype=dtype)
    upstream = torch.randn(60, 5, generator=generator).to(device, dtype)
    results = []
    for function in (scatter_reduce, scatter_reduce_reference):
        leaf = features.clone().requires_grad_()
        reduced = function(leaf, index, 60, reduce)
        reduced.backward(upstream)
        assert reduced.dtype == leaf.grad.dtype == dtype
        results.append((reduced.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_adds_reduced_precision_up_in_float32(device):
    features = torch.ones(4096, 1, device=device, dtype=torch.bfloat16)
    index = torch.zeros(4096, device=device, dtype=torch.int64)
    assert scatter_reduce(features, index, 1, "sum").item() == 4096  # bfloat16 alone would stop at 256


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradcheck(device, generator, reduce):
    features, index = random_case(generator, device, num_rows=20, num_segments=6, channels=3)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: scatter_reduce(rows, index, 6, reduce), (features,))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_opcheck(kernel_device, generator, reduce):
    features, index = random_case(generator, kernel_device, num_rows=20, num_segments=6, channels=3)
    features.requires_grad_()
    torch.library.opcheck(torch.ops.perception.scatter_reduce.default, (features, index, 6, reduce))


@pytest.mark.parametrize("function", [scatter_reduce, scatter_reduce_reference])
def test_autocast_computes_in_float32(device, generator, function):
    features, index = random_case(generator, device, dtype=torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        reduced = function(features, index, 60, "mean")
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, scatter_reduce(features.float(), index, 60, "mean"))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_takes_strided_views_and_leaves_inputs_alone(device, generator, reduce):
    features, index = random_case(generator, device)
    wide, pairs = features.repeat(1, 2), torch.stack((index, index), dim=1)
    before = wide.clone(), pairs.clone()
    actual = scatter_reduce(wide[:, ::2], pairs[:, 0], 60, reduce)
    torch.testing.assert_close(actual, scatter_reduce(wide[:, ::2].contiguous(), index, 60, reduce))
    assert torch.equal(wide, before[0])
    assert torch.equal(pairs, before[1])


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_same_bits_on_any_number_of_threads(generator, on_threads, reduce):
    features, index = random_case(generator, "cpu", 30_000, 4_000, 16, torch.float32)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        leaf = features.clone().requires_grad_()
        reduced = scatter_reduce(leaf, index, 4_000, reduce)
        reduced.square().sum().backward()
        results.append((reduced.detach(), leaf.grad))
    for reduced, gradient in results[1:]:
        assert torch.equal(reduced, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("function", [scatter_reduce, scatter_reduce_reference])
@pytest.mark.parametrize("bad", [-2, 3, 2**40])
def test_rejects_an_index_out_of_range(function, bad):
    with pytest.raises(ValueError, match=rf"scatter_reduce: index must be in \[-1, 3\), got {bad} at row 1"):
        function(torch.zeros(3, 2), torch.tensor([0, bad, 1]), 3, "sum")


def test_rejects_wrong_arguments():
    features, index = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"scatter_reduce: features must be \(P, C\) float32.*, got \(4,\) float32"):
        scatter_reduce(features[:, 0], index, 3, "sum")
    with pytest.raises(ValueError, match=r"scatter_reduce: index must be \(4\) int64, got \(3,\) int64"):
        scatter_reduce(features, index[:3], 3, "sum")
    with pytest.raises(ValueError, match=r"scatter_reduce: index must be \(4\) int64, got \(4,\) int32"):
        scatter_reduce(features, index.int(), 3, "sum")
    with pytest.raises(ValueError, match='scatter_reduce: reduce must be "sum", "mean" or "max", got \'min\''):
        scatter_reduce(features, index, 3, "min")
    with pytest.raises(ValueError, match=r"num_segments must be a whole number of at least 0, got 2\.5"):
        scatter_reduce(features, index, 2.5, "sum")
    with pytest.raises(ValueError, match="scatter_reduce: features, index must be on one device, got cpu, meta"):
        scatter_reduce(features, index.to("meta"), 3, "sum")


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device):
    op = torch.ops.perception.scatter_reduce
    features = torch.zeros(4, 2, device=kernel_device)
    index = torch.zeros(4, dtype=torch.int64, device=kernel_device)
    with pytest.raises(RuntimeError, match=r"scatter_reduce: index must be \(4\), got \(3\) Long"):
        op(features, index[:3], 3, "sum")
    with pytest.raises(RuntimeError, match="scatter_reduce: reduce must be sum, mean or max, got min"):
        op(features, index, 3, "min")
    with pytest.raises(RuntimeError, match=r"scatter_reduce: features must be floating, got \(4, 2\) Int"):
        op(features.int(), index, 3, "sum")
