"""PNG files of pictures."""

from pathlib import Path

import numpy as np

from perception.formats.files import atomic_writer

try:
    import cv2
except ImportError as missing:
    raise ImportError(
        f"perception.visualization needs {missing.name}: pip install 'bev-perception-stack[viz]'"
    ) from missing


def write_png(path: Path | str, picture: np.ndarray) -> None:
    """Writes a picture; the file appears under its name only when it is complete.

    Args:
        path: the file; its folder is made where it does not exist, an older file is replaced.
        picture: (H, W, 3) uint8 RGB.

    Raises:
        ValueError: it is no such picture.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"write_png: picture must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path) as file:
        file.write(encoded.tobytes())
