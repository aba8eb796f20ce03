"""Arrays in `.npz` files that anybody may have written: nothing is unpacked that is not as large as it must be."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_MAX_HEADER_BYTES = 1024


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a compressed `.npz` file; the same arrays give the same bytes.

    Args:
        arrays: by key.

    Returns:
        The file.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy")  # dated 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def read_npz(
    function: str, path: Path, shapes: Mapping[str, tuple[int, ...] | None], dtype: type[np.generic], max_bytes: int
) -> dict[str, np.ndarray]:
    """Some arrays of a `.npz` file.

    Args:
        function: name of the reader, for messages.
        path: the file.
        shapes: by key, what its array must be; None for one axis of any length.
        dtype: of all of them.
        max_bytes: the most that one array may hold.

    Returns:
        The arrays by key; further keys are not read.

    Raises:
        FileNotFoundError: the file is missing.
        OSError: it cannot be read.
        ValueError: the file is damaged, lacks an array, or one has another shape or dtype.
    """
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {key: _array(archive, key, shape, dtype, max_bytes) for key, shape in shapes.items()}
    except KeyError as error:
        raise ValueError(f"{function}: {path}: must hold {', '.join(shapes)}: {error.args[0]}") from error
    except Exception as error:  # unpackers and numpy's parser of headers, which is Python's own, fail in a dozen ways
        raise ValueError(f"{function}: {path}: {error}") from error


def _array(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...] | None, dtype: type[np.generic], max_bytes: int
) -> np.ndarray:
    size = archive.getinfo(f"{key}.npy").file_size
    if size > max_bytes + _MAX_HEADER_BYTES:
        raise ValueError(f"{key} must take at most {max_bytes} bytes, got {size}")
    member = io.BytesIO(archive.read(f"{key}.npy"))  # checks the sum
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"{key} must be stored in version 1.0 of the format, got {version}")
    stored, by_columns, stored_type = np.lib.format.read_array_header_1_0(member)
    if stored_type != dtype:
        raise ValueError(f"{key} must be {np.dtype(dtype)}, got {stored_type}")
    if (len(stored) != 1) if shape is None else (stored != shape):
        raise ValueError(f"{key} must be {shape or '(P,)'}, got {stored}")
    values = np.frombuffer(member.read(), dtype)
    if len(values) != np.prod(stored):
        raise ValueError(f"{key} must have {np.prod(stored)} values, got {len(values)}")
    return values.reshape(stored, order="F" if by_columns else "C").copy()
