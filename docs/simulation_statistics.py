"""Sets simulated beside recorded statistics in docs/simulation.md and draws its pictures.

`python docs/simulation_statistics.py --simulated DIR [--recorded DIR] [--scenarios DIR]`; all hold `v1.0-mini`, the
last one made with the preset `mix`. Without recorded frames, which `PERCEPTION_REAL_DATA` names by default, only the
pictures are drawn. Original radar scans, unfiltered, are files beside the recorded set, in `radar/`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from perception.formats.classes import CATEGORY_TO_CLASS, DETECTION_CLASSES
from perception.formats.lidar import read_lidar
from perception.formats.nuscenes_boxes import pose_matrices
from perception.formats.nuscenes_rows import SampleAnnotationRow, SampleDataRow
from perception.formats.nuscenes_tables import Tables, read_tables
from perception.formats.radar import RADAR_FIELDS, RadarFilter, read_radar

DOCS = Path(__file__).resolve().parent
BEGIN, END = "<!-- statistics: begin -->", "<!-- statistics: end -->"
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
RANGES_M = (1, 5, 10, 20, 30, 50, 70, 105)
BOX_RANGES_M = (0, 15, 30, 50)
SIZE_PX = (400, 225)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One keyframe of the LiDAR: its points (P, 5), and the classes, distances and point counts of its boxes."""

    points: np.ndarray
    classes: list[str]
    distances_m: np.ndarray
    counts: np.ndarray


def main() -> int:
    """Runs the command line.

    Returns:
        Exit status.
    """
    recorded = os.environ.get("PERCEPTION_REAL_DATA")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulated", type=Path, required=True)
    parser.add_argument("--recorded", type=Path, default=Path(recorded) / "nuscenes" if recorded else None)
    parser.add_argument("--scenarios", type=Path)
    options = parser.parse_args()
    if options.scenarios is not None:
        draw_scenarios(options.scenarios, read_tables(options.scenarios / "v1.0-mini"))
    tables = read_tables(options.simulated / "v1.0-mini")
    draw_contact_sheet(options.simulated, tables)
    draw_sweeps(options.simulated, tables)
    if options.recorded is not None:
        ours = statistics(options.simulated, tables)
        recorded_tables = read_tables(options.recorded / "v1.0-mini")
        theirs = statistics(options.recorded, recorded_tables)
        originals = sorted((options.recorded.parent / "radar").glob("*.pcd"))
        scans = {name: _scans(options.simulated, tables, name) for name in RADARS}
        ours |= radar_statistics([scan for them in scans.values() for scan in them])
        ours["radar, returns kept by sensor"] = {name: _num_kept(them) for name, them in scans.items()}
        theirs |= radar_statistics([read_radar(it) for it in originals])
        known = {name: _scans(options.recorded, recorded_tables, name) for name in RADARS}
        for path in originals:
            known[next(name for name in RADARS if f"__{name}__" in path.name)].append(read_radar(path))
        theirs["radar, returns kept by sensor"] = {name: _num_kept(them) for name, them in known.items() if them}
        page = DOCS / "simulation.md"
        before, rest = page.read_text().split(BEGIN)
        page.write_text(before + BEGIN + "\n" + report(theirs, ours) + END + rest.split(END)[1])
    return 0


def keyframes(tables: Tables, channel: str) -> list[SampleDataRow]:
    """A channel's keyframes.

    Args:
        tables: of a set.
        channel: such as `LIDAR_TOP`.

    Returns:
        Rows in the order of time.
    """
    sensors = {row.token for row in tables.sensor if row.channel == channel}
    mounted = {row.token for row in tables.calibrated_sensor if row.sensor_token in sensors}
    rows = [row for row in tables.sample_data if row.is_key_frame and row.calibrated_sensor_token in mounted]
    return sorted(rows, key=lambda row: row.timestamp)


