"""The studies of fusers and heads: what they keep in memory, what they train, and the tables that they print."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.fusion import report as fusion_report
from benchmarks.fusion.arms import ALL, SUBSETS, Draws, branches_of, drawn_sensors
from benchmarks.fusion.arms import Arm as FusionArm
from benchmarks.fusion.scoring import publish
from benchmarks.fusion.study import CONFIGS, Study
from benchmarks.fusion.training import Recipe, drawn_places
from benchmarks.heads import report
from benchmarks.heads.__main__ import _publish
from benchmarks.heads.arms import QUERY, TASKS, Arm, arms
from benchmarks.heads.training import MODEL, Plan, gradient_means
from benchmarks.heads.truths import HALF_M, PackedMap, PackedOccupancy
from perception.formats.occupancy import OCCUPANCY_CLASSES
from perception.geometry.grid import Grid
from perception.models.heads.query import QueryHead
from perception.runtime.checkpoint import save_weights
from perception.runtime.config import build_detector, load_config
from perception.structures import MapTruth, OccupancyTruth


def test_truths_come_back_as_they_were_packed():
    generator = torch.Generator().manual_seed(0)
    grid = Grid((-3.5, 3.5), (-2.5, 2.5), (-1.0, 2.0), (1.0, 1.0, 1.0))
    cells = torch.rand(3, 5, 7, generator=generator) < 0.4  # 105 bits: no whole number of bytes
    flat = Grid((-3.5, 3.5), (-2.5, 2.5), (-1.0, 2.0), (1.0, 1.0, 3.0))
    truth = MapTruth(cells=cells, class_names=("a", "b", "c"), grid=flat)
    again = PackedMap.of(truth).truth()
    assert torch.equal(again.cells, cells) and (again.class_names, again.grid) == (truth.class_names, flat)
    labels = torch.arange(105).remainder(len(OCCUPANCY_CLASSES)).to(torch.uint8).view(3, 5, 7)
    lidar, camera = torch.rand(2, 3, 5, 7, generator=generator) < 0.5
    space = OccupancyTruth(labels=labels, mask_lidar=lidar, mask_camera=camera, grid=grid)
    found = PackedOccupancy.of(space).truth()
    assert torch.equal(found.labels, labels) and found.labels.dtype == torch.uint8
    assert torch.equal(found.mask_lidar, lidar) and torch.equal(found.mask_camera, camera)


def test_the_runs_are_of_the_tasks_that_the_model_has():
    heads = load_config(MODEL)["init_args"]["heads"]
    assert tuple(heads) == TASKS
    low, high = heads["map"]["init_args"]["grid"]["x_range_m"]
    assert (low, high) == (-HALF_M, HALF_M)
    names = [arm.name for arm in arms()]
    assert len(set(names)) == len(names) == 18
    assert names[:6] == ["joint-0", "boxes-0", "near_field-0", "map-0", "occupancy-0", "query-0"]
    assert [arm.tasks for arm in arms()[:3]] == [TASKS, ("boxes",), ("near_field",)] and Arm(QUERY).tasks == ("boxes",)


def test_an_epoch_shows_every_sample_once_and_the_next_one_in_another_order():
    first, second = ([drawn_places(1, 9, 4, step) for step in steps] for steps in ((0, 1), (2, 3)))
    assert all(len({*one, *other}) == 8 for one, other in (first, second))
    assert first != second
    assert first[1] == drawn_places(1, 9, 4, 1)


def row(kind: str, seed: int, **figures: float) -> dict:
    """Of a run."""
    return {"kind": kind, "seed": seed, "figures": {name.replace("__", "/"): it for name, it in figures.items()}}


def test_the_tables_hold_means_differences_and_ratios():
    name = "map__lidar__mean"
    rows = [row("joint", seed, **{name: value}) for seed, value in enumerate((0.41, 0.43, 0.45))]
    rows += [row("map", 0, **{name: 0.44}), row("prior", 0, **{name: 0.2})]
    rows += [row("boxes", 0, boxes__mAP=0.3), row("query", 0, boxes__mAP=0.32)]
    for gradients, joint in zip(({"a": 1.0}, {"a": 2.0, "b": 4.0}, {}), rows[:3], strict=True):
        joint["gradients"] = gradients
    joint = report.joint_table(rows).splitlines()
    assert "| map/lidar/mean | 0.430 (0.410 to 0.450) | 0.440 | -0.010 | 0.022 | 0.200 | 2.15 |" in joint
    assert "| map/ego/mean |  |  |  |  |  |  |" in joint
    assert "| boxes/mAP | 0.300 | 0.320 | +0.020 |" in report.query_table(rows)
    assert report.gradient_table(rows).splitlines()[2:] == ["| a | 1.5 |", "| b | 4 |"]


def test_the_best_blind_predictor_of_each_figure_is_to_be_beaten():
    name = "occupancy__ray_iou"
    rows = [row("prior", 0, **{name: 0.1}), row("prior", 0, **{name: 0.2}), row("joint", 0, **{name: 0.3})]
    assert "| occupancy/ray_iou | 0.300 |  |  |  | 0.200 | 1.50 |" in report.joint_table(rows)


def test_scores_of_all_runs_are_published_in_one_piece(tmp_path: Path):
    for name in ("map-0", "boxes-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps({"kind": name}))
    _publish(tmp_path, tmp_path / "heads.json")
    assert [found["kind"] for found in json.loads((tmp_path / "heads.json").read_text())] == ["boxes-0", "map-0"]


def test_rows_of_another_machine_stay_unless_their_branches_were_others(tmp_path: Path):
    results = tmp_path / "fusion.json"

    def made(fuser: str, branches: str, value: float | None, *, end_to_end: bool = False) -> dict:
        return {"fuser": fuser, "end_to_end": end_to_end, "branches": branches, "mAP": 0.5, "latency_ms": value}

    def published(*rows: dict) -> dict:
        publish(tmp_path, lambda: list(rows), results, ("fuser", "end_to_end"))
        return {(it["fuser"], it["end_to_end"]): it["latency_ms"] for it in json.loads(results.read_text())}

    published(made("gmu", "a", 1.0), made("qmf", "a", 2.0), made("qmf", "b", 3.0, end_to_end=True))
    assert published(made("qmf", "a", 4.0)) == {("gmu", False): 1.0, ("qmf", True): 3.0, ("qmf", False): 4.0}
    assert published(made("qmf", "a", None))[("qmf", False)] == 4.0  # what is not known now was known before
    assert published(made("cmx", "c", 5.0)) == {("qmf", True): 3.0, ("cmx", False): 5.0}


def test_the_tables_of_fusers_are_made_of_rows():
    rows = [
        {**asdict(arm), "subset": subset, "mAP": value, "parameters": 1234}
        for arm, value in ((FusionArm("deformable"), 0.2), (FusionArm("gmu"), 0.1))
        for subset in SUBSETS
        if (arm.fuser, subset) != ("gmu", "L")  # not scored on all yet
    ]
    for sensors, value in ((None, 0.2), ("C+R", 0.25)):
        arm = FusionArm("deformable", sensors, warm=True)
        rows.append({**asdict(arm), "subset": "C+R", "mAP": value, "parameters": 1234})
    table = fusion_report.table(rows, "mAP", ".3f").splitlines()
    assert table[2:] == ["| deformable | " + "0.200 | " * 11 + "1,234 |"]
    assert fusion_report.specialists(rows) == (
        "- C+R: any subset 0.2000, specialist 0.2500 (-0.0500, -20.0 %; 1 seeds)"
    )


def test_sensors_are_drawn_as_often_as_is_said_and_never_none():
    draws = Draws(whole=0.25, eyes={"C": 0.5, "L": 0.25, "": 0.25}, kept={"R": 0.75})
    drawn = drawn_sensors(FusionArm("deformable"), 4000, torch.Generator().manual_seed(0), draws)
    shares = {sensors: count / len(drawn) for sensors, count in Counter(drawn).items()}
    at_all = 1 - 0.75 * 0.25 * 0.25  # neither eyes nor radar is drawn again
    expected = {
        ALL: 0.25 / at_all,
        "C": 0.75 * 0.5 * 0.25 / at_all,
        "C+R": 0.75 * 0.5 * 0.75 / at_all,
        "L": 0.75 * 0.25 * 0.25 / at_all,
        "L+R": 0.75 * 0.25 * 0.75 / at_all,
        "R": 0.75 * 0.25 * 0.75 / at_all,
    }
    assert shares == pytest.approx({branches_of(subset): share for subset, share in expected.items()}, abs=0.03)
    assert drawn_sensors(FusionArm("deformable", "C+R"), 2, torch.Generator()) == [{"camera", "radar"}] * 2


def test_a_warm_run_starts_with_the_fuser_of_the_branches_run_and_others_without(tmp_path: Path):
    plan, given = plan_in(tmp_path), build_detector(CONFIGS / "models" / "every_sensor_small.yaml")
    save_weights(given, tmp_path / "weights.safetensors")
    wanted = given.fuser.state_dict()
    for warm in (True, False):
        found = plan.study.detector("deformable", warm).fuser.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in found.items()) == warm


def plan_in(folder: Path) -> Plan:
    """Of a study of which nothing exists."""
    study = Study(folder / "set", folder, CONFIGS / "sim_v2" / "every_sensor.yaml", folder / "weights.safetensors")
    return Plan(study, Recipe())


def test_a_step_that_is_done_again_counts_once_in_the_mean_gradients(tmp_path: Path):
    run = plan_in(tmp_path).run(Arm("joint"))
    assert gradient_means(run) == {}
    run.folder.mkdir(parents=True)
    lines = [{"step": 0, "figures": {"a": 1.0}}, {"step": 50, "figures": {"a": 9.0}}]
    lines += [{"step": 50, "figures": {"a": 3.0, "b": 5.0}}]
    (run.folder / "gradients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gradient_means(run) == {"a": 2.0, "b": 5.0}


def test_a_run_has_the_heads_of_its_tasks_on_branches_and_neck_as_they_are_given(tmp_path: Path):
    given = build_detector(CONFIGS / "models" / "every_sensor_small.yaml")
    save_weights(given, tmp_path / "weights.safetensors")
    for arm in (Arm("query"), Arm("occupancy")):
        detector = plan_in(tmp_path).detector(arm)
        assert tuple(detector.heads) == arm.tasks
        assert isinstance(detector.heads[arm.tasks[0]], QueryHead) == (arm.kind == QUERY)
        for part in ("branches", "neck"):
            wanted = getattr(given, part).state_dict()
            assert all(torch.equal(value, wanted[name]) for name, value in getattr(detector, part).state_dict().items())
