"""Pictures of labels in PNG files: depth as KITTI stores it (16 bit, 1/256 m), point categories in 8 bit.

Source of the depth format: Uhrig et al., "Sparsity Invariant CNNs", 3DV 2017 (KITTI depth development kit).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from perception.formats.classes import POINT_CATEGORIES

_STEPS_PER_M = 256
_DEEPEST = 65535
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_SIDE_PX = 1 << 14


def depth_png(depth_m: np.ndarray) -> bytes:
    """The content of a depth picture.

    Args:
        depth_m: (H, W) metres along the optical axis, above 0; infinite where there is nothing.

    Returns:
        The file: 1/256 m, 0 where there is nothing, 65535 from 255.99 m on.

    Raises:
        ValueError: it is no such array.
    """
    if depth_m.ndim != 2 or not (depth_m > 0).all():
        raise ValueError(f"depth_png: depth_m must be (H, W) and above 0, got {depth_m.shape}, {np.min(depth_m)}")
    steps = np.clip(np.rint(depth_m * _STEPS_PER_M), 1, _DEEPEST)
    return _png(np.where(np.isfinite(depth_m), steps, 0).astype(np.uint16))


def read_depth(path: str | Path) -> np.ndarray:
    """The depth of each pixel.

    Args:
        path: a PNG file of 16 bit.

    Returns:
        (H, W) float32 metres along the optical axis; infinite where there is nothing.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged or holds something else.
    """
    steps = _read_png("read_depth", Path(path), 16)
    return np.where(steps > 0, steps / np.float32(_STEPS_PER_M), np.float32(np.inf)).astype(np.float32)


def semantic_png(categories: np.ndarray) -> bytes:
    """The content of a picture of categories.

    Args:
        categories: (H, W) uint8 index into `POINT_CATEGORIES`; `noise` (0) in the sky.

    Returns:
        The file.

    Raises:
        ValueError: it is no such array.
    """
    if categories.ndim != 2 or categories.dtype != np.uint8 or categories.max() >= len(POINT_CATEGORIES):
        raise ValueError(
            f"semantic_png: categories must be (H, W) uint8 in 0..31, got {categories.shape} {categories.dtype}"
        )
    return _png(categories)


def read_semantics(path: str | Path) -> np.ndarray:
    """The category of each pixel.

    Args:
        path: a PNG file of 8 bit.

    Returns:
        (H, W) uint8 index into `POINT_CATEGORIES`; `noise` (0) in the sky.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged or holds something else, or a value is no category.
    """
    categories = _read_png("read_semantics", Path(path), 8)
    if categories.max() >= len(POINT_CATEGORIES):
        raise ValueError(f"read_semantics: {path}: values must be in 0..31, got {categories.max()}")
    return categories


def _png(picture: np.ndarray) -> bytes:
    written, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert written, "OpenCV must be able to write PNG"
    return data.tobytes()


def _read_png(function: str, path: Path, bits: int) -> np.ndarray:
    """(H, W) of one channel; OpenCV shows what it could decode of a damaged file, so the sums are checked first."""
    content = path.read_bytes()
    wrong = _damage(content, bits)
    picture = None if wrong else cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 2 or picture.itemsize * 8 != bits:
        raise ValueError(f"{function}: {path}: must be a PNG file of one channel of {bits} bit: {wrong or 'damaged'}")
    return picture


def _damage(content: bytes, bits: int) -> str | None:
    """What is wrong with a PNG file, as far as its chunks show it."""
    if not content.startswith(_SIGNATURE + b"\0\0\0\rIHDR") or len(content) < 33:
        return "no header"
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    if (depth, colour) != (bits, 0):
        return f"{depth} bit of colour type {colour}"
    if not (0 < width <= _MAX_SIDE_PX and 0 < height <= _MAX_SIDE_PX):
        return f"{width} x {height} pixels"
    at, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        if at + 12 > len(content):
            return "cut off"
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 4 : at + 8 + size]
        if content[at + 8 + size : at + 12 + size] != struct.pack(">I", zlib.crc32(body)):
            return f"chunk at byte {at} is damaged or cut off"
        at += 12 + size
    return None
