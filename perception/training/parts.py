"""Parts of a detector by their dotted names: frozen ones, and ones that start from weights of another run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import nn


def find_part(detector: nn.Module, name: str) -> nn.Module:
    """Finds a part.

    Args:
        detector: the model.
        name: dotted, such as "branches.lidar"; "" is the model itself.

    Returns:
        The part.

    Raises:
        ValueError: there is none of that name; the nearest names are given.
    """
    known = dict(detector.named_modules())
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3)
        hint = f" (did you mean {' or '.join(map(repr, nearest))}?)" if nearest else ""
        raise ValueError(f"find_part: name must be a part of {type(detector).__name__}, got {name!r}{hint}")
    return known[name]


def freeze(detector: nn.Module, names: Iterable[str]) -> None:
    """Takes parts out of training: no gradients, and evaluation mode, so that batch statistics stay too.

    Args:
        detector: the model.
        names: dotted names of parts.

    Raises:
        ValueError: there is no part of a name.
    """
    for name in names:
        find_part(detector, name).requires_grad_(False).eval()
