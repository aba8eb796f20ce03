"""Command-line options that several tools have, to run a trained model or to open an index; light to import."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perception.data.index import Index


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A trained model, a set, and which of its sensors to use.

    Args:
        config: of the training run.
        checkpoint: the weights, with their checksum beside them.
        dataroot: of the set; None takes the one in the config.
        version: of the set; None takes the one in the config.
        index: its index, made where there is none; None takes `out_dir`/index-<version>.
        out_dir: receives what is written.
        sensors: such as "camera", "fisheye", "lidar", "radar"; None takes all that the config has.
        on_error: "raise" or "skip".
        device: such as "cuda"; a GPU where there is one if empty.
        allowed_packages: packages that the config may name besides the usual ones.
    """

    config: Path
    checkpoint: Path
    dataroot: Path | None
    version: str | None
    index: Path | None
    out_dir: Path
    sensors: tuple[str, ...] | None
    on_error: str
    device: str
    allowed_packages: tuple[str, ...]


_SET_FOLDERS = ("samples", "sweeps", "maps", "can_bus", "lidarseg", "panoptic", "gts", "near_field")
_RESULT_FOLDERS = ("near_field", "map", "occupancy", "tracking")
_SENSORS_HELP = (
    "comma-separated, of camera, fisheye, lidar, radar, radar4d and ultrasonic; default all that the config has"
)


def add_run_arguments(parser: argparse.ArgumentParser, on_error: str) -> None:
    """Adds the options.

    Args:
        parser: the parser to add to; its own positional arguments come after these.
        on_error: default of that option.
    """
    parser.add_argument("config", type=Path, help="of the training run, such as RUN/config.yaml")
    parser.add_argument("checkpoint", type=Path, help="RUN/weights.safetensors, or a .ckpt with a .sha256 beside it")
    parser.add_argument("--dataroot", type=Path, help="folder of a set in nuScenes' format; default as in the config")
    parser.add_argument("--version", help="of the set; default as in the config")
    parser.add_argument(
        "--index", type=Path, help="of the set, made where there is none; default OUT_DIR/index-VERSION"
    )
    parser.add_argument("--out-dir", type=Path, required=True, help="receives what is written")
    parser.add_argument("--sensors", help=_SENSORS_HELP)
    parser.add_argument(
        "--on-error", choices=("raise", "skip"), default=on_error, help="at a damaged file; default %(default)s"
    )
    parser.add_argument("--device", default="", help="such as cuda; default a GPU where there is one")
    parser.add_argument("--allow-package", action="append", default=[], help="one more that the config may name")


def run_options(parsed: argparse.Namespace) -> RunOptions:
    """Collects the options.

    Args:
        parsed: by a parser with `add_run_arguments`.

    Returns:
        The options.
    """
    return RunOptions(
        config=parsed.config,
        checkpoint=parsed.checkpoint,
        dataroot=parsed.dataroot,
        version=parsed.version,
        index=parsed.index,
        out_dir=parsed.out_dir,
        sensors=tuple(parsed.sensors.split(",")) if parsed.sensors is not None else None,
        on_error=parsed.on_error,
        device=parsed.device,
        allowed_packages=tuple(parsed.allow_package),
    )


def check_out_dir(out_dir: Path, dataroot: Path, version: str) -> None:
    """Refuses a folder for results of which a file could replace one of the set's.

    Args:
        out_dir: receives results, and predictions in `near_field`, `map` and `occupancy`; need not exist.
        dataroot: of the set.
        version: of the set.

    Raises:
        ValueError: the folder, or one of those in it, is one of the set's, perhaps by a link.
    """
    of_set = {(dataroot / name).resolve() for name in ("", version, *_SET_FOLDERS)}
    for folder in (out_dir, *(out_dir / name for name in _RESULT_FOLDERS)):
        if folder.resolve() in of_set:
            raise ValueError(
                f"--out-dir must not be where the set's own files lie, {folder} is {folder.resolve()} of {dataroot}"
            )


def given_index(parsed: argparse.Namespace, scratch: Path) -> Index:
    """Opens the index that the options `dataroot`, `version` and `index` name; without the last, makes one.

    Args:
        parsed: of the command line.
        scratch: folder for one that is made.

    Returns:
        The index.

    Raises:
        FileNotFoundError: there is no such index, or no such version of the set.
        ValueError: the dataroot is no folder; the index is of another version.
    """
    from perception.data.index import Index
    from perception.data.index_build import build_index

    if not parsed.dataroot.is_dir():
        raise ValueError(f"--dataroot must be a folder, got {parsed.dataroot}")
    if parsed.index:
        index = Index.open(parsed.index)
        if index.version != parsed.version:
            raise ValueError(f"--index must be of version {parsed.version}, {parsed.index} is of {index.version}")
        return index
    build_index(parsed.dataroot, parsed.version, scratch / "index")
    return Index.open(scratch / "index")
