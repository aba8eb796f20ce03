"""What the processes of a job share beside gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_ROWS = 2  # running mean and variance


def share_batch_statistics(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Averages running statistics of batch norms over the processes that changed them since `before` was taken.

    `DistributedDataParallel` would hand out those of rank 0. Where rank 0 has samples with cameras alone, the LiDAR
    branch would never get any.

    Args:
        model: changed in place; equal on all processes afterwards if it was before.
        before: what `count_batches` gave before the forward pass.
    """
    norms = _tracking_norms(model)
    if not norms:
        return
    counts = count_batches(model)
    weights = torch.stack([counts[name] > before[name] for name in norms]).float()  # N x () -> (N,)
    rows = [
        torch.stack((norm.running_mean, norm.running_var)).float() * weight  # type: ignore[arg-type]
        for norm, weight in zip(norms.values(), weights, strict=True)
    ]
    flat = torch.cat([weights, *(row.flatten() for row in rows)])  # (N + sum of 2 C,)
    torch.distributed.all_reduce(flat)
    totals, sums = flat[: len(norms)], flat[len(norms) :]
    for norm, total, start in zip(norms.values(), totals, before.values(), strict=True):
        size = _ROWS * norm.num_features
        mean, variance = (sums[:size] / total.clamp(min=1)).view(_ROWS, -1)
        sums = sums[size:]
        changed = total > 0
        norm.running_mean.copy_(torch.where(changed, mean, norm.running_mean))  # type: ignore[union-attr,arg-type]
        norm.running_var.copy_(torch.where(changed, variance, norm.running_var))  # type: ignore[union-attr,arg-type]
        norm.num_batches_tracked.copy_(start + changed)  # type: ignore[union-attr]


def count_batches(model: nn.Module) -> dict[str, Tensor]:
    """Copies how many batches each batch norm has seen.

    Args:
        model: the model.

    Returns:
        Scalar int64 per name of a batch norm that keeps running statistics.
    """
    return {name: norm.num_batches_tracked.clone() for name, norm in _tracking_norms(model).items()}  # type: ignore[union-attr]


def _tracking_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats and part.running_mean is not None
    }
