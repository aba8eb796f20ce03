"""Lightning's checkpoints with a checksum beside them, verified before they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from perception.runtime.checkpoint import checksum_path, write_checksum


class VerifiedCheckpoints(TorchCheckpointIO):
    """Writes PATH.sha256 beside every checkpoint, and reads none whose checksum is wrong or that would need pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: state of model and trainer.
            path: the file.
            storage_options: must be None.
        """
        super().save_checkpoint(checkpoint, path, storage_options)
        write_checksum(path)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Reads a checkpoint.

        Args:
            path: the file.
            map_location: as in `torch.load`.
            weights_only: makes no difference; nothing but tensors and plain values is ever read.

        Returns:
            State of model and trainer.

        Raises:
            ValueError: the file or its checksum is missing, or they do not fit.
        """
        sidecar = checksum_path(path)
        try:
            wanted = sidecar.read_text(encoding="ascii").split()[:1]
            with Path(path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"load_checkpoint: {path} and {sidecar} must be readable: {error}") from error
        if wanted != [found]:
            raise ValueError(f"load_checkpoint: {path} must have the sha256 in {sidecar}, got {found}")
        state: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint and its checksum.

        Args:
            path: the file.
        """
        super().remove_checkpoint(path)
        checksum_path(path).unlink(missing_ok=True)
