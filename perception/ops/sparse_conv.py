"""Sparse 3-D convolution on voxels alone, by a plan: submanifold, strided and inverse, with gradients."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import FLOATING, check_same_device, check_tensor
from perception.ops.sparse_conv_plan import SparseConvPlan


def sparse_conv(features: Tensor, weights: Tensor, plan: SparseConvPlan) -> Tensor:
    """Convolves the features of voxels: gathers, multiplies and adds up in one step, nothing stored in between.

    The same bits on every run at any number of threads. float16 and bfloat16 are added up in float32; under autocast
    the result is float32. On the CPU, multiplication and addition are fused where the machine can. Differentiable once.

    Args:
        features: (V_in, C_in) floating, of the plan's `in_coords`.
        weights: (K, C_in, C_out) floating, the kernel's elements in z, y, x order:
            `conv3d.weight.permute(2, 3, 4, 1, 0).flatten(0, 2)` are those of a dense convolution.
        plan: which voxels meet, on the same device.

    Returns:
        (V_out, C_out) of the plan's `coords`, in the wider dtype of `features` and `weights`.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit.

    Source:
        Gather, multiply, scatter by element of the kernel: Yan, Mao and Li, "SECOND", Sensors 2018, section 3.1.2.
    """
    check_tensor("sparse_conv: features", features, f"{len(plan.in_coords)} C_in", FLOATING)
    num_elements = len(plan.offsets) - 1
    check_tensor("sparse_conv: weights", weights, f"{num_elements} {features.shape[1]} C_out", FLOATING)
    check_same_device("sparse_conv", features=features, weights=weights, plan=plan.offsets)
    if not _library.has_kernels(features.device):
        return sparse_conv_reference(features, weights, plan)
    dtype = torch.promote_types(features.dtype, weights.dtype)
    return torch.ops.perception.sparse_conv(
        features.to(dtype),
        weights.to(dtype),
        plan.sources,
        plan.targets,
        plan.back_sources,
        plan.back_targets,
        plan.offsets,
        len(plan.coords),
        plan.mirrored,
    )


def sparse_conv_reference(features: Tensor, weights: Tensor, plan: SparseConvPlan) -> Tensor:
    """Does what `sparse_conv` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        features: as in `sparse_conv`.
        weights: as in `sparse_conv`.
        plan: as in `sparse_conv`.

    Returns:
        As `sparse_conv`.
    """
    dtype = torch.promote_types(features.dtype, weights.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    result = features.new_zeros((len(plan.coords), weights.shape[2]), dtype=wide)
    bounds = plan.offsets.tolist()
    with torch.autocast(features.device.type, enabled=False):
        for element, (begin, end) in enumerate(pairwise(bounds)):
            rows = features[plan.sources[begin:end]].to(wide) @ weights[element].to(wide)  # (R_k, C_out)
            result = result.index_add(0, plan.targets[begin:end], rows)
    return result.to(_library.output_dtype(dtype, features.device))


def _fake(
    features: Tensor,
    weights: Tensor,
    sources: Tensor,
    targets: Tensor,
    back_sources: Tensor,
    back_targets: Tensor,
    offsets: Tensor,
    num_targets: int,
    mirrored: bool,
) -> Tensor:
    return features.new_empty(num_targets, weights.shape[2])


def _fake_weights_backward(
    gradient: Tensor, features: Tensor, sources: Tensor, targets: Tensor, offsets: Tensor
) -> Tensor:
    return features.new_empty(offsets.shape[0] - 1, features.shape[1], gradient.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, ctx.mirrored = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    features, weights, *forward, back_sources, back_targets, offsets = ctx.saved_tensors
    features_gradient = weights_gradient = None
    if ctx.needs_input_grad[0]:
        turned = (weights.flip(0) if ctx.mirrored else weights).transpose(1, 2)  # (K, C_out, C_in)
        backward = back_sources, back_targets, *forward, offsets
        features_gradient = torch.ops.perception.sparse_conv(
            gradient, turned, *backward, features.shape[0], ctx.mirrored
        )
    if ctx.needs_input_grad[1]:
        weights_gradient = torch.ops.perception.sparse_conv_weights_backward(gradient, features, *forward, offsets)
    return features_gradient, weights_gradient, *(None,) * 7


_library.register("sparse_conv", fake=_fake, backward=_backward, setup_context=_setup_context, autocast=True)
_library.register("sparse_conv_weights_backward", fake=_fake_weights_backward)
