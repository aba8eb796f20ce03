"""Makes the index of a dataset: `python tools/create_data.py nuscenes --dataroot D --version V --out-dir O`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, or 1 with the reason on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ImportError, OSError, ValueError) as error:
        print(f"create_data: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    formats = parser.add_subparsers(dest="format", required=True)
    nuscenes = formats.add_parser("nuscenes", help="a set in nuScenes format: JSON tables beside sensor files")
    nuscenes.add_argument("--dataroot", type=Path, required=True, help="the folder that holds the version folder")
    nuscenes.add_argument("--version", required=True, help="name of the folder with the tables, as v1.0-mini")
    nuscenes.add_argument("--out-dir", type=Path, required=True, help="the index; one that is there is replaced")
    nuscenes.add_argument("--quiet", action="store_true", help="no progress bars")
    nuscenes.set_defaults(run=_nuscenes)
    return parser


def _nuscenes(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from perception.data.index import Index
    from perception.data.index_build import build_index

    bars: dict[str, tqdm] = {}

    def _show(table: str, done: int, total: int) -> None:
        if table not in bars:
            bars[table] = tqdm(total=total, desc=table, unit="B", unit_scale=True, disable=options.quiet)
        bars[table].update(done - bars[table].n)
        if done == total:
            bars[table].close()

    build_index(options.dataroot, options.version, options.out_dir, _show)
    index = Index.open(options.out_dir)
    print(f"{options.out_dir}: {len(index)} samples of {len(index.scenes)} scenes, {index.version}")


if __name__ == "__main__":
    sys.exit(main())
