import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.geometry.cameras import project
from perception.geometry.grid import Grid
from perception.geometry.transforms import rigid, transform_points
from perception.ops.view_sample import ViewSamplePlan, view_sample, view_sample_plan, view_sample_reference

IMAGE = 24, 40  # rows, columns
SIZES = (6, 10), (3, 5)


def random_plan(generator, batch=2, cameras=3, shape=(4, 5)):
    points = math.prod(shape)
    pixels = torch.rand(batch, cameras, points, 2, generator=generator) * torch.tensor(IMAGE[::-1]) - 0.5
    valid = torch.rand(batch, cameras, points, generator=generator) < 0.6
    return ViewSamplePlan(pixels, valid, valid.sum(1), IMAGE, shape)


def random_case(generator, device, dtype=torch.float64, channels=6, **sizes):
    plan = random_plan(generator, **sizes)
    leading = *plan.valid.shape[:2], channels
    levels = [torch.randn(*leading, *size, generator=generator, dtype=torch.float64) for size in SIZES]
    return [level.to(device, dtype) for level in levels], plan.to(device)


def with_gradients(function, levels, plan, upstream):
    leaves = [level.detach().clone().requires_grad_() for level in levels]
    output = function(leaves, plan)
    output.backward(upstream)
    return output.detach(), *(leaf.grad for leaf in leaves)


def forward_camera(**changes):
    """A camera at the origin of a frame whose x points forward and y left, 100 x 60 pixels, focal length 50 px."""
    rotation = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=torch.float64)
    intrinsics = torch.tensor([[50.0, 0, 49.5], [0, 50, 29.5], [0, 0, 1]], dtype=torch.float64)
    known = {
        "points2camera": rigid(rotation, torch.zeros(3, dtype=torch.float64))[None, None],
        "camera_model": "pinhole",
        "intrinsics": intrinsics[None, None],
        "image_size_px": (60, 100),
    }
    return known | changes


def test_plan_of_a_pinhole_worked_out_by_hand():
    points = torch.tensor([[10.0, 0, 0], [10, 10, 0], [10, 10.1, 0], [10, -2, 3], [-10, 0, 0], [math.nan, 0, 0]])
    plan = view_sample_plan(points, **forward_camera())
    assert plan.valid.tolist() == [[[True, True, False, True, False, False]]]  # 10 m left of 10 m is the left edge
    assert plan.pixels_px[0, 0].tolist() == [[49.5, 29.5], [-0.5, 29.5], [0, 0], [59.5, 14.5], [0, 0], [0, 0]]
    assert plan.counts.tolist() == [[1, 1, 0, 1, 0, 0]]
    assert plan.seen.shape == (1, 6)


def test_plan_follows_fisheye_augmentation_and_presence(generator):
    grid = Grid.square(4.0, 0.5, (-1.0, 1.0))
    camera = forward_camera(
        camera_model="kannala_brandt", distortion=torch.tensor([0.0141, 0.0484, -0.0187, 0.0025]).double()[None, None]
    )
    image2aug = torch.tensor([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]], dtype=torch.float64)[None, None]
    plan = view_sample_plan(grid.centers(), **camera | {"image2aug": image2aug, "image_size_px": (30, 50)})
    in_camera = transform_points(camera["points2camera"][0, 0], grid.centers())
    pixels, valid = project(in_camera, "kannala_brandt", camera["intrinsics"][0, 0], camera["distortion"][0, 0])
    pixels = pixels / 2 - 0.25
    valid &= ((pixels >= -0.5) & (pixels <= torch.tensor((49.5, 29.5)))).all(-1)
    assert 0 < valid.sum() < valid.numel()
    assert torch.equal(plan.seen[0], valid)
    torch.testing.assert_close(plan.pixels_px[0, 0].unflatten(0, plan.shape)[valid], pixels[valid].float())
    absent = view_sample_plan(grid.centers(), **camera | {"present": torch.tensor([[False]])})
    assert not absent.seen.any()


@pytest.mark.parametrize("function", [view_sample, view_sample_reference])
def test_known_values(device, function):
    # Two cameras of 2 x 4 pixels; the second level has one cell that covers the picture.
    fine = torch.arange(16.0).view(1, 2, 1, 2, 4)
    coarse = torch.tensor([100.0, 200.0]).view(1, 2, 1, 1, 1)
    pixels = torch.tensor([[[1.5, 0.5], [-0.5, -0.5], [0, 0]], [[0, 0], [3, 1], [0, 0]]]).view(1, 2, 3, 2)
    valid = torch.tensor([[[True, True, False], [False, True, False]]])
    plan = ViewSamplePlan(pixels, valid, valid.sum(1), (2, 4), (3,)).to(device)
    output = function([fine.to(device), coarse.to(device)], plan)
    # The middle of 1 2 5 6 with 100; the top left corner (0) with 100 and the second camera's last (15) with 200.
    assert output.tolist() == [[[51.75, (0 + 100 + 15 + 200) / 4, 0]]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels", [1, 6, 16, 45])
def test_values_and_gradients_match_reference(device, generator, dtype, channels):
    levels, plan = random_case(generator, device, dtype, channels)
    upstream = torch.randn(2, channels, 4, 5, generator=generator).to(device, dtype)
    results = [with_gradients(f, levels, plan, upstream) for f in (view_sample, view_sample_reference)]
    assert results[0][0].dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(results[0], results[1], **tolerance)
    assert results[0][0].stride() == results[1][0].stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_is_added_up_in_float32(device, generator, dtype):
    levels, plan = random_case(generator, device, dtype)
    upstream = torch.randn(2, 6, 4, 5, generator=generator).to(device, dtype)
    output, *gradients = with_gradients(view_sample, levels, plan, upstream)
    expected, *wide = with_gradients(view_sample, [level.float() for level in levels], plan, upstream.float())
    assert torch.equal(output, expected.to(dtype))
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(gradients, wide, strict=True))


