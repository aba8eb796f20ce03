"""Makes a set in nuScenes format: `python tools/simulate.py --out DIR --scenes N` or `--manifest FILE`.

A finished set is measured by `--out DIR --fingerprint FILE` and held against such a file by `--out DIR --check FILE`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception.simulation.manifest import Manifest
    from perception.simulation.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 with the reason on standard error (a set that has drifted, too), or 130 when interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("simulate: interrupted; the same command goes on with what is finished", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"simulate: {str(error).removeprefix('simulate: ')}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="folder: new, with an unfinished set, or with a finished one to measure"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--scenes",
        metavar="N|TRAIN,VAL,TEST",
        help="how many: up to 10 make v1.0-mini, more v1.0-trainval; three numbers v1.0-trainval and v1.0-test",
    )
    which.add_argument("--manifest", type=Path, help="YAML file of scenes with seeds and splits, and of settings")
    parser.add_argument("--plan", action="store_true", help="print the manifest and make nothing")
    parser.add_argument("--any-generator", action="store_true", help="take a manifest of another generator version")
    parser.add_argument("--seed", type=int, help="of everything that --scenes makes (default 0)")
    parser.add_argument(
        "--preset",
        metavar="A,B",
        default="default",
        help="settings that the options below change, as quick or suite; and scenarios of --scenes, as parking,night "
        "or mix: see docs",
    )
    parser.add_argument("--seconds", type=float, help="length of a scene")
    parser.add_argument("--image-size", metavar="WxH", help="pixels of the pictures, as 400x225")
    parser.add_argument("--sweeps", type=int, help="LiDAR sweeps before each keyframe, 20 a second, 0 to 10 (all)")
    parser.add_argument("--sensors", metavar="A,B", help="kinds, as camera,lidar,radar (the first two always), or all")
    parser.add_argument("--radar-sweeps", type=int, help="radar scans before each keyframe, 13 a second, 0 to 6 (all)")
    parser.add_argument("--fisheye-size", metavar="WxH", help="pixels of the fisheyes' pictures, as 480x320")
    parser.add_argument("--truths", metavar="A,B", help="ground truths, as lidarseg,occupancy, or all, or none")
    parser.add_argument("--can-bus", action="store_true", help="write CAN-bus messages")
    parser.add_argument("--raw-lidar", action="store_true", help="keep the points as measured too, with their times")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--fingerprint", type=Path, metavar="OUT.json", help="write the figures of the finished set")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare the finished set with such a file")
    return parser


def _run(options: argparse.Namespace) -> int:
    makes = options.scenes is not None or options.manifest is not None
    measures = options.fingerprint is not None or options.check is not None
    if not makes and (options.plan or not measures):
        raise ValueError("one of --scenes and --manifest must be given, or for a finished set --fingerprint or --check")
    if options.out is None and not options.plan:
        raise ValueError("--out must be given")
    expected = None if options.check is None else _fingerprint(options.check)
    if makes:
        manifest = _manifest(options)
        if options.plan:
            from perception.simulation.manifest_file import manifest_text

            print(manifest_text(manifest), end="")
            return 0
        _simulate(manifest, options)
    return _measure(options, expected) if measures else 0


def _simulate(manifest: Manifest, options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from perception.simulation.runner import simulate

    with tqdm(unit="keyframe", disable=options.quiet, dynamic_ncols=True) as bar:

        def _show(done: int, total: int) -> None:
            if bar.total != total:
                bar.reset(total)
                bar.initial = done
            bar.update(done - bar.n)

        simulate(manifest, options.out, options.workers, _show)
    keyframes = len(manifest.scenes) * manifest.settings.num_keyframes
    print(f"{options.out}: {', '.join(manifest.versions)}, {len(manifest.scenes)} scenes, {keyframes} keyframes")


def _measure(options: argparse.Namespace, expected: dict[str, Any] | None) -> int:
    """Writes and compares the figures of a finished set; 1 if they have drifted."""
    from perception.formats.files import atomic_writer
    from perception.simulation.fingerprint import below_floor, drift, fingerprint, fingerprint_text

    figures = fingerprint(options.out)
    if options.fingerprint is not None:
        with atomic_writer(options.fingerprint) as file:
            file.write(fingerprint_text(figures).encode())
        print(f"{options.fingerprint}: figures of {', '.join(figures['splits'])}")
        for sentence in below_floor(figures):
            print(f"easier than sim-v1 may be: {sentence}")
    if expected is None:
        return 0
    differences = drift(expected, figures)
    for sentence in differences:
        print(f"simulate: {options.out} differs from {options.check}: {sentence}", file=sys.stderr)
    if not differences:
        print(f"{options.out}: all figures within the tolerances of {options.check}")
    return 1 if differences else 0


def _fingerprint(path: Path) -> dict[str, Any]:
    from perception.simulation.fingerprint import read_fingerprint

    return read_fingerprint(path)


def _manifest(options: argparse.Namespace) -> Manifest:
    """The manifest that the options ask for: presets, then manifest file, then single options."""
    from perception.simulation.manifest_file import read_manifest

    if options.manifest is not None and options.seed is not None:
        raise ValueError("--seed goes with --scenes; a manifest has the seeds of its scenes")
    settings, scenarios = _presets(options.preset)
    if options.manifest is not None:
        if scenarios:
            raise ValueError(f"--preset {scenarios[0]} goes with --scenes; a manifest says what its scenes are")
        manifest = read_manifest(options.manifest, settings, options.any_generator)
    else:
        manifest = _planned(options.scenes, options.seed or 0, settings, scenarios)
    return replace(manifest, settings=replace(manifest.settings, **_changes(options)))


def _presets(text: str) -> tuple[Settings, list[str]]:
    """Settings and the names of scenarios that "A,B" asks for."""
    from perception.simulation.scenarios import SCENARIOS
    from perception.simulation.settings import PRESETS

    names = text.split(",")
    for name in names:
        if name not in PRESETS and name not in SCENARIOS:
            raise ValueError(f"--preset must be of {', '.join((*PRESETS, *SCENARIOS))}, got {name!r}")
    sets = [name for name in names if name in PRESETS]
    if len(sets) > 1:
        raise ValueError(f"--preset must have one of {', '.join(PRESETS)}, got {', '.join(sets)}")
    return PRESETS[sets[0] if sets else "default"], [name for name in names if name in SCENARIOS]


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that single options change."""
    from perception.simulation.settings import SENSORS, TRUTHS

    numbers = ("seconds", "sweeps", "radar_sweeps")
    changes: dict[str, Any] = {name: getattr(options, name) for name in numbers if getattr(options, name) is not None}
    for option, name in (("image_size", "image_size_px"), ("fisheye_size", "fisheye_size_px")):
        if getattr(options, option) is not None:
            changes[name] = _image_size(f"--{option.replace('_', '-')}", getattr(options, option))
    for option, every in (("sensors", SENSORS), ("truths", TRUTHS)):
        text = getattr(options, option)
        if text is not None:
            changes[option] = every if text == "all" else tuple(it for it in text.split(",") if text != "none")
    for option in ("raw_lidar", "can_bus"):
        if getattr(options, option):
            changes[option] = True
    return changes


def _planned(scenes: str, seed: int, settings: Settings, scenarios: Sequence[str]) -> Manifest:
    """The manifest of "N" or "TRAIN,VAL,TEST" scenes."""
    from perception.simulation.manifest import SPLITS, plan_manifest, plan_splits
    from perception.simulation.scenarios import scenario

    try:
        counts = [int(count) for count in scenes.split(",")]
    except ValueError:
        counts = []
    if len(counts) not in (1, len(SPLITS)):
        raise ValueError(f"--scenes must be a number, or three as 60,20,10 for train, val and test, got {scenes!r}")
    if len(counts) == 1:
        return plan_manifest(counts[0], seed, settings, scenario(scenarios))
    return plan_splits(dict(zip(SPLITS, counts, strict=True)), seed, settings, scenario(scenarios))


def _image_size(option: str, text: str) -> tuple[int, int]:
    """Height and width of an option's "WxH"."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"{option} must be WxH, as 400x225, got {text!r}")
    width, height = map(int, sides)
    return height, width


if __name__ == "__main__":
    sys.exit(main())
