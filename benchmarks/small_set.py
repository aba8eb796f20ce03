"""The small set in nuScenes format that a benchmark reads or copies: the caller's own, or else a simulated one."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SIMULATE = Path(__file__).parents[1] / "tools" / "simulate.py"
VERSION = "v1.0-mini"


def add_set_arguments(parser: argparse.ArgumentParser, default: Path | None = None) -> None:
    """Adds the options that name the set.

    Args:
        parser: the parser to add to.
        default: dataroot where the caller names none; None simulates a set.
    """
    text = f"of a small set in nuScenes format (default: {default or 'two short drives are simulated'})"
    parser.add_argument("--dataroot", type=Path, default=default, help=text)
    parser.add_argument("--version", default=VERSION, help="its version")


def small_set(options: argparse.Namespace, folder: Path, *settings: str) -> Path:
    """Finds the set, or makes one with six cameras and a LiDAR.

    It is made in a process of its own: what one has used for memory counts for those that it starts.

    Args:
        options: see `add_set_arguments`.
        folder: where a simulated one goes.
        settings: more options of `tools/simulate.py`.

    Returns:
        Its dataroot.

    Raises:
        ValueError: a set would be simulated, and the version asked for is not the one that it has.
        subprocess.CalledProcessError: it cannot be made.
    """
    if options.dataroot is not None:
        dataroot: Path = options.dataroot
        return dataroot
    if options.version != VERSION:
        raise ValueError(f"benchmark: --version must be {VERSION} without --dataroot, got {options.version}")
    command = [sys.executable, str(SIMULATE), "--out", str(folder), "--scenes", "2", "--seconds", "2", "--quiet"]
    subprocess.run([*command, *settings], check=True, stdout=subprocess.DEVNULL)
    return folder
