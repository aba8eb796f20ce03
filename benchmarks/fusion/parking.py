"""What ultrasonic sensors add near the vehicle: one model on fisheyes, ultrasonic sensors and both, by day and night.

`python -m benchmarks.fusion.parking --dataroot D --weights F --out-dir O` with a set of
`configs/simulation/parking.yaml` and weights of `configs/sim_v2/near_field.yaml`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from perception.drives.options import RunOptions
from perception.drives.setup import Run, prepare_run
from perception.evaluation.bootstrap import Interval
from perception.evaluation.near_field_report import (
    NearFieldReport,
    evaluate_near_field,
    near_field_bootstrap,
    paired_near_field_bootstrap,
    write_near_field_predictions,
)

ROOT = Path(__file__).parents[2]
SUBSETS = {"F": ("fisheye",), "U": ("ultrasonic",), "F+U": ("fisheye", "ultrasonic")}
SPLIT = "val"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", type=Path, required=True, help="of the parking set")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "sim_v2" / "near_field.yaml")
    parser.add_argument("--out-dir", type=Path, required=True, help="receives predictions and the index")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "parking.json")
    options = parser.parse_args()
    reports = {subset: _report(options, subset) for subset in SUBSETS}
    lights = _lights(options.dataroot)
    rows: list[dict[str, Any]] = []
    for light in ("all", *sorted({lights[scene] for scene in reports["F"].scenes})):
        chosen = {subset: _of_light(report, lights, light) for subset, report in reports.items()}
        found = {subset: near_field_bootstrap(report) for subset, report in chosen.items()}
        for subset in ("F", "U"):
            found[f"F+U against {subset}"] = paired_near_field_bootstrap(chosen[subset], chosen["F+U"])
        for subset, figures in found.items():
            intervals = {name: asdict(it) for name, it in figures.items()}
            rows.append({"light": light, "scenes": len(chosen["F"].scenes), "subset": subset, **intervals})
            _print(f"{light} {subset}", figures)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")


def _report(options: argparse.Namespace, subset: str) -> NearFieldReport:
    """Predicts where that is not done yet, and scores."""
    folder = options.out_dir / subset
    run = prepare_run(
        RunOptions(
            config=options.config,
            checkpoint=options.weights,
            dataroot=options.dataroot,
            version=None,
            index=options.out_dir / "index",
            out_dir=options.out_dir,
            sensors=SUBSETS[subset],
            on_error="raise",
            device="",
            allowed_packages=(),
        )
    )
    if not (folder / "done").exists():
        _predict(run, folder)
        (folder / "done").touch()
    return evaluate_near_field(folder, options.dataroot, run.loader.index, SPLIT)


def _predict(run: Run, folder: Path) -> None:
    for position in tqdm(run.loader.index.samples_of(SPLIT).tolist(), desc=folder.name, unit="sample"):
        sample = run.loader.load(position)
        (found,) = run.predictor.predict([sample])
        write_near_field_predictions(folder, [(found, sample.scene)])


def _lights(dataroot: Path) -> dict[str, str]:
    """Scene name -> "night", "dusk" or "day", as its description says."""
    (table,) = dataroot.glob("v1.0-*/scene.json")
    words = {row["name"]: row["description"].lower() for row in json.loads(table.read_text())}
    return {name: next((light for light in ("night", "dusk") if light in text), "day") for name, text in words.items()}


def _of_light(report: NearFieldReport, lights: dict[str, str], light: str) -> NearFieldReport:
    pairs = [pair for pair in zip(report.scenes, report.counts, strict=True) if light in ("all", lights[pair[0]])]
    return NearFieldReport(scenes=tuple(scene for scene, _ in pairs), counts=tuple(counts for _, counts in pairs))


def _print(title: str, figures: dict[str, Interval]) -> None:
    text = ", ".join(f"{name} {it.value:.3f} [{it.low:.3f}, {it.high:.3f}]" for name, it in figures.items())
    print(f"{title}: {text}", flush=True)


if __name__ == "__main__":
    main()
