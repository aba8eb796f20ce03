"""Trains a model: `python tools/train.py --config configs/overfit/keyframe.yaml --data.dataroot D --out-dir O`.

With `--resume last` the same command goes on with a run that was interrupted; see docs/training.md.
"""

from __future__ import annotations

import logging
import sys


def main() -> int:
    """Runs the command line; `--help` lists every setting.

    Returns:
        Exit status: 0, 1 with the reason on standard error, or 2 for a wrong argument.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from perception.training.cli import train

    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("perception").setLevel(logging.INFO)
    try:
        cli = train()
    except (OSError, ValueError, FloatingPointError, MisconfigurationException) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    print(f"wrote {cli.trainer.default_root_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
