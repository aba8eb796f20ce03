import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perception.ops.sparse_conv_plan import (
    strided_pairs_reference,
    strided_plan,
    submanifold_pairs_reference,
    submanifold_plan,
)

SHAPE = 5, 8, 9


def random_coords(generator, device="cpu", num_samples=2, share=0.3, shape=SHAPE):
    occupied = torch.rand(num_samples, *shape, generator=generator) < share
    coords = occupied.nonzero()
    return coords[torch.randperm(len(coords), generator=generator)].to(device)


def pairs_of(sources, targets, offsets):
    """Sets of (source, target) by element."""
    bounds = offsets.tolist()
    rows = list(zip(sources.tolist(), targets.tolist(), strict=True))
    return [set(rows[a:b]) for a, b in pairwise(bounds)]


def test_known_submanifold_pairs(device):
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 3], [1, 0, 0, 2]], device=device)
    plan = submanifold_plan(coords, (1, 1, 4), kernel=(1, 1, 3))
    assert pairs_of(plan.sources, plan.targets, plan.offsets) == [
        {(0, 1)},  # the left neighbour of voxel 1 is voxel 0
        {(0, 0), (1, 1), (2, 2), (3, 3)},
        {(1, 0)},
    ]
    assert plan.coords is coords
    assert plan.shape == (1, 1, 4)
    far = submanifold_plan(coords, (1, 1, 4), kernel=(1, 1, 3), dilation=2)
    assert pairs_of(far.sources, far.targets, far.offsets)[0] == {(1, 2)}


def test_known_strided_pairs(device):
    coords = torch.tensor([[0, 0, 0, 3], [0, 0, 0, 0], [0, 0, 0, 4]], device=device)
    plan = strided_plan(coords, (1, 1, 5), kernel=(1, 1, 3), stride=(1, 1, 2), padding=(0, 0, 1))
    assert plan.shape == (1, 1, 3)
    # Input 3 is the last element of output 1 and the first of output 2; 0 and 4 are in the middle of outputs 0 and 2.
    assert plan.coords.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]
    assert pairs_of(plan.sources, plan.targets, plan.offsets) == [{(0, 2)}, {(1, 0), (2, 2)}, {(0, 1)}]
    assert pairs_of(plan.back_targets, plan.back_sources, plan.offsets) == [{(0, 2)}, {(1, 0), (2, 2)}, {(0, 1)}]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 5), (1, 1, 1)])
@pytest.mark.parametrize("dilation", [(1, 1, 1), (2, 1, 3)])
def test_submanifold_pairs_match_reference(device, generator, kernel, dilation):
    coords = random_coords(generator, device)
    plan = submanifold_plan(coords, SHAPE, kernel=kernel, dilation=dilation)
    expected = submanifold_pairs_reference(coords, SHAPE, kernel, dilation)
    torch.testing.assert_close((plan.sources, plan.targets, plan.offsets), expected)


STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (0, 1, 1), (1, 1, 1)),
    ((3, 1, 1), (2, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((2, 4, 3), (1, 3, 2), (1, 0, 2), (2, 1, 1)),
    ((1, 1, 1), (3, 2, 4), (0, 0, 0), (1, 1, 1)),
]


@pytest.mark.parametrize("sizes", STRIDED)
def test_strided_pairs_match_reference(device, generator, sizes):
    coords = random_coords(generator, device)
    kernel, stride, padding, dilation = sizes
    plan = strided_plan(coords, SHAPE, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    actual = plan.coords, plan.sources, plan.targets, plan.back_sources, plan.back_targets, plan.offsets
    torch.testing.assert_close(actual, strided_pairs_reference(coords, SHAPE, *sizes))


@pytest.mark.parametrize("sizes", STRIDED)
def test_both_orders_hold_the_same_pairs_and_are_sorted(device, generator, sizes):
    kernel, stride, padding, dilation = sizes
    plan = strided_plan(
        random_coords(generator, device), SHAPE, kernel=kernel, stride=stride, padding=padding, dilation=dilation
    )
    forward = pairs_of(plan.sources, plan.targets, plan.offsets)
    assert forward == pairs_of(plan.back_targets, plan.back_sources, plan.offsets)
    for begin, end in pairwise(plan.offsets.tolist()):
        assert (plan.targets[begin:end].diff() > 0).all()
        assert (plan.back_targets[begin:end].diff() > 0).all()


def test_inverse_swaps_the_ends(device, generator):
    coords = random_coords(generator, device)
    plan = strided_plan(coords, SHAPE)
    inverse = plan.inverse()
    assert inverse.coords is coords
    assert inverse.shape == SHAPE
    assert inverse.in_shape == plan.shape == (3, 4, 5)
    assert pairs_of(inverse.targets, inverse.sources, inverse.offsets) == pairs_of(
        plan.sources, plan.targets, plan.offsets
    )
    assert inverse.inverse() == plan
    with pytest.raises(
        ValueError, match=r"SparseConvPlan\.inverse: the plan must be of a strided convolution, got a sub"
    ):
        submanifold_plan(coords, SHAPE).inverse()


def test_no_voxels(device):
    coords = torch.zeros(0, 4, dtype=torch.int64, device=device)
    for plan in (submanifold_plan(coords, SHAPE), strided_plan(coords, SHAPE)):
        assert plan.coords.shape == (0, 4)
        assert plan.sources.shape == (0,)
        assert plan.offsets.tolist() == [0] * 28


@pytest.mark.parametrize("last_sample", [0, 3, 2**22 - 1])
def test_grids_of_more_than_2_to_the_31_voxels(device, last_sample):
    shape = 1 << 10, 1 << 14, 1 << 15  # 2^39
    corners = torch.tensor([[last_sample, *(size - 1 for size in shape)], [0, 0, 0, 0], [0, 7, 9, 11]], device=device)
    beside = corners + torch.tensor([[0, 0, -1, -1], [0, 0, 0, 1], [0, 1, -1, 1]], device=device)
    apart = corners + torch.tensor([[0, -2, 0, 0], [0, 0, 0, 3], [0, 0, 4, 0]], device=device)
    coords = torch.cat((corners, beside, apart))[[4, 8, 0, 3, 7, 1, 6, 2, 5]]
    plan, down = submanifold_plan(coords, shape), strided_plan(coords, shape)
    expected = submanifold_pairs_reference(coords, shape, (3, 3, 3), (1, 1, 1))
    torch.testing.assert_close((plan.sources, plan.targets, plan.offsets), expected)
    assert len(plan.sources) == 9 + 2 * 3
    actual = down.coords, down.sources, down.targets, down.back_sources, down.back_targets, down.offsets
    one, two, three = (1, 1, 1), (2, 2, 2), (3, 3, 3)
    torch.testing.assert_close(actual, strided_pairs_reference(coords, shape, three, two, one, one))


def test_kernel_as_wide_as_its_stride_meets_each_voxel_once(generator):
    coords = random_coords(generator, shape=(8, 64, 64))
    plan = strided_plan(coords, (8, 64, 64), kernel=(8, 32, 32), stride=(8, 32, 32), padding=0)
    assert len(plan.coords) == 2 * 4
    assert len(plan.sources) == len(coords)


def test_takes_strided_views_and_leaves_inputs_alone(device, generator):
    coords = random_coords(generator, device)
    wide = torch.stack((coords, coords), dim=-1)
    before = wide.clone()
    for make in (submanifold_plan, strided_plan):
        expected, actual = make(coords, SHAPE), make(wide[..., 0], SHAPE)
        assert torch.equal(actual.sources, expected.sources)
        assert torch.equal(actual.targets, expected.targets)
    assert torch.equal(wide, before)


def test_same_pairs_on_any_number_of_threads(generator, on_threads):
    coords = random_coords(generator, shape=(10, 40, 40))
    results = []
    for threads in (1, 2, 5):
        on_threads(threads)
        plans = submanifold_plan(coords, (10, 40, 40)), strided_plan(coords, (10, 40, 40))
        results.append([getattr(plan, f.name) for plan in plans for f in dataclasses.fields(plan)])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True) if isinstance(a, Tensor))


voxel = st.tuples(st.integers(0, 1), *(st.integers(0, size - 1) for size in SHAPE))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(voxel, unique=True, max_size=30), st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 3)] * 3)
)
def test_any_voxels_and_sizes_match_reference(voxels, kernel, stride):
    coords = torch.tensor(voxels, dtype=torch.int64).reshape(-1, 4)
    plan = strided_plan(coords, SHAPE, kernel=kernel, stride=stride, padding=0)
    expected = strided_pairs_reference(coords, SHAPE, kernel, stride, (0, 0, 0), (1, 1, 1))
    actual = plan.coords, plan.sources, plan.targets, plan.back_sources, plan.back_targets, plan.offsets
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    "bad", [[0, 5, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 0], [2**22, 0, 0, 0], [0, 0, 0, 2**40], [0, 1, 1, 1]]
)
def test_rejects_voxels_outside_or_repeated(bad):
    coords = torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2], bad])
    words = r"coords must be distinct voxels in \(5, 8, 9\) of samples below 2\^22, got .* at row 2"
    with pytest.raises(ValueError, match=f"submanifold_pairs: {words}"):
        submanifold_plan(coords, SHAPE)
    for find in (submanifold_pairs_reference, strided_pairs_reference):
        more = () if find is submanifold_pairs_reference else ((2, 2, 2), (1, 1, 1))
        with pytest.raises(ValueError, match=words):
            find(coords, SHAPE, (3, 3, 3), *more, (1, 1, 1))
    with pytest.raises(ValueError, match=f"strided_pairs: {words}"):
        strided_plan(coords, SHAPE)