def sweeps(root: Path, tables: Tables) -> Iterator[Sweep]:
    """The LiDAR's keyframes.

    Args:
        root: the dataroot.
        tables: of the set.

    Yields:
        Sweeps in the order of time.
    """
    poses = {row.token: row for row in tables.ego_pose}
    names = {row.token: row.name for row in tables.category}
    class_of = {row.token: CATEGORY_TO_CLASS.get(names[row.category_token]) for row in tables.instance}
    boxes = defaultdict(list)
    for row in tables.sample_annotation:
        if class_of[row.instance_token] is not None:
            boxes[row.sample_token].append(row)
    for recording in keyframes(tables, "LIDAR_TOP"):
        ego = np.array(poses[recording.ego_pose_token].translation)
        rows = boxes[recording.sample_token]
        places = np.array([row.translation for row in rows]).reshape(-1, 3)
        yield Sweep(
            points=read_lidar(root / recording.filename),
            classes=[class_of[row.instance_token] or "" for row in rows],
            distances_m=np.linalg.norm((places - ego)[:, :2], axis=1),
            counts=np.array([row.num_lidar_pts for row in rows]),
        )


def statistics(root: Path, tables: Tables) -> dict[str, dict[str, float]]:
    """Everything that is compared.

    Args:
        root: the dataroot.
        tables: of the set.

    Returns:
        Values by name, by group.
    """
    found = list(sweeps(root, tables))
    return {**_lidar(found), **_boxes(found), "pictures": _pictures(root, tables)}


def _scans(root: Path, tables: Tables, channel: str) -> list[np.ndarray]:
    return [read_radar(root / row.filename) for row in keyframes(tables, channel)]


def _num_kept(scans: list[np.ndarray]) -> float:
    return float(np.mean([RadarFilter().keeps(scan).sum() for scan in scans]))


