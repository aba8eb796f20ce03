"""Loads the compiled kernels and attaches to each op what torch asks of it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent
_log = logging.getLogger(__name__)


def has_kernels(device: torch.device) -> bool:
    """Says whether compiled kernels run on this device; where they do not, an op runs its plain-torch reference."""
    return device.type in _DEVICES


def output_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Gives the dtype of a reference's result: that of its inputs, or float32 where autocast would have cast them."""
    autocast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.promote_types(dtype, torch.float32) if autocast else dtype


def register(
    op: str,
    *,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
    autocast: bool = False,
) -> None:
    """Attaches to a compiled op what tracing, autograd and autocast need; does nothing without kernels.

    Args:
        op: name in the `perception` namespace.
        fake: gives outputs of the right shape, dtype and device without computing.
        backward: (ctx, *output gradients) -> input gradients.
        setup_context: (ctx, inputs, output) -> None, keeps what `backward` needs.
        autocast: under autocast, cast floating inputs to float32, the dtype that the kernels compute in.
    """
    if not _DEVICES:
        return
    name = f"perception::{op}"
    torch.library.register_fake(name, fake)
    if backward is not None:
        torch.library.register_autograd(name, backward, setup_context=setup_context)
    if autocast:
        for device_type in ("cpu", "cuda"):
            torch.library.register_autocast(name, device_type, torch.float32)


def _load() -> frozenset[str]:
    if os.environ.get("PERCEPTION_NO_EXTENSION") == "1":
        _log.info("PERCEPTION_NO_EXTENSION=1: ops run as plain torch")
        return frozenset()
    if not _load_library("_C_cpu.so", "pip install -e . --no-build-isolation"):
        return frozenset()
    if torch.cuda.is_available() and _load_library("_C_cuda.so", "python setup.py build_cuda"):
        return frozenset(("cpu", "meta", "cuda"))
    return frozenset(("cpu", "meta"))


def _load_library(file: str, build_command: str) -> bool:
    path = _FOLDER / file
    if not path.exists():
        _log.warning("%s is not built: its ops run as plain torch, slower. To build it: %s", path, build_command)
        return False
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(
            f"perception.ops: {path} must load beside torch {torch.__version__}, got: {error.__cause__ or error}. "
            f"Rebuild it ({build_command}) or set PERCEPTION_NO_EXTENSION=1"
        ) from error
    return True


_DEVICES = _load()