def test_rejects_wrong_arguments():
    coords = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"submanifold_plan: coords must be \(V, 4\) int64, got \(1, 3\) int64"):
        submanifold_plan(coords[:, :3], SHAPE)
    with pytest.raises(ValueError, match=r"submanifold_plan: kernel must be odd, got \(3, 2, 3\)"):
        submanifold_plan(coords, SHAPE, kernel=(3, 2, 3))
    with pytest.raises(ValueError, match="submanifold_plan: dilation must be a whole number of at least 1, got 0"):
        submanifold_plan(coords, SHAPE, dilation=0)
    with pytest.raises(ValueError, match=r"strided_plan: shape must be three numbers z y x, got \(5, 8\)"):
        strided_plan(coords, (5, 8))
    with pytest.raises(ValueError, match="strided_plan: padding must be a whole number of at least 0, got -1"):
        strided_plan(coords, SHAPE, padding=-1)
    with pytest.raises(ValueError, match=r"strided_plan: kernel must fit into the padded shape, got \(9, 9, 9\) for"):
        strided_plan(coords, SHAPE, kernel=9, padding=0)
    with pytest.raises(ValueError, match=r"strided_plan: shape must have fewer than 2\^40 voxels"):
        strided_plan(coords, (1 << 20, 1 << 10, 1 << 10))
    with pytest.raises(ValueError, match=r"strided_plan: shape of the result must have fewer than 2\^40 voxels"):
        strided_plan(coords, SHAPE, padding=1 << 20)
    with pytest.raises(ValueError, match=r"strided_plan: dilation must be below 2\^31, got 2147483648"):
        strided_plan(coords, SHAPE, dilation=2**31)


def test_compiled_ops_reject_what_the_kernels_cannot_read(kernel_device):
    coords = torch.zeros(1, 4, dtype=torch.int64, device=kernel_device)
    op = torch.ops.perception.submanifold_pairs
    with pytest.raises(RuntimeError, match=r"submanifold_pairs: coords must be \(any, 4\), got \(1, 3\) Long"):
        op(coords[:, :3], SHAPE, (3, 3, 3), (1, 1, 1))
    with pytest.raises(RuntimeError, match="submanifold_pairs: kernel must be odd, got 2"):
        op(coords, SHAPE, (3, 2, 3), (1, 1, 1))
    with pytest.raises(RuntimeError, match="submanifold_pairs: shape must be three numbers z y x, got 2"):
        op(coords, SHAPE[:2], (3, 3, 3), (1, 1, 1))
    strided = torch.ops.perception.strided_pairs
    with pytest.raises(RuntimeError, match="strided_pairs: stride must be at least 1, got 0"):
        strided(coords, SHAPE, (3, 3, 3), (0, 1, 1), (1, 1, 1), (1, 1, 1))
    with pytest.raises(RuntimeError, match="strided_pairs: dilation must be below 2147483648, got 2147483648"):
        strided(coords, SHAPE, (3, 3, 3), (1, 1, 1), (1, 1, 1), (2**31, 1, 1))
    with pytest.raises(RuntimeError, match=r"strided_pairs: shape of the result must multiply to less than 10\d+, got"):
        strided(coords, SHAPE, (3, 3, 3), (1, 1, 1), (2**20, 2**20, 2**20), (1, 1, 1))


def test_opcheck(kernel_device, generator):
    coords = random_coords(generator, kernel_device, shape=(2, 3, 4))
    one, three = (1, 1, 1), (3, 3, 3)
    torch.library.opcheck(torch.ops.perception.submanifold_pairs.default, (coords, (2, 3, 4), three, one))
    torch.library.opcheck(torch.ops.perception.strided_pairs.default, (coords, (2, 3, 4), three, (2, 2, 2), one, one))
