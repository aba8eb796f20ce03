"""Argument checks that every op shares."""

from collections.abc import Sequence

import torch
from torch import Tensor

from perception.geometry.grid import Grid

INT64 = (torch.int64,)
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
FULL_PRECISION = (torch.float32, torch.float64)


def check_tensor(argument: str, tensor: Tensor, layout: str, dtypes: Sequence[torch.dtype]) -> None:
    """Checks the axes and the dtype of a tensor.

    Args:
        argument: op and argument, "bev_pool: depth".
        tensor: the argument.
        layout: axes by name, where a number is an exact size and `3+` a least one: "P 3+".
        dtypes: dtypes that are allowed.

    Raises:
        TypeError: not a tensor.
        ValueError: wrong number of axes, size or dtype.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{argument} must be a tensor, got {type(tensor).__name__}")
    axes = layout.split()
    fits = tensor.ndim == len(axes) and all(_fits(axis, size) for axis, size in zip(axes, tensor.shape, strict=True))
    if not fits or tensor.dtype not in dtypes:
        wanted = " or ".join(_name(dtype) for dtype in dtypes)
        raise ValueError(f"{argument} must be ({', '.join(axes)}) {wanted}, got {describe(tensor)}")


def check_same_device(function: str, **tensors: Tensor) -> None:
    """Checks that tensors share a device.

    Args:
        function: name of the op.
        tensors: the arguments by name.

    Raises:
        ValueError: they are on different devices.
    """
    first, *others = (tensor.device for tensor in tensors.values())
    if any(device != first for device in others):
        devices = ", ".join(str(tensor.device) for tensor in tensors.values())
        raise ValueError(f"{function}: {', '.join(tensors)} must be on one device, got {devices}")


def check_count(argument: str, value: int, least: int = 0) -> None:
    """Checks a whole number.

    Args:
        argument: op and argument, "voxelize_hard: max_points".
        value: the argument.
        least: smallest value that is allowed.

    Raises:
        ValueError: not a whole number, below `least` or too large for 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < least:
        raise ValueError(f"{argument} must be a whole number of at least {least}, got {value!r}")
    if isinstance(value, int) and value >= 2**63:
        raise ValueError(f"{argument} must be below 2^63, got {value}")


def check_grid(function: str, grid: Grid) -> None:
    """Checks that a grid is one.

    Args:
        function: name of the op.
        grid: the argument.

    Raises:
        TypeError: something else.
    """
    if not isinstance(grid, Grid):
        raise TypeError(f"{function}: grid must be a Grid, got {type(grid).__name__}")


def describe(tensor: Tensor) -> str:
    """Gives shape and dtype for error messages: "(100, 3) float32"."""
    return f"{tuple(tensor.shape)} {_name(tensor.dtype)}"


def _fits(axis: str, size: int) -> bool:
    if axis.endswith("+"):
        return size >= int(axis[:-1])
    return size == int(axis) if axis.isdigit() else True


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
