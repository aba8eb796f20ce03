"""Map metrics by hand: counts, lookups, official frames, predictors that look at nothing, intervals over scenes."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.map_truth import MAP_TRUTH_CLASSES, MapSource
from perception.evaluation.html_report import ReportContents, report_page
from perception.evaluation.map import THRESHOLDS, MapRule, best_overlaps, overlaps
from perception.evaluation.map_prior import PRIOR_GRID, map_prior, stretched
from perception.evaluation.map_report import (
    MapReport,
    evaluate_map,
    map_bootstrap,
    no_map,
    paired_map_bootstrap,
    score_maps,
    write_map_predictions,
)
from perception.evaluation.map_truths import MapTruths, _on_ground, look_up
from perception.evaluation.tasks import TASKS, score_tasks
from perception.formats.map_predictions import PredictedMap
from perception.formats.nuscenes_map import VectorMapBuilder, write_maps
from perception.formats.nuscenes_map_raster import MAP_CLASSES
from perception.geometry.grid import Grid
from perception.structures import MapPrediction, Predictions
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

GRID = Grid((-2.0, 2.0), (-1.0, 1.0), (-1.0, 1.0), (1.0, 1.0, 2.0))  # two rows, four columns


def test_cells_by_hand() -> None:
    rule = MapRule(("road", "line"), thresholds=(0.4, 0.5))
    said = np.array([[[0.4, 0.5, 0.39, np.nan]], [[0.45, 0.45, 1.0, 0.0]]])
    cells = np.array([[[True, False, True, True]], [[False, True, True, False]]])
    counts = rule.count(said, cells)
    # road: two reach 0.4, one of them right; at 0.5 the wrong one is left. line: three and one.
    assert counts.tolist() == [[[1, 1, 2], [0, 1, 3]], [[2, 1, 0], [1, 0, 1]]]
    np.testing.assert_allclose(overlaps(counts), [[1 / 4, 0], [2 / 3, 1 / 2]], rtol=1e-6)
    np.testing.assert_allclose(best_overlaps(counts), [1 / 4, 2 / 3], rtol=1e-6)


def test_counts_are_those_of_the_definition_at_every_threshold() -> None:
    rng = np.random.default_rng(0)
    rule = MapRule(("a", "b", "c"))
    said, cells = rng.choice([*THRESHOLDS, 0.0, 0.47, 1.0], (3, 20, 30)), rng.random((3, 20, 30)) > 0.6
    counts = rule.count(said, cells)
    assert counts.dtype == np.int64
    for (k, name), (t, threshold) in itertools.product(enumerate(rule.class_names), enumerate(THRESHOLDS)):
        found, real = said[k] >= threshold, cells[k]
        assert counts[k, t].tolist() == [(found & real).sum(), (found & ~real).sum(), (~found & real).sum()], name


def test_a_strict_rule_wants_more_than_its_threshold() -> None:
    said, cells = np.array([[[0.5, 0.5001]]]), np.ones((1, 1, 2), dtype=bool)
    assert MapRule(("car",), (0.5,), strict=True).count(said, cells).tolist() == [[[1, 0, 1]]]
    assert MapRule(("car",), (0.5,)).count(said, cells).tolist() == [[[2, 0, 0]]]


def test_sums_beyond_single_precision_stay_exact() -> None:
    counts = np.array([[[2**24 + 1, 0, 2**24 - 1]]], dtype=np.int64)
    assert overlaps(counts)[0, 0] == pytest.approx((2**24 + 1) / 2**25, abs=1e-14)
    assert np.float32(2**24) + np.float32(1) == np.float32(2**24)  # as the original evaluation adds up


def test_a_class_that_nobody_has_or_finds_scores_nothing() -> None:
    assert overlaps(np.zeros((7, 3), np.int64)).tolist() == [0.0] * 7


def test_rules_and_shapes_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="MapRule: class_names must not be empty and thresholds must rise"):
        MapRule(("road",), (0.5, 0.4))
    with pytest.raises(ValueError, match=r"MapRule.count: .* must be \(1, Y, X\), got \(1, 2, 2\) and \(1, 2, 3\)"):
        MapRule(("road",)).count(np.zeros((1, 2, 2)), np.zeros((1, 2, 3), dtype=bool))


def test_predictions_are_read_between_the_centres_of_cells() -> None:
    values = np.array([[[0.0, 0.4, 0.8, 0.8], [0.2, 0.6, 1.0, np.nan]]], np.float16)
    found = PredictedMap(values, ("road",), GRID)
    points = np.array([[[-1.5, -0.5], [-1.0, -0.5], [-1.0, 0.0], [-2.0, -1.0], [1.5, 0.5], [2.01, 0.0], [1.5, 0.0]]])
    read = look_up(found, ("road",), [points], "scene/token")
    # A centre; between two; between four; the corner; nothing predicted; outside; half of it beside nothing.
    np.testing.assert_allclose(read[0, 0], [0.0, 0.2, 0.3, 0.0, 0.0, 0.0, 0.4], atol=1e-3)


def test_among_equal_cells_a_prediction_is_read_as_it_is() -> None:
    points = np.random.default_rng(0).uniform((-1.5, -0.5), (1.5, 0.5), (50, 50, 2))
    found = PredictedMap(np.full((1, 2, 4), 0.4), ("road",), GRID)
    assert (look_up(found, ("road",), [points], "scene/token") == 0.4).all()


def test_every_class_is_read_at_its_own_points_and_a_missing_one_is_named() -> None:
    found = PredictedMap(np.random.default_rng(0).random((2, 2, 4)), ("road", "line"), GRID)
    centers = GRID.centers_xy().numpy()
    read = look_up(found, ("line", "road"), [centers, centers - [1.0, 0.0]], "scene/token")
    np.testing.assert_array_equal(read[0], found.probabilities[1])
    np.testing.assert_array_equal(read[1][:, 1:], found.probabilities[0][:, :-1])
    with pytest.raises(ValueError, match="look_up: scene/token must have walkway, got road, line"):
        look_up(found, ("road", "walkway"), [centers, centers], "scene/token")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    """The small set with a map: a road along the drive with walkways, a crossing, a car park and a divider."""
    folder = tmp_path_factory.mktemp("set")
    root = write_synthetic_nuscenes(folder / "small", cameras=False)
    build_index(root, VERSION, folder / "index")
    index = Index.open(folder / "index")
    pose = index.record(0).ego2global
    corner = pose[:2, 3] - 200

    def on_map(points: list[tuple[float, float]]) -> np.ndarray:
        return np.array(points) @ pose[:2, :2].T + pose[:2, 3] - corner

    def box(x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
        return on_map([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])])

    builder = VectorMapBuilder((400.0, 400.0), "test", origin_m=(float(corner[0]), float(corner[1])))
    builder.add_drivable_area([box((-90, 90), (-8, 8))])
    builder.add_area("walkway", box((-90, 90), (8, 12)))
    builder.add_area("ped_crossing", box((20, 24), (-8, 8)))
    builder.add_area("stop_line", box((18, 19.2), (-8, 0)))
    builder.add_area("carpark_area", box((-30, -10), (12, 30)))
    for start in range(-90, 90, 10):
        builder.add_line("lane_divider", on_map([(start, 0.2), (start + 10, 0.2)]))
    write_maps(root, {"singapore-onenorth": builder.build()})
    return root, index


def right(root: Path, index: Index, shift_cells: int = 0) -> list[tuple[Predictions, str]]:
    """What a model would say that knows everything, and sees it so many cells too far ahead."""
    source, found = MapSource(index, root), []
    for number in range(len(index)):
        record = index.record(number)
        cells = np.roll(source.around_ego(number, MAP_TRUTH_CLASSES, PRIOR_GRID), shift_cells, axis=2)
        said = MapPrediction(
            probabilities=torch.from_numpy(cells).float(), class_names=MAP_TRUTH_CLASSES, grid=PRIOR_GRID
        )
        found.append((Predictions(token=record.token, detections=None, map=said), record.scene))
    return found


def test_the_truth_around_the_vehicle_means_the_centres_of_cells(dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    cells = MapSource(index, root).around_ego(0, MAP_CLASSES, PRIOR_GRID)
    y = PRIOR_GRID.centers_xy().numpy()[:, 0, 1]
    for name, middle in (("drivable_area", 0.0), ("walkway", 10.0), ("divider", 0.2)):
        rows = y[cells[MAP_CLASSES.index(name)][:, 100]]
        assert abs(rows.mean() - middle) <= 0.25, name  # at most half a cell


def test_the_truth_as_prediction_is_right_but_for_what_drawing_again_costs(
    tmp_path: Path, dataset: tuple[Path, Index]
) -> None:
    root, index = dataset
    assert write_map_predictions(tmp_path / "right", right(root, index)) == len(index) == 5
    report = evaluate_map(tmp_path / "right", root, index, "mini_train")
    figures = report.figures
    assert report.scenes == ("scene-0061",) and set(figures) == set(report.names)
    assert report.counts["lidar"].shape == (1, 6, 7, 3) and report.counts["vehicle"].shape == (1, 1, 1, 3)
    assert figures["ego/mean"] > 0.98 and figures["lidar/mean"] > 0.85 and figures["vehicle/vehicle"] > 0.6
    assert figures["lidar/drivable_area"] > 0.95
    mean = np.mean([figures[f"lidar/{name}"] for name in MAP_CLASSES])
    assert figures["lidar/mean"] == pytest.approx(mean, abs=1e-12)
    row = TASKS["map"].tables(report)["overlap by threshold, lidar"]["walkway"]
    assert list(row) == [f"{threshold:.2f}" for threshold in THRESHOLDS]
    assert max(row.values()) == figures["lidar/walkway"]
    write_map_predictions(tmp_path / "far", right(root, index, 8))
    far = evaluate_map(tmp_path / "far", root, index, "mini_train").figures
    assert far["lidar/ped_crossing"] < 0.2 and far["lidar/drivable_area"] > 0.9  # the road runs along the drive


def test_in_the_lidars_frame_a_prediction_is_read_ahead_of_the_rear_axle(dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    truth = MapTruths(root, index).of(0, "lidar", ("drivable_area", "divider"))
    # The LiDAR stands 0.9 m ahead, its x axis points right, its y axis forward. Corners of areas fall on the nearest
    # whole number of cells, so that the first cell stands for the corner of the patch.
    np.testing.assert_allclose(truth.points_m[0][0, 0], [0.9 - 50, 50], atol=1e-6)
    np.testing.assert_allclose(truth.points_m[0][199, 0], [0.9 + 49.5, 50], atol=1e-6)
    np.testing.assert_allclose(truth.points_m[1][0, 0], [0.9 - 49.75, 49.75], atol=1e-6)
    reach = np.abs(truth.points_m[0]).max(), np.abs(truth.points_m[1]).max()
    assert max(reach) < PRIOR_GRID.x_range_m[1] - 0.25  # nothing is asked for that is not predicted


def test_a_tilted_frame_lies_on_the_map_where_its_x_axis_points() -> None:
    # Turned by 0.5 about z, then nose up by 0.3 about its own y, then rolled by 0.4 about its own x.
    tilted = np.eye(4)
    tilted[:3, :3] = Rotation.from_euler("ZYX", [0.5, -0.3, 0.4]).as_matrix()
    tilted[:3, 3] = [7.0, -2.0, 1.5]
    cos, sin = math.cos(0.5), math.sin(0.5)
    np.testing.assert_allclose(_on_ground(tilted), [[cos, -sin, 7], [sin, cos, -2], [0, 0, 1]], atol=1e-12)


def test_a_prediction_of_some_classes_is_scored_on_these(dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    source = MapSource(index, root)

    def found(names: tuple[str, ...]) -> MapReport:
        cells = source.around_ego(0, names, PRIOR_GRID).astype(np.float64)
        return score_maps(lambda scene, token: PredictedMap(cells, names, PRIOR_GRID), root, index, "mini_train")

    assert set(found(("vehicle",)).figures) == {"vehicle/vehicle"}
    assert found(("walkway", "drivable_area")).names == (
        "lidar/mean of 2", "lidar/drivable_area", "lidar/walkway", "ego/mean of 2", "ego/drivable_area", "ego/walkway",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"score_maps: a prediction must hold some of carpark_area, .*, got grass"):
        grass = PredictedMap(np.zeros((1, *PRIOR_GRID.shape[1:])), ("grass",), PRIOR_GRID)
        score_maps(lambda scene, token: grass, root, index, "mini_train")


def test_what_is_missing_is_named(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    with pytest.raises(FileNotFoundError, match="scene-0061"):
        evaluate_map(tmp_path, root, index, "mini_train")
    write_map_predictions(tmp_path, right(root, index))
    report = evaluate_map(tmp_path, tmp_path, index, "mini_train")  # vehicles need annotations alone
    assert report.names == ("vehicle/vehicle",) and set(report.missing) == {"lidar", "ego"}
    assert all("maps/expansion/singapore-onenorth.json" in reason for reason in report.missing.values())
    assert report.figures == {
        "vehicle/vehicle": evaluate_map(tmp_path, root, index, "mini_train").figures["vehicle/vehicle"]
    }
    scores = score_tasks({"map": tmp_path}, tmp_path, index, "mini_train", draws=0)["map"]
    assert [line.partition(":")[0] for line in scores.problem_lines()] == [
        "map lidar is not scored",
        "map ego is not scored",
    ]
    assert "Not scored: lidar: " in report_page(ReportContents("page", {}, tasks={"map": scores}))
    (tmp_path / "maps" / "expansion").mkdir(parents=True)
    (tmp_path / "maps" / "expansion" / "singapore-onenorth.json").write_text("{")
    damaged = score_tasks({"map": tmp_path}, tmp_path, index, "mini_train", draws=0)["map"]
    assert damaged.damaged and not scores.damaged and set(damaged.figures) == {"vehicle/vehicle"}
    assert all("singapore-onenorth.json: not JSON" in reason for reason in damaged.missing.values())
    with pytest.raises(ValueError, match="predictions must have a map, got none for t"):
        write_map_predictions(tmp_path, [(Predictions(token="t", detections=None), "scene")])


def test_without_map_and_annotations_nothing_is_left_to_score(tmp_path: Path) -> None:
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0061": 1}, cameras=False, annotations=False)
    build_index(root, VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    names = ("walkway", "vehicle")
    nothing = PredictedMap(np.zeros((2, *PRIOR_GRID.shape[1:])), names, PRIOR_GRID)
    with pytest.raises(FileNotFoundError, match=r"singapore-onenorth\.json.*; MapTruths: vehicles need annotations"):
        score_maps(lambda scene, token: nothing, root, index, "mini_train")


@pytest.mark.parametrize("number", [0, 1])
def test_predictions_of_other_classes_than_the_first_are_named(
    tmp_path: Path, dataset: tuple[Path, Index], number: int
) -> None:
    """A first file of some classes would leave the others out and give a mean of a few under the protocol's name."""
    root, index = dataset
    found = right(root, index)
    whole = found[number][0].map
    assert whole is not None
    some = dataclasses.replace(whole, probabilities=whole.probabilities[:2], class_names=whole.class_names[:2])
    found[number] = (dataclasses.replace(found[number][0], map=some), found[number][1])
    write_map_predictions(tmp_path, found)
    second = f"{found[1][1]}/{found[1][0].token}"
    with pytest.raises(ValueError, match=f"score_maps: {second} must have the classes of the first prediction, "):
        evaluate_map(tmp_path, root, index, "mini_train")


