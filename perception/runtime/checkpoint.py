"""Weights on disk: written whole or not at all, and verified before they are read."""

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from perception.formats.files import atomic_writer

_LIGHTNING_PREFIX = "detector."
_SHOWN_NAMES = 5


def save_weights(
    detector: nn.Module, path: Path | str, metadata: Mapping[str, str] | None = None, *, half_precision: bool = False
) -> None:
    """Writes the weights as safetensors with PATH.sha256 beside them.

    A reader never sees half a file: both are written under other names, synced and renamed. A crash between the two
    renames leaves weights with the wrong checksum, which `load_weights` refuses.

    Args:
        detector: the model.
        path: file ending in ".safetensors".
        metadata: text to keep in the file.
        half_precision: whether to write fractions as float16, but for tensors with a number beyond its range.

    Raises:
        ValueError: another ending.
        OSError: the disk refuses.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_weights: path must end in .safetensors, got {path}")
    # Own copies: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in detector.state_dict().items()}
    if half_precision:
        tensors = {name: _halved(tensor) for name, tensor in tensors.items()}
    data = save(tensors, dict(metadata or {}))
    _replace(path, data)
    _replace(checksum_path(path), _checksum_line(data, path.name))


def write_checksum(path: Path | str) -> None:
    """Writes PATH.sha256 for a file that something else wrote, such as a Lightning checkpoint.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read, or the checksum not be written.
    """
    path = Path(path)
    _replace(checksum_path(path), _checksum_line(path.read_bytes(), path.name))


def checksum_path(path: Path | str) -> Path:
    """Gives the name of a file's checksum.

    Args:
        path: the file.

    Returns:
        PATH.sha256, in the format of the `sha256sum` program.
    """
    return Path(f"{path}.sha256")


def load_weights(detector: nn.Module, path: Path | str, part: str = "") -> None:
    """Fills a model with the weights of a file whose checksum is right.

    Nothing is unpickled except what `weights_only` admits, and the model is untouched unless every tensor fits and is
    finite: a diverged model would find nothing, without a word.

    Args:
        detector: the model.
        path: ".safetensors" as `save_weights` writes it, or a Lightning ".ckpt", of which the detector's part is read.
        part: dotted name of the one part to fill, with the tensors of that part in the file; "" fills all.

    Raises:
        ValueError: another ending, a missing or wrong checksum, a damaged file, or tensors that are missing,
            unexpected, of another shape or kind, or not finite.
    """
    path = Path(path)
    readers: dict[str, Callable[[bytes, Path], dict[str, Tensor]]] = {
        ".safetensors": _read_safetensors,
        ".ckpt": _read_lightning,
    }
    if path.suffix not in readers:
        raise ValueError(f"load_weights: path must end in {' or '.join(readers)}, got {path}")
    weights = readers[path.suffix](_read_verified(path), path)
    if part:
        weights = {name.removeprefix(f"{part}."): weights[name] for name in weights if name.startswith(f"{part}.")}
    filled = detector.get_submodule(part)
    _check_fit(filled.state_dict(), weights, path)
    filled.load_state_dict(weights)


def _read_verified(path: Path) -> bytes:
    """Reads the file once, so that what was verified is what is parsed."""
    try:
        data = path.read_bytes()
        wanted = checksum_path(path).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"load_weights: {path} and {checksum_path(path)} must be readable: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if not wanted or wanted[0].lower() != found:
        raise ValueError(
            f"load_weights: {path} must have the sha256 in {checksum_path(path)}, {' '.join(wanted[:1]) or 'nothing'}, "
            f"got {found}"
        )
    return data


def _read_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load_weights: {path} must be a whole safetensors file: {error}") from error
    return weights


def _read_lightning(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler ends in bare asserts and whatever a damaged call raises
        raise ValueError(f"load_weights: {path} must hold tensors and plain values alone: {error}") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"load_weights: {path} must be a Lightning checkpoint with a state_dict of tensors")
    prefix = _LIGHTNING_PREFIX
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _check_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    shared = wanted.keys() & given.keys()
    reshaped = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(shared)
        if given[name].shape != wanted[name].shape
    ]
    alike = [name for name in sorted(shared) if given[name].shape == wanted[name].shape]
    other = [name for name in alike if not _same_kind(wanted[name], given[name])]
    faults = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": reshaped,
        "of another kind of number": other,
        "not finite": [name for name in alike if name not in other and not bool(given[name].isfinite().all())],
    }
    told = [f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names]
    if told:
        raise ValueError(f"load_weights: {path} must hold the tensors of this detector, got {'; '.join(told)}")


def _halved(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool((half.isfinite() == tensor.isfinite()).all()) else tensor


def _same_kind(wanted: Tensor, given: Tensor) -> bool:
    """Whether the copy keeps the values: plain memory, and fractions for fractions, of whatever precision."""
    plain = given.layout is torch.strided and not given.is_meta and not given.is_quantized and not given.is_complex()
    return plain and given.is_floating_point() == wanted.is_floating_point()


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")


def _checksum_line(data: bytes, name: str) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()


def _replace(path: Path, data: bytes) -> None:
    with atomic_writer(path) as file:
        file.write(data)