def test_gradcheck(device, generator):
    levels, plan = random_case(generator, device, channels=2, batch=1, cameras=2, shape=(3,))
    leaves = [level.requires_grad_() for level in levels]
    tolerance = 1e-12 if device == "cuda" else 0
    assert torch.autograd.gradcheck(lambda *maps: view_sample(maps, plan), leaves, nondet_tol=tolerance)


def test_opcheck(kernel_device, generator):
    levels, plan = random_case(generator, kernel_device, batch=1)
    levels = [level.permute(0, 1, 3, 4, 2).contiguous().requires_grad_() for level in levels]
    inputs = levels, plan.pixels_px, plan.valid, plan.counts, list(IMAGE)
    torch.library.opcheck(torch.ops.perception.view_sample.default, inputs)


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"cameras": 0}, {"shape": (0, 3)}, {"channels": 0}])
def test_nothing_to_sample_gives_zeros(device, generator, sizes):
    levels, plan = random_case(generator, device, **sizes)
    for function in (view_sample, view_sample_reference):
        output = function(levels, plan)
        assert output.shape == (levels[0].shape[0], levels[0].shape[2], *plan.shape)
        assert not output.any()
    levels[0].requires_grad_()
    view_sample(levels, plan).sum().backward()
    assert not levels[0].grad.any()


def test_a_constant_picture_gives_that_constant_wherever_it_is_seen(device, generator):
    levels, plan = random_case(generator, device)
    output = view_sample([torch.full_like(level, 3) for level in levels], plan)
    torch.testing.assert_close(output, 3.0 * plan.seen[:, None].expand_as(output).double())


def test_samples_do_not_affect_one_another(device, generator):
    levels, plan = random_case(generator, device)
    alone = dataclasses.replace(plan, pixels_px=plan.pixels_px[1:], valid=plan.valid[1:], counts=plan.counts[1:])
    assert torch.equal(view_sample([level[1:] for level in levels], alone), view_sample(levels, plan)[1:])


def test_features_that_no_point_reads_do_not_matter(device, generator):
    levels, plan = random_case(generator, device)
    plan.valid[:, 1] = False
    plan = dataclasses.replace(plan, counts=plan.valid.sum(1))
    for level in levels:
        level[:, 1] = math.nan
    for function in (view_sample, view_sample_reference):
        assert function(levels, plan).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_pixels_out_of_the_picture_read_its_edge(device, generator, bad):
    levels, plan = random_case(generator, device)
    plan.pixels_px[0, 0] = bad
    edge = dataclasses.replace(plan, pixels_px=plan.pixels_px.nan_to_num(-9, 99, -9).clamp(-9, 99))
    assert torch.equal(view_sample(levels, plan), view_sample(levels, edge))


@pytest.mark.parametrize("function", [view_sample, view_sample_reference])
def test_autocast_computes_in_float32(device, generator, function):
    levels, plan = random_case(generator, device, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        output = function(levels, plan)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, view_sample([level.float() for level in levels], plan))


def test_layout_in_memory_does_not_matter_and_inputs_stay(device, generator):
    levels, plan = random_case(generator, device)
    expected = view_sample(levels, plan)
    turned = [level.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3) for level in levels]
    wide = dataclasses.replace(
        plan,
        pixels_px=torch.stack((plan.pixels_px, -plan.pixels_px), -1)[..., 0],
        valid=torch.stack((plan.valid, ~plan.valid), -1)[..., 0],
    )
    before = [tensor.clone() for tensor in (*turned, wide.pixels_px, wide.valid)]
    assert torch.equal(view_sample(turned, wide), expected)
    assert all(torch.equal(a, b) for a, b in zip((*turned, wide.pixels_px, wide.valid), before, strict=True))


