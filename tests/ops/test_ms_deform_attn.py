import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from perception.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference

SHAPES = (5, 7), (3, 4), (1, 2)


def random_case(generator, device, dtype=torch.float64, batch=2, queries=9, heads=3, channels=6, points=4):
    num_values = sum(rows * columns for rows, columns in SHAPES)
    sizes = batch, queries, heads, len(SHAPES), points
    value = torch.randn(batch, num_values, heads, channels, generator=generator, dtype=torch.float64)
    locations = torch.rand(*sizes, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(sizes, generator=generator, dtype=torch.float64)
    return tuple(tensor.to(device, dtype) for tensor in (value, locations, weights))


def with_gradients(function, value, locations, weights, upstream):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = function(leaves[0], SHAPES, *leaves[1:])
    output.backward(upstream)
    return output.detach(), *(leaf.grad for leaf in leaves)


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
def test_known_values(device, function):
    value = torch.tensor([[1.0, 2.0, 3.0, 4.0]], device=device).view(1, 4, 1, 1)  # one level of 2 x 2
    places = torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.0, 0.0], [1.0, 0.75], [-1.0, 0.5]], device=device)
    locations = places.view(1, 5, 1, 1, 1, 2)
    output = function(value, [(2, 2)], locations, torch.full((1, 5, 1, 1, 1), 2.0, device=device))
    # A pixel's centre, the middle of four, a corner (a quarter of a pixel), half over the edge, far outside; twice.
    assert output.flatten().tolist() == [2, 5, 0.5, 4, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels", [1, 6, 16, 45])
def test_values_and_gradients_match_reference(device, generator, dtype, channels):
    inputs = random_case(generator, device, dtype, channels=channels)
    upstream = torch.randn(2, 9, 3 * channels, generator=generator).to(device, dtype)
    results = [with_gradients(f, *inputs, upstream) for f in (ms_deform_attn, ms_deform_attn_reference)]
    assert results[0][0].dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(results[0], results[1], **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_is_added_up_in_float32(device, generator, dtype):
    inputs = random_case(generator, device, dtype)
    upstream = torch.randn(2, 9, 18, generator=generator).to(device, dtype)
    output, *gradients = with_gradients(ms_deform_attn, *inputs, upstream)
    expected, *expected_gradients = with_gradients(
        ms_deform_attn, *(tensor.float() for tensor in inputs), upstream.float()
    )
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))
    for gradient, wide in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(gradient, wide.to(dtype))


def test_matches_grid_sample(device, generator):
    value, locations, weights = random_case(generator, device, heads=1)
    expected = 0
    parts = value.split([rows * columns for rows, columns in SHAPES], dim=1)
    for level, (part, (rows, columns)) in enumerate(zip(parts, SHAPES, strict=True)):
        maps = part[:, :, 0].transpose(1, 2).unflatten(2, (rows, columns))  # (B, C, rows, columns)
        sampled = functional.grid_sample(maps, 2 * locations[:, :, 0, level] - 1, align_corners=False)  # (B, C, Q, P)
        expected = expected + (sampled * weights[:, None, :, 0, level]).sum(-1)
    torch.testing.assert_close(ms_deform_attn(value, SHAPES, locations, weights), expected.transpose(1, 2))


def test_gradcheck(device, generator):
    inputs = random_case(generator, device, batch=1, queries=3, heads=2, channels=3, points=2)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(
        lambda value, *rest: ms_deform_attn(value, SHAPES, *rest), inputs, nondet_tol=1e-12 if device == "cuda" else 0
    )


def test_opcheck(kernel_device, generator):
    inputs = [tensor.requires_grad_() for tensor in random_case(generator, kernel_device, queries=3)]
    shapes = [size for shape in SHAPES for size in shape]
    torch.library.opcheck(torch.ops.perception.ms_deform_attn.default, (*inputs, shapes))


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_places_that_are_nowhere_read_and_teach_nothing(device, generator, function, bad):
    value, locations, weights = random_case(generator, device)
    locations[0, 0, 0, 0, 0, 0] = locations[1, 2, 1, 1, 1, 1] = bad
    upstream = torch.ones(2, 9, 18, device=device, dtype=torch.float64)
    results = with_gradients(function, value, locations, weights, upstream)
    weights[0, 0, 0, 0, 0] = weights[1, 2, 1, 1, 1] = 0
    locations = locations.nan_to_num(0.5, 0.5, 0.5).clamp(-1, 2)
    expected = with_gradients(ms_deform_attn, value, locations, weights, upstream)
    torch.testing.assert_close(results[:2], expected[:2])
    for gradient in results[2:]:
        assert not gradient[0, 0, 0, 0, 0].any()
        assert not gradient[1, 2, 1, 1, 1].any()


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
def test_pixels_beyond_the_edge_are_not_read(device, function):
    value = torch.tensor([1.0, float("nan")], device=device).view(1, 2, 1, 1)
    at_left_edge = torch.tensor([0.125, 0.5], device=device).view(1, 1, 1, 1, 1, 2)
    output = function(value, [(1, 2)], at_left_edge, torch.ones(1, 1, 1, 1, 1, device=device))
    assert output.item() == 0.75


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"heads": 0}, {"channels": 0}, {"points": 0}])
def test_nothing_to_attend_gives_zeros(device, generator, sizes):
    inputs = random_case(generator, device, **sizes)
    upstream = torch.ones_like(ms_deform_attn(inputs[0], SHAPES, *inputs[1:]))
    output, *gradients = with_gradients(ms_deform_attn, *inputs, upstream)
    assert not output.any()
    assert not any(gradient.any() for gradient in gradients)


