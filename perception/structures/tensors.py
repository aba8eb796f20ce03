"""Shape checks and moves that every structure shares."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def check_shapes(owner: object, shapes: Mapping[str, str], sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Checks the tensors of a structure against shapes that share named sizes.

    Args:
        owner: the dataclass that holds the tensors.
        shapes: field name -> axes, such as "N 4 4"; a letter stands for one size throughout, "_" for any.
        sizes: sizes already known.

    Returns:
        The sizes by name.

    Raises:
        TypeError: a field is no tensor.
        ValueError: a shape does not fit.
    """
    sizes = dict(sizes or {})
    for field, pattern in shapes.items():
        value, axes = getattr(owner, field), pattern.split()
        if not isinstance(value, Tensor):
            raise TypeError(f"{type(owner).__name__}: {field} must be a tensor, got {type(value).__name__}")
        fits = value.ndim == len(axes) and all(
            axis == "_" or sizes.setdefault(axis, size) == size if not axis.isdigit() else int(axis) == size
            for axis, size in zip(axes, value.shape, strict=True)
        )
        if not fits:
            known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
            raise ValueError(
                f"{type(owner).__name__}: {field} must be ({', '.join(axes)}) with {known or 'any sizes'}, "
                f"got {tuple(value.shape)}"
            )
    return sizes


def check_numbers(name: str, values: Tensor) -> None:
    """Checks that a batch holds no NaN.

    Args:
        name: of the values and who reads them, for the message.
        values: (B, ...).

    Raises:
        ValueError: it does; names the samples.
    """
    if bool(values.isnan().any()):
        samples = values.isnan().flatten(1).any(1).nonzero()[:, 0].tolist()
        raise ValueError(f"{name} must hold numbers, got NaN in samples {samples} of {len(values)}")


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """Applies a function to every tensor inside dataclasses, mappings and tuples.

    Args:
        value: the structure; never changed.
        function: called with each tensor.

    Returns:
        A structure of the same types.
    """
    result: Any = value
    if isinstance(value, Tensor):
        result = function(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (f.name for f in dataclasses.fields(value) if f.init)
        result = dataclasses.replace(value, **{name: map_tensors(getattr(value, name), function) for name in fields})
    elif isinstance(value, Mapping):
        result = {key: map_tensors(item, function) for key, item in value.items()}
    elif isinstance(value, tuple):
        result = tuple(map_tensors(item, function) for item in value)
    return result


def identity4() -> Tensor:
    """Gives the transform that moves nothing.

    Returns:
        (4, 4) float64.
    """
    return torch.eye(4, dtype=torch.float64)
