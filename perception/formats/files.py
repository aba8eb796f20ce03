"""Writing files so that a half-written one is never taken for a whole one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when the block ends without an error.

    Args:
        path: the file to write; its folder must exist. An existing file is replaced at the end, in one step.

    Yields:
        The open temporary file, in the same folder.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def scene_folder(function: str, folder: str | Path, scene: str, token: str) -> Path:
    """Where the files of a scene's samples lie, in a folder that has one for each scene.

    Args:
        function: name of the caller, for the message.
        folder: of all scenes.
        scene: name of the scene.
        token: of the sample whose file is to lie there.

    Returns:
        The scene's folder.

    Raises:
        ValueError: a name would lead out of the folder.
    """
    for name in (scene, token):
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise ValueError(f"{function}: scene and token must be names of files, got {scene!r} and {token!r}")
    return Path(folder) / scene
