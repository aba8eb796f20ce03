import pytest
import torch

from perception.ops.group_rows import group_rows, group_rows_reference


def test_known_groups(device):
    order, offsets = group_rows(torch.tensor([2, 0, -1, 2, 1, 0], device=device), 4)
    assert order.tolist() == [1, 5, 4, 0, 3, 2]
    assert offsets.tolist() == [0, 2, 3, 5, 5]


@pytest.mark.parametrize(("num_rows", "num_groups"), [(1, 1), (1000, 1), (1000, 7), (1000, 5000), (0, 3), (5, 0)])
def test_matches_reference(device, generator, num_rows, num_groups):
    index = torch.randint(-1, num_groups, (num_rows,), generator=generator).to(device)
    expected = group_rows_reference(index, num_groups)
    actual = group_rows(index, num_groups)
    torch.testing.assert_close(tuple(actual), tuple(expected))


def test_takes_a_strided_view_and_leaves_it_alone(device, generator):
    base = torch.randint(-1, 9, (200, 2), generator=generator).to(device)
    before = base.clone()
    expected = group_rows(base[:, 0].contiguous(), 9)
    torch.testing.assert_close(tuple(group_rows(base[:, 0], 9)), tuple(expected))
    assert torch.equal(base, before)


@pytest.mark.parametrize("function", [group_rows, group_rows_reference])
@pytest.mark.parametrize("bad", [-2, 3, 2**40])
def test_rejects_an_index_out_of_range(function, bad):
    with pytest.raises(ValueError, match=rf"group_rows: index must be in \[-1, 3\), got {bad} at row 1"):
        function(torch.tensor([0, bad, 1]), 3)


def test_rejects_wrong_arguments():
    with pytest.raises(ValueError, match=r"group_rows: index must be \(P\) int64, got \(2,\) float32"):
        group_rows(torch.zeros(2), 3)
    with pytest.raises(ValueError, match=r"group_rows: index must be \(P\) int64, got \(2, 1\) int64"):
        group_rows(torch.zeros(2, 1, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match="group_rows: num_groups must be a whole number of at least 0, got -1"):
        group_rows(torch.zeros(2, dtype=torch.int64), -1)
    with pytest.raises(TypeError, match="group_rows: index must be a tensor, got list"):
        group_rows([0, 1], 3)


def test_compiled_op_rejects_what_the_kernel_cannot_read(kernel_device):
    op = torch.ops.perception.group_rows
    with pytest.raises(RuntimeError, match=r"group_rows: index must be int64, got \(2\) Float"):
        op(torch.zeros(2, device=kernel_device), 3)
    with pytest.raises(RuntimeError, match="group_rows: num_groups must not be negative, got -1"):
        op(torch.zeros(2, dtype=torch.int64, device=kernel_device), -1)


def test_opcheck(kernel_device, generator):
    index = torch.randint(-1, 5, (50,), generator=generator).to(kernel_device)
    torch.library.opcheck(torch.ops.perception.group_rows.default, (index, 5))