def radar_statistics(scans: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """What is compared of radars.

    Args:
        scans: unfiltered scans (P, 18).

    Returns:
        Values by name, by group.
    """
    kept = [scan[RadarFilter().keeps(scan)] for scan in scans]
    every, passed = (dict(zip(RADAR_FIELDS, np.concatenate(them).T, strict=True)) for them in (scans, kept))
    counts = {
        "returns": float(np.mean([len(scan) for scan in scans])),
        "kept by the default filters": float(np.mean([len(scan) for scan in kept])),
        "kept, moving, oncoming or crossing, %": 100 * float(np.isin(passed["dyn_prop"], (0, 2, 6)).mean()),
        "of an ambiguous velocity, %": 100 * float((every["ambig_state"] != 3).mean()),
        "of an invalid state, %": 100 * float((every["invalid_state"] != 0).mean()),
    }
    values = {
        "range, m": np.hypot(passed["x"], passed["y"]),
        "azimuth from the axis, degrees": np.degrees(np.abs(np.arctan2(passed["y"], passed["x"]))),
        "rcs, dBsm": passed["rcs"],
        "speed over ground of what stands still, m/s": np.hypot(passed["vx_comp"], passed["vy_comp"])[
            passed["dyn_prop"] == 1
        ],
        "x_rms, code": passed["x_rms"],
        "y_rms, code": passed["y_rms"],
        "vx_rms, code": passed["vx_rms"],
    }
    quantiles = {
        f"{name}, {q} % are below": float(np.percentile(them, q))
        for name, them in values.items()
        for q in ((50, 95) if name.startswith("speed") else (5, 50, 95))
    }
    return {"radar, per scan": counts, "radar, returns kept by the default filters": quantiles}


def _lidar(found: list[Sweep]) -> dict[str, dict[str, float]]:
    count = len(found)
    points = np.concatenate([sweep.points for sweep in found])
    distance = np.linalg.norm(points[:, :3], axis=1)
    returned = points[distance >= 1]
    distance = distance[distance >= 1]
    by_ring = np.bincount(returned[:, 4].astype(int), minlength=32).reshape(8, 4).sum(axis=1) / count
    by_range = np.histogram(distance, RANGES_M)[0] / count
    return {
        "LiDAR, per keyframe": {
            "points in the file": len(points) / count,
            "missing returns (under 1 m), %": 100 * (1 - len(returned) / len(points)),
            "below z = -1.6 m (ground), % of returns": 100 * float((returned[:, 2] < -1.6).mean()),
            "intensity, median": float(np.median(returned[:, 3])),
            "intensity, 95th percentile": float(np.percentile(returned[:, 3], 95)),
        },
        "LiDAR, returns by ring": {f"rings {4 * k}-{4 * k + 3}": float(n) for k, n in enumerate(by_ring)},
        "LiDAR, returns by range": {
            f"{low}-{high} m": float(n) for (low, high), n in zip(pairwise(RANGES_M), by_range, strict=True)
        },
    }


def _boxes(found: list[Sweep]) -> dict[str, dict[str, float]]:
    distances = np.concatenate([sweep.distances_m for sweep in found])
    counts = np.concatenate([sweep.counts for sweep in found])
    classes = np.array([name for sweep in found for name in sweep.classes])
    points = {}
    for name in DETECTION_CLASSES:
        for low, high in pairwise(BOX_RANGES_M):
            chosen = counts[(classes == name) & (distances >= low) & (distances < high)]
            if len(chosen) >= 5:
                points[f"{name}, {low}-{high} m"] = float(np.mean(chosen))
    boxes = {"all": float(np.median([len(sweep.classes) for sweep in found]))}
    boxes |= {f"beyond {limit} m, %": 100 * float((distances > limit).mean()) for limit in (30, 50)}
    boxes["without a point, %"] = 100 * float((counts == 0).mean())
    return {"boxes of the ten classes, per keyframe": boxes, "points per box, mean": points}


def _pictures(root: Path, tables: Tables) -> dict[str, float]:
    """Brightness and gradients at 400x225, over all keyframe pictures."""
    grey, steps = [], []
    for channel in CAMERAS:
        for row in keyframes(tables, channel):
            picture = cv2.resize(cv2.imread(str(root / row.filename)), SIZE_PX, interpolation=cv2.INTER_AREA)
            values = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
            grey.append(values)
            steps.append(np.hypot(*np.gradient(values)))
    brightness, gradient = np.stack(grey), np.stack(steps)
    result = {f"brightness, {q} % are below": float(np.percentile(brightness, q)) for q in (5, 25, 50, 75, 95)}
    result |= {f"gradient, {q} % are below": float(np.percentile(gradient, q)) for q in (50, 75, 90, 99)}
    return result


def report(recorded: dict[str, dict[str, float]], simulated: dict[str, dict[str, float]]) -> str:
    """Lays both out side by side.

    Args:
        recorded: values by name, by group.
        simulated: the same of the simulated set.

    Returns:
        Markdown tables of what both have; what differs by more than a factor of two is bold, and counted.
    """
    lines, far, total = [], 0, 0
    for group, values in recorded.items():
        lines += [f"| {group} | recorded | simulated | ratio |", "|---|---|---|---|"]
        for name, theirs in values.items():
            if name not in simulated[group]:
                continue
            ours = simulated[group][name]
            if "dBsm" in name:  # decibels are ratios already
                lines.append(f"| {name} | {theirs:.3g} | {ours:.3g} | {ours - theirs:+.1f} dB |")
                continue
            ratio = ours / theirs if theirs else float("nan")
            is_far = not 0.5 <= ratio <= 2
            far, total = far + is_far, total + 1
            lines.append(f"| {name} | {theirs:.3g} | {ours:.3g} | {f'**{ratio:.2f}**' if is_far else f'{ratio:.2f}'} |")
        lines.append("")
    return "\n".join([f"{far} of {total} figures differ by more than a factor of two (bold).", "", *lines])


def draw_contact_sheet(root: Path, tables: Tables) -> None:
    """Draws twelve keyframes by six cameras.

    Args:
        root: the dataroot.
        tables: of the set.
    """
    columns = [keyframes(tables, channel) for channel in CAMERAS]
    chosen = np.linspace(0, len(columns[0]) - 1, 12).round().astype(int)
    rows = []
    for k in chosen:
        files = [str(root / column[k].filename) for column in columns]
        rows.append(np.hstack([cv2.resize(cv2.imread(it), (240, 135), interpolation=cv2.INTER_AREA) for it in files]))
    cv2.imwrite(str(DOCS / "images" / "simulation_cameras.jpg"), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 80])


