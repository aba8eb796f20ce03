"""Plans of sparse convolutions: which input voxel meets which output voxel through which element of the kernel.

A plan depends on coordinates alone, so that layers on the same voxels share one. Elements count in z, y, x order.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import INT64, check_count, check_tensor

Triple = tuple[int, int, int]
Pairs = tuple[Tensor, Tensor, Tensor]
"""Sources (R,), targets (R,), and where each element's pairs start (K + 1,)."""
_MOST_SAMPLES = 2**22
"""With fewer than 2^40 voxels in each, all have a number of their own in 64 bits."""


@dataclass(frozen=True)
class SparseConvPlan:
    """Pairs of voxels that meet, sorted by element of the kernel; `submanifold_plan` and `strided_plan` make it.

    Args:
        coords: (V_out, 4) int64 batch z y x, the voxels of the result.
        shape: (Z, Y, X) of the grid that they are in.
        in_coords: (V_in, 4) int64 batch z y x, the voxels of the input.
        in_shape: (Z, Y, X) of theirs.
        sources: (R,) int64, the input of each pair; the pairs of an element are sorted by output.
        targets: (R,) int64, the output of each.
        back_sources: (R,) int64, the output of each pair; the pairs of an element are sorted by input.
        back_targets: (R,) int64, the input of each.
        offsets: (K + 1,) int64, where the pairs of each element start, in both orders.
        mirrored: the backward lists go from the last element to the first, as the forward lists do seen from the other
            end where outputs are inputs.
    """

    coords: Tensor
    shape: Triple
    in_coords: Tensor
    in_shape: Triple
    sources: Tensor
    targets: Tensor
    back_sources: Tensor
    back_targets: Tensor
    offsets: Tensor
    mirrored: bool

    def inverse(self) -> "SparseConvPlan":
        """Gives the plan that leads back from the outputs of a strided one to its inputs, through the same elements.

        Returns:
            The plan of the inverse convolution.

        Raises:
            ValueError: the plan is a submanifold's, which leads back to the same voxels by itself.
        """
        if self.mirrored:
            raise ValueError("SparseConvPlan.inverse: the plan must be of a strided convolution, got a submanifold's")
        return SparseConvPlan(
            coords=self.in_coords,
            shape=self.in_shape,
            in_coords=self.coords,
            in_shape=self.shape,
            sources=self.back_sources,
            targets=self.back_targets,
            back_sources=self.sources,
            back_targets=self.targets,
            offsets=self.offsets,
            mirrored=False,
        )

    def to(self, device: torch.device | str) -> "SparseConvPlan":
        """Moves the plan to another device.

        Args:
            device: where the features will be.

        Returns:
            The same plan there.
        """
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return SparseConvPlan(shape=self.shape, in_shape=self.in_shape, mirrored=self.mirrored, **tensors)


def submanifold_plan(
    coords: Tensor, shape: Triple, *, kernel: int | Triple = 3, dilation: int | Triple = 1
) -> SparseConvPlan:
    """Plans a convolution whose outputs are its inputs: what is empty stays empty.

    Args:
        coords: (V, 4) int64 batch z y x, each voxel once.
        shape: (Z, Y, X) of the grid that they are in.
        kernel: size, odd; one number or along z, y, x.
        dilation: distance between its elements, in voxels.

    Returns:
        The plan, on the device of `coords`. On CUDA, a voxel outside meets nothing and repeated ones are not looked
        for (finding them would stall the device); on the CPU they are errors.

    Raises:
        TypeError: `coords` is not a tensor.
        ValueError: shapes or dtypes that do not fit, sizes out of range, a voxel outside or repeated.

    Source:
        Graham, Engelcke and van der Maaten, "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks",
        CVPR 2018, section 3.
    """
    _check("submanifold_plan", coords, shape)
    sizes = _triple("submanifold_plan: kernel", kernel), _triple("submanifold_plan: dilation", dilation)
    if any(size % 2 == 0 for size in sizes[0]):
        raise ValueError(f"submanifold_plan: kernel must be odd, got {sizes[0]}")
    kernels = _library.has_kernels(coords.device)
    find = torch.ops.perception.submanifold_pairs if kernels else submanifold_pairs_reference
    sources, targets, offsets = find(coords, shape, *sizes)
    return SparseConvPlan(coords, shape, coords, shape, sources, targets, sources, targets, offsets, mirrored=True)


