"""The nuScenes devkit's own detection metrics, run without a display and with failures explained."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perception.evaluation.split_results import score_faults
from perception.formats.classes import CATEGORY_TO_CLASS
from perception.formats.submission_reader import Submission, read_submission

SUMMARY_NAME = "metrics_summary.json"


class NothingToScoreError(ValueError):
    """There is not one prediction or not one annotation of a detection class, for which the devkit has no metrics."""


def evaluate_official(
    dataroot: str | Path, version: str, split: str, results_path: str | Path, out_dir: str | Path
) -> dict[str, Any]:
    """Runs the devkit's detection evaluation (configuration `detection_cvpr_2019`) on a submission.

    The submission is read by `read_submission` first, which is stricter and names what is wrong.

    Args:
        dataroot: folder of the set.
        version: its version, such as `v1.0-mini`.
        split: an official split, of which some scenes may be missing, or one of `<dataroot>/<version>/splits.json`.
        results_path: the submission; it must hold exactly the samples of the split that the set has.
        out_dir: receives `metrics_summary.json` and `metrics_details.json`.

    Returns:
        The content of `metrics_summary.json`: `nd_score`, `mean_ap`, `mean_dist_aps` and more.

    Raises:
        ImportError: the devkit is not installed.
        FileNotFoundError: there is no such results file.
        NothingToScoreError: the submission has no box, or the split no annotation of a detection class.
        ValueError: the devkit cannot load the set, the file is no submission, or the devkit cannot evaluate it; says
            why.
    """
    try:
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.detection.evaluate import DetectionEval
    except ImportError as error:
        raise ImportError("evaluate_official: nuscenes-devkit is needed: pip install '.[nuscenes]'") from error
    if not Path(results_path).is_file():
        raise FileNotFoundError(f"evaluate_official: {results_path}: there is no such results file")
    tables = _open_tables(dataroot, version)
    tokens = _split_tokens(tables, split)
    submission = read_submission(results_path)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    try:
        with silence():
            config = config_factory("detection_cvpr_2019")
            evaluation = DetectionEval(tables, config, str(results_path), split, str(out_dir), verbose=False)
            summary = evaluation.main(render_curves=False)
    except Exception as error:  # the devkit fails with bare asserts, KeyError and Exception
        kind, reason = _reason(error, submission, tables, tokens)
        raise kind(f"evaluate_official: {results_path}: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            (Path(out_dir) / "plots").rmdir()  # made for curves, and empty without them
    return summary


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Leaves out what the devkit prints, progress bars included."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _open_tables(dataroot: str | Path, version: str) -> Any:
    from nuscenes import NuScenes

    try:
        return NuScenes(version, str(dataroot), verbose=False)
    except Exception as error:  # as above: missing folders, tables and map pictures are asserts
        raise ValueError(
            f"evaluate_official: {Path(dataroot) / version}: the devkit cannot load it: {error}"
        ) from error


def _split_tokens(tables: Any, split: str) -> set[str]:
    """Tokens of the split's samples that the set has."""
    from nuscenes.utils.splits import get_scenes_of_split

    scenes = set(get_scenes_of_split(split, tables))
    names = {row["token"]: row["name"] for row in tables.scene}
    tokens = {row["token"] for row in tables.sample if names[row["scene_token"]] in scenes}
    if not tokens:
        raise ValueError(
            f"evaluate_official: split must have scenes in {tables.dataroot}/{tables.version}, {split!r} has none of "
            f"{', '.join(sorted(names.values()))}"
        )
    return tokens


def _reason(error: Exception, submission: Submission, tables: Any, tokens: set[str]) -> tuple[type[ValueError], str]:
    """What is wrong with a submission that the devkit failed on."""
    said = f"the devkit says {type(error).__name__}: {error}"
    if "not compatible with NuScenes version" in str(error):
        return ValueError, said
    predicted = set(submission.sample_tokens)
    if missing := tokens - predicted:
        return (
            ValueError,
            f"{len(missing)} of {len(tokens)} samples of the split are missing, such as {min(missing)!r} ({said})",
        )
    if extra := predicted - tokens:
        return ValueError, f"{len(extra)} samples do not belong to the split, such as {min(extra)!r} ({said})"
    if not len(submission.labels):
        return NothingToScoreError, f"it holds no prediction at all, which the devkit cannot evaluate ({said})"
    annotations = (row for row in tables.sample_annotation if row["sample_token"] in tokens)
    if not any(row["category_name"] in CATEGORY_TO_CLASS for row in annotations):
        return NothingToScoreError, f"the split has no annotation of a detection class to compare with ({said})"
    if faults := score_faults(submission):
        return ValueError, "\n  ".join((*faults, f"({said})"))
    return ValueError, said