def test_nothing_predicted_scores_nothing(dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    nothing = no_map(MAP_TRUTH_CLASSES, PRIOR_GRID)
    found = PredictedMap(nothing.probabilities.numpy(), nothing.class_names, nothing.grid)
    figures = score_maps(lambda scene, token: found, root, index, "mini_train").figures
    assert set(figures.values()) == {0.0}


def test_the_best_threshold_on_frequencies_moves_to_a_half() -> None:
    rng = np.random.default_rng(0)
    for power in (0.3, 1.0, 4.0):
        frequencies = rng.integers(0, 11, (9, 9)) / 10 * rng.random() ** power
        total = frequencies.sum()

        def overlap(mask: np.ndarray, frequencies: np.ndarray = frequencies, total: float = total) -> float:
            hits = frequencies[mask].sum()
            return hits / (mask.sum() + total - hits)

        best = max(overlap(frequencies >= threshold) for threshold in np.unique(frequencies))
        moved = stretched(frequencies)
        assert overlap(moved >= 0.5) == pytest.approx(best)
        assert (np.argsort(moved, axis=None, kind="stable") == np.argsort(frequencies, axis=None, kind="stable")).all()
        assert moved.min() >= 0 and moved.max() <= 1
    assert stretched(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]
    assert stretched(np.array([1.0, 1.0, 0.0])).tolist() == [1.0, 1.0, 0.0]


def test_the_prior_finds_what_is_always_there(dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    prior = map_prior(root, index, "mini_train", MAP_TRUTH_CLASSES)
    figures = score_maps(lambda scene, token: prior, root, index, "mini_val").figures
    assert figures["lidar/drivable_area"] > 0.9 and figures["ego/divider"] > 0.5
    assert 0 < figures["lidar/mean"] < score_right(root, index)["lidar/mean"]
    with pytest.raises(ValueError, match="map_prior: step must be at least 1, got 0"):
        map_prior(root, index, "mini_train", step=0)


def score_right(root: Path, index: Index) -> dict[str, float]:
    maps = {found.token: found.map for found, _ in right(root, index)}

    def found_of(scene: str, token: str) -> PredictedMap:
        said = maps[token]
        assert said is not None
        return PredictedMap(said.probabilities.numpy(), said.class_names, said.grid)

    return score_maps(found_of, root, index, "mini_val").figures


def report_of(*hits: int) -> MapReport:
    """Scenes with ten cells of a class, so many of them found."""
    counts = np.array([[[[hit, 0, 10 - hit]]] for hit in hits], dtype=np.int64)
    scenes = tuple(f"scene-{number}" for number in range(len(hits)))
    return MapReport(scenes=scenes, rules={"ego": MapRule(("road",), (0.5,))}, counts={"ego": counts})


def test_intervals_of_equal_scenes_are_points_and_of_unequal_ones_hold_the_value() -> None:
    sure = map_bootstrap(report_of(4, 4, 4))["ego/road"]
    np.testing.assert_allclose([sure.value, sure.low, sure.high], 0.4)
    unsure = map_bootstrap(report_of(0, 2, 4, 6, 8))["ego/road"]
    assert unsure.value == pytest.approx(0.4)
    assert 0.05 < unsure.low < 0.3 and 0.5 < unsure.high < 0.75


def test_intervals_take_the_best_threshold_of_every_draw_and_the_mean_of_classes() -> None:
    counts = np.array([[[[8, 2, 0], [4, 0, 4]], [[1, 1, 0], [1, 0, 0]]]] * 2, dtype=np.int64)  # two scenes alike
    rule = MapRule(("road", "line"), (0.4, 0.6))
    found = map_bootstrap(MapReport(scenes=("a", "b"), rules={"lidar": rule}, counts={"lidar": counts}), draws=5)
    assert {name: round(it.value, 6) for name, it in found.items()} == {
        "lidar/mean of 2": 0.9, "lidar/road": 0.8, "lidar/line": 1.0,
    }  # fmt: skip
    assert all(math.isclose(it.low, it.value, rel_tol=1e-6) for it in found.values())


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    gain = paired_map_bootstrap(report_of(0, 2, 4, 6, 8), report_of(1, 3, 5, 7, 9))["ego/road"]
    np.testing.assert_allclose([gain.value, gain.low, gain.high], 0.1)
    with pytest.raises(ValueError, match="both reports must be of the same scenes and classes"):
        paired_map_bootstrap(report_of(1), report_of(1, 2))
    other = dataclasses.replace(report_of(1), rules={"ego": MapRule(("line",), (0.5,))})
    with pytest.raises(ValueError, match="both reports must be of the same scenes and classes"):
        paired_map_bootstrap(report_of(1), other)
    with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
        map_bootstrap(report_of(1), draws=0)