def strided_plan(
    coords: Tensor,
    shape: Triple,
    *,
    kernel: int | Triple = 3,
    stride: int | Triple = 2,
    padding: int | Triple = 1,
    dilation: int | Triple = 1,
) -> SparseConvPlan:
    """Plans a convolution with an output wherever its kernel meets a voxel; sizes are those of `torch.nn.Conv3d`.

    Args:
        coords: (V, 4) int64 batch z y x, each voxel once.
        shape: (Z, Y, X) of the grid that they are in.
        kernel: size; one number or along z, y, x.
        stride: voxels from one output to the next.
        padding: voxels that the grid is thought to be larger at each end.
        dilation: distance between the kernel's elements, in voxels.

    Returns:
        The plan, on the device of `coords`; outputs are sorted by batch, z, y, x. On CUDA, a voxel outside meets
        nothing (finding it would stall the device); on the CPU it is an error.

    Raises:
        TypeError: `coords` is not a tensor.
        ValueError: shapes or dtypes that do not fit, sizes out of range, a kernel larger than the padded grid, a voxel
            outside or repeated.
    """
    name = "strided_plan"
    _check(name, coords, shape)
    sizes = (_triple(f"{name}: kernel", kernel), _triple(f"{name}: stride", stride))
    more = (_triple(f"{name}: padding", padding, least=0), _triple(f"{name}: dilation", dilation))
    out_shape = strided_shape(shape, *sizes, *more)
    if min(out_shape) < 1:
        raise ValueError(f"{name}: kernel must fit into the padded shape, got {sizes[0]} for {shape}")
    _check_volume(f"{name}: shape of the result", out_shape)
    kernels = _library.has_kernels(coords.device)
    find = torch.ops.perception.strided_pairs if kernels else strided_pairs_reference
    out_coords, sources, targets, back_sources, back_targets, offsets = find(coords, shape, *sizes, *more)
    return SparseConvPlan(
        out_coords, out_shape, coords, shape, sources, targets, back_sources, back_targets, offsets, mirrored=False
    )