def test_no_levels_give_zeros(device):
    value = torch.ones(1, 0, 2, 3, device=device)
    output = ms_deform_attn(value, [], value.new_ones(1, 4, 2, 0, 5, 2), value.new_ones(1, 4, 2, 0, 5))
    assert output.shape == (1, 4, 6)
    assert not output.any()


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
def test_autocast_computes_in_float32(device, generator, function):
    value, locations, weights = random_case(generator, device, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        output = function(value, SHAPES, locations.float(), weights)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, ms_deform_attn(value.float(), SHAPES, locations.float(), weights.float()))


def test_layout_in_memory_does_not_matter_and_inputs_stay(device, generator):
    inputs = random_case(generator, device)
    expected = ms_deform_attn(inputs[0], SHAPES, *inputs[1:])
    wide = [torch.stack((tensor, -tensor), dim=-1) for tensor in inputs]
    before = [tensor.clone() for tensor in wide]
    views = [tensor[..., 0] for tensor in wide]
    assert torch.equal(ms_deform_attn(views[0], SHAPES, *views[1:]), expected)
    assert all(torch.equal(a, b) for a, b in zip(wide, before, strict=True))


def test_same_bits_on_any_number_of_threads(generator, on_threads):
    inputs = random_case(generator, "cpu", torch.float32, queries=300, channels=20)
    upstream = torch.randn(2, 300, 60, generator=generator)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append(with_gradients(ms_deform_attn, *inputs, upstream))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_deterministic_mode_takes_the_reference_on_cuda(generator):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    inputs = random_case(generator, "cuda", torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        output = ms_deform_attn(inputs[0], SHAPES, *inputs[1:])
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(output, ms_deform_attn_reference(inputs[0], SHAPES, *inputs[1:]))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzz(data):
    size = st.integers(0, 3)
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=3))
    batch, queries, heads, channels, points = (data.draw(size) for _ in range(5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    value = torch.randn(batch, sum(r * c for r, c in shapes), heads, channels, generator=generator)
    weights = torch.randn(batch, queries, heads, len(shapes), points, generator=generator)
    locations = torch.randn(*weights.shape, 2, generator=generator)
    if locations.numel():
        number = st.floats(width=32)
        locations.view(-1)[data.draw(st.integers(0, locations.numel() - 1))] = data.draw(number)
    results = [f(value, shapes, locations, weights) for f in (ms_deform_attn, ms_deform_attn_reference)]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def test_rejects_wrong_arguments(generator):
    value, locations, weights = random_case(generator, "cpu")
    with pytest.raises(TypeError, match="ms_deform_attn: value must be a tensor, got list"):
        ms_deform_attn([1.0], SHAPES, locations, weights)
    with pytest.raises(ValueError, match=r"ms_deform_attn: value must be \(B, S, H, C\) .*, got .* int64"):
        ms_deform_attn(value.long(), SHAPES, locations, weights)
    with pytest.raises(
        ValueError, match=r"ms_deform_attn: value must have 47 rows, as spatial_shapes say, got \(2, 49"
    ):
        ms_deform_attn(value, [*SHAPES[:2]], locations, weights)
    with pytest.raises(ValueError, match="ms_deform_attn: spatial_shapes must be a whole number of at least 1, got 0"):
        ms_deform_attn(value, [(0, 3)], locations, weights)
    with pytest.raises(ValueError, match=r"ms_deform_attn: spatial_shapes must be pairs of rows and columns, got"):
        ms_deform_attn(value, [(3,)], locations, weights)
    with pytest.raises(ValueError, match="ms_deform_attn: spatial_shapes must have at most 16 levels, got 17"):
        ms_deform_attn(value, [(1, 1)] * 17, locations, weights)
    with pytest.raises(ValueError, match=r"ms_deform_attn: weights must be \(2, Q, 3, 3, P\) .*, got \(2, 9, 2,"):
        ms_deform_attn(value, SHAPES, locations, weights[:, :, :2])
    with pytest.raises(ValueError, match=r"ms_deform_attn: locations must be \(2, 9, 3, 3, 4, 2\) .*, got \(2, 8, 3"):
        ms_deform_attn(value, SHAPES, locations[:, :8], weights)
    with pytest.raises(ValueError, match="ms_deform_attn: value, locations, weights must be on one device"):
        ms_deform_attn(value, SHAPES, locations.to("meta"), weights)


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device, generator):
    op = torch.ops.perception.ms_deform_attn
    value, locations, weights = random_case(generator, kernel_device)
    shapes = [size for shape in SHAPES for size in shape]
    with pytest.raises(RuntimeError, match="ms_deform_attn: value must have 49 rows, as spatial_shapes say, got 48"):
        op(value[:, 1:], locations, weights, shapes)
    with pytest.raises(RuntimeError, match="ms_deform_attn: spatial_shapes must have two sizes for each of 3 levels"):
        op(value, locations, weights, shapes[:-1])
    with pytest.raises(RuntimeError, match="ms_deform_attn: spatial_shapes must be positive"):
        op(value, locations, weights, [-5, -7, *shapes[2:]])
    with pytest.raises(RuntimeError, match="ms_deform_attn: weights must have the dtype of the first argument"):
        op(value, locations, weights.float(), shapes)