def test_same_bits_on_any_number_of_threads(generator, on_threads):
    levels, plan = random_case(generator, "cpu", torch.float32, 20, shape=(30, 40))
    upstream = torch.randn(2, 20, 30, 40, generator=generator)
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        results.append(with_gradients(view_sample, levels, plan, upstream))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzz(data):
    batch, cameras, channels = (data.draw(st.integers(0, 3)) for _ in range(3))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    points = torch.randn(*shape, 3, generator=generator, dtype=torch.float64) * 5
    if points.numel():
        points.view(-1)[data.draw(st.integers(0, points.numel() - 1))] = data.draw(st.floats())
    known = forward_camera()
    for name in ("points2camera", "intrinsics"):
        known[name] = known[name].expand(batch, cameras, -1, -1)
    plan = view_sample_plan(points, **known)
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
    levels = [torch.randn(batch, cameras, channels, *size, generator=generator) for size in sizes]
    output, expected = view_sample(levels, plan), view_sample_reference(levels, plan)
    assert output.shape == (batch, channels, *shape)
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)


def test_plan_moves_with_its_fields(generator):
    moved = random_plan(generator).to("meta")
    assert moved.pixels_px.is_meta and moved.valid.is_meta and moved.counts.is_meta
    assert (moved.image_size_px, moved.shape) == (IMAGE, (4, 5))


def test_plan_rejects_wrong_arguments():
    points = torch.zeros(5, 3)
    with pytest.raises(
        ValueError, match=r"view_sample_plan: points must be \(..., 3\) float32 or float64, got \(5, 2\)"
    ):
        view_sample_plan(points[:, :2], **forward_camera())
    with pytest.raises(ValueError, match=r"view_sample_plan: points2camera must be \(B, N, 4, 4\) .*, got \(4, 4\)"):
        view_sample_plan(points, **forward_camera(points2camera=torch.eye(4)))
    with pytest.raises(ValueError, match=r"view_sample_plan: intrinsics must be \(1, 1, 3, 3\) .*, got \(1, 2, 3, 3\)"):
        view_sample_plan(points, **forward_camera(intrinsics=torch.zeros(1, 2, 3, 3)))
    with pytest.raises(
        ValueError, match="view_sample_plan: camera_model must be 'pinhole' or 'kannala_brandt', got 'mei'"
    ):
        view_sample_plan(points, **forward_camera(camera_model="mei"))
    with pytest.raises(ValueError, match="image_size_px must be a whole number of at least 1, got 0"):
        view_sample_plan(points, **forward_camera(image_size_px=(0, 4)))
    with pytest.raises(ValueError, match=r"view_sample_plan: present must be \(1, 1\) bool, got \(1, 1\) float32"):
        view_sample_plan(points, **forward_camera(present=torch.ones(1, 1)))
    with pytest.raises(TypeError, match="view_sample_plan: points must be a tensor, got list"):
        view_sample_plan([1.0, 2.0, 3.0], **forward_camera())
    with pytest.raises(ValueError, match="view_sample_plan: distortion must be given for kannala_brandt, got None"):
        view_sample_plan(points, **forward_camera(camera_model="kannala_brandt"))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="view_sample_plan: distortion must be finite"):
            view_sample_plan(points, **forward_camera(distortion=torch.full((1, 1, 4), bad)))


def test_rejects_wrong_arguments(generator):
    levels, plan = random_case(generator, "cpu")
    with pytest.raises(ValueError, match="view_sample: levels must be 1 to 16 tensors, got 0"):
        view_sample([], plan)
    with pytest.raises(TypeError, match=r"view_sample: levels\[0\] must be a tensor, got NoneType"):
        view_sample([None], plan)
    with pytest.raises(ValueError, match=r"view_sample: levels\[0\] must be \(2, 3, C, H, W\) .*, got \(1, 3,"):
        view_sample([levels[0][:1]], plan)
    with pytest.raises(ValueError, match=r"view_sample: levels\[1\] must be \(2, 3, 6, H, W\) .*, got \(2, 3, 5,"):
        view_sample([levels[0], levels[1][:, :, 1:]], plan)
    with pytest.raises(ValueError, match=r"view_sample: levels\[1\] must be .* float64, got .* float32"):
        view_sample([levels[0], levels[1].float()], plan)
    with pytest.raises(ValueError, match=r"view_sample: levels\[0\] must be \(B, N, C, 1\+, 1\+\)"):
        view_sample([levels[0][..., :0]], plan)
    with pytest.raises(ValueError, match="must be on one device, got cpu, cpu, meta"):
        view_sample(levels, plan.to("meta"))


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device, generator):
    op = torch.ops.perception.view_sample
    levels, plan = random_case(generator, kernel_device)
    levels = [level.permute(0, 1, 3, 4, 2) for level in levels]
    with pytest.raises(RuntimeError, match=r"view_sample: each level must be \(2, 3, any, any, 6\), got"):
        op([levels[0], levels[1][..., 1:]], plan.pixels_px, plan.valid, plan.counts, IMAGE)
    with pytest.raises(RuntimeError, match="view_sample: pixels and valid must be float32 and bool"):
        op(levels, plan.pixels_px.double(), plan.valid, plan.counts, IMAGE)
    with pytest.raises(RuntimeError, match=r"view_sample: counts must be \(2, 20\)"):
        op(levels, plan.pixels_px, plan.valid, plan.counts[:, 1:], IMAGE)
    with pytest.raises(RuntimeError, match="view_sample: image_size must be two positive sizes"):
        op(levels, plan.pixels_px, plan.valid, plan.counts, (0, 5))
