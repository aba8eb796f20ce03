"""Picture files -> RGB tensors of one size, and where each recorded pixel went."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import cv2
    from PIL import Image
except ImportError as missing:
    raise ImportError(
        f"perception.data.images needs {missing.name}: pip install 'bev-perception-stack[nuscenes]'"
    ) from missing

_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

_ZERO_RUN_BYTES = 64  # more than the blocks of the other components can explain


@dataclass(frozen=True, kw_only=True)
class ImageFit:
    """How a recorded picture becomes one of the wanted size: reduced while decoding, resized, cropped.

    The aspect ratio is kept (to a rounded pixel); the picture is resized until it covers the wanted size, then
    cropped at the top, where the sky is, and equally at both sides.

    Args:
        reduction: 1, 2, 4 or 8, done by the JPEG decoder in the frequency domain.
        recorded_size_px: height and width of the recorded picture.
        scaled_size_px: height and width after the resize.
        top_px: rows cut off above.
        left_px: columns cut off at the left.
        image_size_px: height and width of the result.
    """

    reduction: int
    recorded_size_px: tuple[int, int]
    scaled_size_px: tuple[int, int]
    top_px: int
    left_px: int
    image_size_px: tuple[int, int]

    @property
    def image2aug(self) -> np.ndarray:
        """(3, 3) float64, recorded pixels to result pixels, with pixel centres at whole numbers."""
        scale_v, scale_u = (
            scaled / full for scaled, full in zip(self.scaled_size_px, self.recorded_size_px, strict=True)
        )
        return np.array(
            [
                [scale_u, 0.0, scale_u / 2 - 0.5 - self.left_px],
                [0.0, scale_v, scale_v / 2 - 0.5 - self.top_px],
                [0.0, 0.0, 1.0],
            ]
        )


def fit_image(recorded_size_px: tuple[int, int], image_size_px: tuple[int, int]) -> ImageFit:
    """Chooses how a recorded picture becomes one of the wanted size.

    Args:
        recorded_size_px: height and width of the recorded picture.
        image_size_px: height and width wanted.

    Returns:
        The steps, such as 900 x 1600 -> 256 x 704: reduced by 2, resized to 396 x 704, 140 rows cut off above.

    Raises:
        ValueError: a size is not positive.
    """
    if min(*recorded_size_px, *image_size_px) < 1:
        raise ValueError(
            f"fit_image: recorded_size_px and image_size_px must be positive, got {recorded_size_px}, {image_size_px}"
        )
    scale = max(wanted / full for wanted, full in zip(image_size_px, recorded_size_px, strict=True))
    height, width = (
        max(wanted, round(full * scale)) for wanted, full in zip(image_size_px, recorded_size_px, strict=True)
    )
    # A size that the reduction does not divide would shift the pixels; a smaller one would blur.
    reduction = next(
        r
        for r in (8, 4, 2, 1)
        if r == 1
        or all(
            full % r == 0 and full // r >= scaled
            for full, scaled in zip(recorded_size_px, (height, width), strict=True)
        )
    )
    return ImageFit(
        reduction=reduction,
        recorded_size_px=recorded_size_px,
        scaled_size_px=(height, width),
        top_px=height - image_size_px[0],
        left_px=(width - image_size_px[1]) // 2,
        image_size_px=image_size_px,
    )


def load_image(
    path: str | Path, image_size_px: tuple[int, int], recorded_size_px: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a JPEG or PNG file as a picture of the wanted size (see `ImageFit`).

    A JPEG is decoded at the smallest of full, half, quarter and eighth size that is no smaller than wanted. Its EXIF
    orientation is not applied: calibration belongs to the pixels as stored. JPEG has no checksum: a file that is cut
    off or zeroed in part is found out, other bytes changed inside the compressed data decode to a wrong picture.

    Args:
        path: the file.
        image_size_px: height and width wanted.
        recorded_size_px: height and width that the file must have; None takes any.

    Returns:
        (H, W, 3) uint8 RGB, and `image2aug` (3, 3) float64 from recorded pixels to those of the result.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: the file is no JPEG or PNG, is cut off or damaged, or has another size; `image_size_px` is wrong.
    """
    data = Path(path).read_bytes()
    header = _open_header(path, data)
    size_px = (header.height, header.width)
    if recorded_size_px is not None and size_px != tuple(recorded_size_px):
        raise ValueError(
            f"load_image: {path}: picture must be {recorded_size_px[1]} x {recorded_size_px[0]} pixels as calibrated, "
            f"got {header.width} x {header.height}"
        )
    fit = fit_image(size_px, image_size_px)
    if header.format == "PNG":
        return _resize_crop(_decode_png(path, header), fit), fit.image2aug
    bgr = _resize_crop(_decode_jpeg(path, data, fit.reduction), fit)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), fit.image2aug


def _open_header(path: str | Path, data: bytes) -> Image.Image:
    if not data:
        raise ValueError(f"load_image: {path}: file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"load_image: {path}: not a readable JPEG or PNG picture") from error


def _decode_jpeg(path: str | Path, data: bytes, reduction: int) -> np.ndarray:
    """(H / reduction, W / reduction, 3) BGR; OpenCV gives None for a file that ends early."""
    flags = _REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None:
        raise ValueError(f"load_image: {path}: JPEG data ends early or is damaged")
    zeroed = _find_zeroed(data)
    if zeroed is not None:
        raise ValueError(f"load_image: {path}: JPEG data is overwritten with zeros from byte {zeroed} on")
    return decoded


def _find_zeroed(data: bytes) -> int | None:
    """Where zeros lie in the compressed data that its encoder cannot have written; decoders go over them in silence.

    In a Huffman table the code made of zeros belongs to the first symbol. Unless that is "end of block", as in tables
    optimised for flat pictures, a long run of zeros would mean blocks of 63 equal coefficients.

    Source:
        ITU-T T.81, annexes B (markers) and C (codes).
    """
    first_symbols: dict[int, int] = {}
    num_components, position = 0, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker in (0xC0, 0xC1):  # sequential; other kinds stay at no components and are not looked at
            num_components = body[5]
        elif marker == 0xC4:
            while len(body) > 17:
                first_symbols[body[0]] = body[17]
                body = body[17 + sum(body[1:17]) :]
        elif marker == 0xDA:
            luminance_table = 0x10 | body[2] & 0x0F
            if body[0] != num_components or first_symbols.get(luminance_table, 0) == 0:
                return None
            found = data.find(bytes(_ZERO_RUN_BYTES), position, data.find(b"\xff\xd9", position))
            return found if found >= 0 else None
    return None


def _decode_png(path: str | Path, header: Image.Image) -> np.ndarray:
    if header.mode.startswith(("I", "F")):
        raise ValueError(f"load_image: {path}: PNG must have 8 bits per channel, got more")
    try:
        return np.asarray(header.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"load_image: {path}: PNG data ends early or is damaged: {error}") from error


def _resize_crop(decoded: np.ndarray, fit: ImageFit) -> np.ndarray:
    height, width = fit.scaled_size_px
    if decoded.shape[:2] != (height, width):
        # Bilinear reads 2 x 2 pixels, which is enough down to half size; below, averaging avoids aliasing.
        fine = 2 * height >= decoded.shape[0] and 2 * width >= decoded.shape[1]
        decoded = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR if fine else cv2.INTER_AREA)
    rows, columns = fit.image_size_px
    return decoded[fit.top_px : fit.top_px + rows, fit.left_px : fit.left_px + columns]  # (H, W, 3)
