"""MP4 videos of pictures."""

import importlib
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np


class VideoWriter:
    """Writes pictures to an H.264 MP4 file, which appears under its name only when it is complete.

    Use it as a context manager; where the block ends with an error, no file is left.

    Args:
        path: the file to write; an older one is replaced.
        frames_per_s: how fast it plays.
        quality: x264's constant rate factor, lower is better and larger.

    Raises:
        ImportError: PyAV is not installed.
        OSError: the file cannot be written, or the pictures not be encoded.
        ValueError: frames_per_s is out of range, the block ends without a picture, or pictures differ in size.
    """

    def __init__(self, path: Path | str, frames_per_s: float = 2.0, quality: int = 20) -> None:
        if not 0.01 <= frames_per_s <= 1000:
            raise ValueError(f"VideoWriter: frames_per_s must be in 0.01..1000, got {frames_per_s}")
        self._av = _import_av()
        self._path = Path(path)
        self._partial = self._path.with_name(f".{self._path.name}.partial")
        self._rate = Fraction(frames_per_s).limit_denominator(1001)
        self._quality = quality
        self._container: Any = None
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> "VideoWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # With its protocol: FFmpeg would take a folder such as "run:1" for one.
        self._container = self._av.open(f"file:{self._partial}", mode="w", format="mp4")
        return self

    def add(self, picture: np.ndarray) -> None:
        """Appends a picture.

        Args:
            picture: (H, W, 3) uint8 RGB; an odd row or column at the end is repeated, as H.264 wants even sizes.

        Raises:
            ValueError: it is no such picture, or differs in size from the first.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"VideoWriter.add: picture must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
        if self._stream is None:
            self._shape = picture.shape
            self._open_stream()
        if picture.shape != self._shape:
            raise ValueError(f"VideoWriter.add: picture must be {self._shape} as the first, got {picture.shape}")
        even = [(0, size % 2) for size in picture.shape[:2]]
        padded = np.pad(picture, (*even, (0, 0)), mode="edge")
        self._encode(self._av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        complete = kind is None and self._stream is not None
        try:
            if complete:
                self._encode(None)
            self._container.close()
            if complete:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)
        if kind is None and not complete:
            raise ValueError(f"VideoWriter: {self._path} must have at least one picture, got none")

    def _encode(self, frame: Any) -> None:
        """Writes a frame, or with None what the encoder still holds."""
        try:
            self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise OSError(f"VideoWriter: {self._path} of {self._shape} cannot be encoded: {error}") from error

    def _open_stream(self) -> None:
        height, width = self._shape[:2]
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(self._quality), "preset": "medium"}


def _import_av() -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError("VideoWriter: needs PyAV; install it with the extra `viz` (pip install 'av>=12')") from error
