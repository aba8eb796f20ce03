"""Makes a set in nuScenes format: `python tools/simulate.py --out DIR --scenes N` or `--manifest FILE`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception.simulation.manifest import Manifest


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 with the reason on standard error, or 130 when interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        _simulate(options)
    except KeyboardInterrupt:
        print("simulate: interrupted; the same command goes on with what is finished", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"simulate: {str(error).removeprefix('simulate: ')}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or one with an unfinished set")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--scenes", type=int, help="how many; up to 10 make v1.0-mini, more v1.0-trainval")
    which.add_argument("--manifest", type=Path, help="YAML file of scenes with seeds and splits, and of settings")
    parser.add_argument("--seed", type=int, help="of everything that --scenes makes (default 0)")
    parser.add_argument("--preset", default="default", help="settings that the options below change: see docs")
    parser.add_argument("--seconds", type=float, help="length of a scene")
    parser.add_argument("--image-size", metavar="WxH", help="pixels of the pictures, as 400x225")
    parser.add_argument("--sweeps", type=int, help="LiDAR sweeps before each keyframe, 20 a second, 0 to 10 (all)")
    parser.add_argument("--raw-lidar", action="store_true", help="keep the points as measured too, with their times")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _simulate(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from perception.simulation.runner import simulate

    manifest = _manifest(options)
    with tqdm(unit="keyframe", disable=options.quiet, dynamic_ncols=True) as bar:

        def _show(done: int, total: int) -> None:
            if bar.total != total:
                bar.reset(total)
                bar.initial = done
            bar.update(done - bar.n)

        simulate(manifest, options.out, options.workers, _show)
    keyframes = len(manifest.scenes) * manifest.settings.num_keyframes
    print(f"{options.out}: {manifest.version}, {len(manifest.scenes)} scenes, {keyframes} keyframes")


def _manifest(options: argparse.Namespace) -> Manifest:
    """The manifest that the options ask for: preset, then manifest file, then single options."""
    from perception.simulation.manifest import PRESETS, plan_manifest
    from perception.simulation.manifest_file import read_manifest

    if options.preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {options.preset!r}")
    if options.manifest is not None and options.seed is not None:
        raise ValueError("--seed goes with --scenes; a manifest has the seeds of its scenes")
    settings = PRESETS[options.preset]
    if options.manifest is not None:
        manifest = read_manifest(options.manifest, settings)
    else:
        manifest = plan_manifest(options.scenes, options.seed or 0, settings)
    changes: dict[str, Any] = {
        name: getattr(options, name) for name in ("seconds", "sweeps") if getattr(options, name) is not None
    }
    if options.image_size is not None:
        changes["image_size_px"] = _image_size(options.image_size)
    if options.raw_lidar:
        changes["raw_lidar"] = True
    return replace(manifest, settings=replace(manifest.settings, **changes))


def _image_size(text: str) -> tuple[int, int]:
    """Height and width of "WxH"."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--image-size must be WxH, as 400x225, got {text!r}")
    width, height = map(int, sides)
    return height, width


if __name__ == "__main__":
    sys.exit(main())