def draw_scenarios(root: Path, tables: Tables) -> None:
    """Draws the middle keyframe of every scene, six cameras each, with what sets the scene apart.

    Args:
        root: the dataroot.
        tables: of the set.
    """
    scene_of = {row.token: row.scene_token for row in tables.sample}
    columns = [keyframes(tables, channel) for channel in CAMERAS]
    rows = []
    for scene in tables.scene:
        taken = [[row for row in column if scene_of[row.sample_token] == scene.token] for column in columns]
        files = [str(root / column[len(column) // 2].filename) for column in taken]
        row = np.hstack([cv2.resize(cv2.imread(it), (240, 135), interpolation=cv2.INTER_AREA) for it in files])
        words = ", ".join(scene.description.split(", ")[2:]) or "day"
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(row, words, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
        rows.append(row)
    cv2.imwrite(str(DOCS / "images" / "simulation_scenarios.jpg"), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 80])


def draw_sweeps(root: Path, tables: Tables) -> None:
    """Draws four keyframes of the LiDAR from above, with boxes.

    Args:
        root: the dataroot.
        tables: of the set.
    """
    rows = keyframes(tables, "LIDAR_TOP")
    poses = {row.token: row for row in tables.ego_pose}
    mounts = {row.token: row for row in tables.calibrated_sensor}
    pictures = []
    for row in [rows[k] for k in np.linspace(0, len(rows) - 1, 6).round().astype(int)[1:5]]:
        pose, mount = poses[row.ego_pose_token], mounts[row.calibrated_sensor_token]
        global2ego = np.linalg.inv(pose_matrices(np.array(pose.translation), np.array(pose.rotation)))
        lidar2ego = pose_matrices(np.array(mount.translation), np.array(mount.rotation))
        boxes = [it for it in tables.sample_annotation if it.sample_token == row.sample_token]
        pictures.append(
            _from_above(read_lidar(root / row.filename), lidar2ego, [_outline(it, global2ego) for it in boxes])
        )
    sheet = np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:])])
    cv2.imwrite(str(DOCS / "images" / "simulation_lidar.png"), sheet)


def _outline(row: SampleAnnotationRow, global2ego: np.ndarray) -> np.ndarray:
    """(4, 2) corners of a box's footprint in the ego frame."""
    width, length, _ = row.size
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * (length / 2, width / 2)
    local = np.column_stack((corners, np.zeros(4), np.ones(4)))
    box2ego = global2ego @ pose_matrices(np.array(row.translation), np.array(row.rotation))
    return (local @ box2ego.T)[:, :2]


def _from_above(points: np.ndarray, lidar2ego: np.ndarray, outlines: list[np.ndarray]) -> np.ndarray:
    """(600, 600, 3) uint8 BGR, 50 m around the ego vehicle, which looks up."""
    picture = np.full((600, 600, 3), 18, np.uint8)
    xyz = points[:, :3] @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
    xyz = xyz[np.linalg.norm(points[:, :3], axis=1) > 1]
    u, v = (300 - 6 * xyz[:, 1]).astype(int), (300 - 6 * xyz[:, 0]).astype(int)
    inside = (u >= 0) & (u < 600) & (v >= 0) & (v < 600)
    shade = np.clip(110 + 45 * xyz[inside, 2], 60, 255).astype(np.uint8)
    picture[v[inside], u[inside]] = np.stack([shade, shade, np.full_like(shade, 120)], axis=1)
    for outline in outlines:
        corners = np.stack([300 - 6 * outline[:, 1], 300 - 6 * outline[:, 0]], axis=1).round().astype(np.int32)
        cv2.polylines(picture, [corners], True, (60, 200, 255), 1, cv2.LINE_AA)
    cv2.rectangle(picture, (294, 279), (306, 306), (255, 255, 255), 1)
    return cv2.copyMakeBorder(picture, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(60, 60, 60))


if __name__ == "__main__":
    sys.exit(main())
