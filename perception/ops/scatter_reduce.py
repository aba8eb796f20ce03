"""Sum, mean or maximum of the rows of each segment, with gradients: points into voxels, voxels into pillars."""

from typing import Any, Literal

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import FLOATING, INT64, check_count, check_same_device, check_tensor

Reduction = Literal["sum", "mean", "max"]


def scatter_reduce(features: Tensor, index: Tensor, num_segments: int, reduce: Reduction) -> Tensor:
    """Reduces the rows of each segment to one, in the order of the rows: the same bits on every run.

    float16 and bfloat16 are added up in float32; under autocast the result is float32. Of equal maxima the first row
    receives the gradient; NaN is the maximum of a segment that holds one. Differentiable once.

    Args:
        features: (P, C) floating.
        index: (P,) int64, the segment of each row in [0, num_segments), or -1 to leave the row out.
        num_segments: number of segments S.
        reduce: "sum", "mean" or "max".

    Returns:
        (S, C) in the dtype of `features`; 0 for a segment without rows. On CUDA, an index out of range counts as -1
        (finding it would stall the device); on the CPU it is an error.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit, an index out of range, or an unknown reduction.
    """
    check_tensor("scatter_reduce: features", features, "P C", FLOATING)
    check_tensor("scatter_reduce: index", index, str(len(features)), INT64)
    check_same_device("scatter_reduce", features=features, index=index)
    check_count("scatter_reduce: num_segments", num_segments)
    if reduce not in ("sum", "mean", "max"):
        raise ValueError(f'scatter_reduce: reduce must be "sum", "mean" or "max", got {reduce!r}')
    if not _library.has_kernels(features.device):
        return scatter_reduce_reference(features, index, num_segments, reduce)
    return torch.ops.perception.scatter_reduce(features, index, num_segments, reduce)[0]


def scatter_reduce_reference(features: Tensor, index: Tensor, num_segments: int, reduce: Reduction) -> Tensor:
    """Does what `scatter_reduce` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        features: as in `scatter_reduce`.
        index: as in `scatter_reduce`.
        num_segments: as in `scatter_reduce`.
        reduce: as in `scatter_reduce`.

    Returns:
        As `scatter_reduce`.

    Raises:
        ValueError: an index out of range (on the CPU).
    """
    outside = (index < -1) | (index >= num_segments)  # (P,)
    if index.device.type == "cpu" and outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(f"scatter_reduce: index must be in [-1, {num_segments}), got {int(index[row])} at row {row}")
    kept = (~outside & (index >= 0)).nonzero()[:, 0]  # (K,)
    index = index[kept]
    rows = features[kept].to(torch.promote_types(features.dtype, torch.float32))  # (K, C)
    counts = torch.bincount(index, minlength=num_segments)[:, None]  # (S, 1)
    if reduce == "max":
        reduced = _largest(rows, index, num_segments)
    else:
        reduced = rows.new_zeros(num_segments, rows.shape[1]).index_add(0, index, rows)  # (S, C)
        if reduce == "mean":
            reduced = reduced / counts.clamp(min=1)
    return reduced.to(_library.output_dtype(features.dtype, features.device))


def _largest(rows: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Takes each segment's maximum from the first row that holds it, so that this row alone receives the gradient."""
    per_row = index[:, None].expand_as(rows)  # (K, C)
    values = rows.detach()
    shape = num_segments, rows.shape[1]
    largest = values.new_zeros(shape).scatter_reduce(0, per_row, values, "amax", include_self=False)  # (S, C)
    of_row = largest[index]  # (K, C)
    holds = (values == of_row) | (values.isnan() & of_row.isnan())
    row_number = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    candidates = torch.where(holds, row_number, len(rows))
    first = index.new_full(shape, len(rows)).scatter_reduce(0, per_row, candidates, "amin")  # (S, C), K where empty
    padded = torch.cat((rows, rows.new_zeros(1, rows.shape[1])))  # (K + 1, C)
    return padded.gather(0, first)


def _fake(features: Tensor, index: Tensor, num_segments: int, reduce: str) -> tuple[Tensor, Tensor, Tensor]:
    channels = features.shape[1]
    largest = index.new_empty(num_segments if reduce == "max" else 0, channels, dtype=torch.int32)
    return features.new_empty(num_segments, channels), index.new_empty(num_segments), largest


def _fake_backward(gradient: Tensor, index: Tensor, counts: Tensor, largest: Tensor, reduce: str) -> Tensor:
    return gradient.new_empty(index.shape[0], gradient.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, index, _, ctx.reduce = inputs
    _, counts, largest = output
    ctx.save_for_backward(index, counts, largest)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.perception.scatter_reduce_backward(gradient, *ctx.saved_tensors, ctx.reduce), None, None, None


_library.register("scatter_reduce", fake=_fake, backward=_backward, setup_context=_setup_context, autocast=True)
_library.register("scatter_reduce_backward", fake=_fake_backward)