def strided_shape(shape: Triple, kernel: Triple, stride: Triple, padding: Triple, dilation: Triple) -> Triple:
    """Gives the shape of a strided convolution's result.

    Args:
        shape: (Z, Y, X) of the input.
        kernel: size along z, y, x.
        stride: along z, y, x.
        padding: along z, y, x.
        dilation: along z, y, x.

    Returns:
        (Z, Y, X) of the result; not positive where the kernel does not fit.
    """
    axes = zip(shape, kernel, stride, padding, dilation, strict=True)
    z, y, x = ((n + 2 * pad - step * (size - 1) - 1) // every + 1 for n, size, every, pad, step in axes)
    return z, y, x


def submanifold_pairs_reference(coords: Tensor, shape: Triple, kernel: Triple, dilation: Triple) -> Pairs:
    """Does what the kernel of `submanifold_plan` does, in plain torch: the specification, and the fallback.

    Args:
        coords: as in `submanifold_plan`.
        shape: as in `submanifold_plan`.
        kernel: along z, y, x.
        dilation: along z, y, x.

    Returns:
        Sources (R,), targets (R,) and offsets (K + 1,), sorted by element and then by target.

    Raises:
        ValueError: a voxel outside or repeated.
    """
    _check_voxels("submanifold_pairs", coords, shape)
    padding = tuple(step * (size // 2) for size, step in zip(kernel, dilation, strict=True))
    keys, order = torch.sort(_keys(coords, shape))
    seen = coords[None, :, 1:] + _places(coords, kernel, dilation)[:, None] - coords.new_tensor(padding)  # (K, V, 3)
    inside = ((seen >= 0) & (seen < coords.new_tensor(shape))).all(-1)
    wanted = _keys(torch.cat((coords[None, :, :1].expand(len(seen), -1, -1), seen), -1), shape)  # (K, V)
    at = torch.searchsorted(keys, wanted).clamp(max=max(0, len(keys) - 1))
    table = torch.where(inside & (keys[at] == wanted), order[at], -1) if len(keys) else wanted
    return _list_pairs(table)


def strided_pairs_reference(
    coords: Tensor, shape: Triple, kernel: Triple, stride: Triple, padding: Triple, dilation: Triple
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Does what the kernel of `strided_plan` does, in plain torch: the specification, and the fallback.

    Args:
        coords: as in `strided_plan`.
        shape: as in `strided_plan`.
        kernel: along z, y, x.
        stride: along z, y, x.
        padding: along z, y, x.
        dilation: along z, y, x.

    Returns:
        Output voxels (V_out, 4), then sources and targets sorted by output, sources and targets sorted by input, all
        (R,), and offsets (K + 1,).

    Raises:
        ValueError: a voxel outside or repeated.
    """
    _check_voxels("strided_pairs", coords, shape)
    out_shape = coords.new_tensor(strided_shape(shape, kernel, stride, padding, dilation))
    shifted = coords[:, None, 1:] + coords.new_tensor(padding) - _places(coords, kernel, dilation)  # (V, K, 3)
    steps = coords.new_tensor(stride)
    output = shifted.div(steps, rounding_mode="floor")
    meets = ((shifted >= 0) & (output * steps == shifted) & (output < out_shape)).all(-1)  # (V, K)
    batch = coords[:, None, :1].expand(-1, meets.shape[1], -1)
    rows = torch.cat((batch, output), -1)[meets]  # (R, 4) by input, then by element
    unique, inverse = torch.unique(rows, dim=0, return_inverse=True)  # sorted
    by_input = torch.full_like(meets, -1, dtype=torch.int64)
    by_input[meets] = inverse
    by_input = by_input.T  # (K, V)
    back_sources, back_targets, offsets = _list_pairs(by_input)
    by_output = coords.new_full((len(by_input), len(unique)), -1)  # (K, V_out)
    element = torch.repeat_interleave(torch.arange(len(by_input), device=coords.device), offsets.diff())
    by_output[element, back_sources] = back_targets
    sources, targets, _ = _list_pairs(by_output)
    return unique, sources, targets, back_sources, back_targets, offsets


def _list_pairs(table: Tensor) -> Pairs:
    """Lists the partners that a table (K, V) holds as sources and their columns as targets."""
    element, target = (table >= 0).nonzero(as_tuple=True)
    offsets = torch.searchsorted(element, torch.arange(len(table) + 1, device=table.device))
    return table[element, target], target, offsets


def _places(coords: Tensor, kernel: Triple, dilation: Triple) -> Tensor:
    """Gives where each element of the kernel lies from its first, (K, 3) z y x."""
    axes = [step * torch.arange(size, device=coords.device) for size, step in zip(kernel, dilation, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)


def _keys(coords: Tensor, shape: Triple) -> Tensor:
    batch, z, y, x = coords.unbind(-1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x


def _check_voxels(function: str, coords: Tensor, shape: Triple) -> None:
    bad = (coords < 0).any(1) | (coords >= coords.new_tensor((_MOST_SAMPLES, *shape))).any(1)
    if not bad.any():
        order = torch.argsort(_keys(coords, shape), stable=True)
        repeats = (coords[order[1:]] == coords[order[:-1]]).all(1)
        bad = torch.zeros_like(bad).index_fill(0, order[1:][repeats], True)
    if bad.any():
        row = int(bad.nonzero()[0])
        voxel = tuple(coords[row].tolist())
        raise ValueError(
            f"{function}: coords must be distinct voxels in {shape} of samples below 2^22, got {voxel} at row {row}"
        )


def _check(function: str, coords: Tensor, shape: Triple) -> None:
    check_tensor(f"{function}: coords", coords, "V 4", INT64)
    if len(shape) != 3:
        raise ValueError(f"{function}: shape must be three numbers z y x, got {shape}")
    for size in shape:
        check_count(f"{function}: shape", size, 1)
    _check_volume(f"{function}: shape", shape)


def _check_volume(argument: str, shape: Triple) -> None:
    if math.prod(shape) >= 2**40:
        raise ValueError(f"{argument} must have fewer than 2^40 voxels, got {shape}")


def _triple(argument: str, value: int | Triple, least: int = 1) -> Triple:
    z, y, x = value if isinstance(value, tuple) and len(value) == 3 else (value, value, value)
    for size in (z, y, x):
        check_count(argument, size, least)  # type: ignore[arg-type]
        if size >= 2**31:  # type: ignore[operator]
            raise ValueError(f"{argument} must be below 2^31, got {size}")
    return z, y, x  # type: ignore[return-value]


def _fake_submanifold(coords: Tensor, shape: list[int], kernel: list[int], dilation: list[int]) -> Pairs:
    num_pairs = torch.library.get_ctx().new_dynamic_size()
    sources, targets = (coords.new_empty(num_pairs) for _ in range(2))
    return sources, targets, coords.new_empty(math.prod(kernel) + 1)


def _fake_strided(
    coords: Tensor, shape: list[int], kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_outputs, num_pairs = (torch.library.get_ctx().new_dynamic_size() for _ in range(2))
    sources, targets, back_sources, back_targets = (coords.new_empty(num_pairs) for _ in range(4))
    offsets = coords.new_empty(math.prod(kernel) + 1)
    return coords.new_empty(num_outputs, 4), sources, targets, back_sources, back_targets, offsets


_library.register("submanifold_pairs", fake=_fake_submanifold)
_library.register("strided_pairs", fake=_fake_strided)
