from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.near_field import NEAR_FIELD_GRID
from perception.structures import Detections, NearFieldPrediction, Predictions, Sample
from perception.visualization.colors import SURFACE
from perception.visualization.layers import BoxLayer, detection_layer, ground_truth_layer
from perception.visualization.near_field import FREE, OCCUPIED
from perception.visualization.panel import PanelStyle, arrange, render_panel
from perception.visualization.task_tiles import TaskTile
from tests.visualization.conftest import CLASSES, GREY, make_cameras

STYLE = PanelStyle(tile_px=(90, 160), bev_alone_px=300)
HEADER_PX, GAP_PX = 28, 6


def layers_of(sample: Sample) -> list[BoxLayer]:
    assert sample.boxes is not None
    return [ground_truth_layer(sample.boxes, CLASSES)]


def tile(panel: np.ndarray, row: int, column: int) -> np.ndarray:
    """The room of one camera in a panel with tiles of 90 x 160."""
    top, left = HEADER_PX + row * (90 + GAP_PX), column * (160 + GAP_PX)
    return panel[top : top + 90, left : left + 160]


def share_of(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((picture == color).all(axis=-1).mean())


def test_cameras_stand_as_they_look_out_of_the_vehicle(sample: Sample) -> None:
    panel = render_panel(sample, layers_of(sample), STYLE)
    assert panel.dtype == np.uint8 and panel.shape[1] == 3 * 160 + 3 * GAP_PX + (2 * 90 + GAP_PX)
    for row, column in ((0, 1), (1, 1)):  # front and back are there
        assert share_of(tile(panel, row, column), (GREY, GREY, GREY)) > 0.3
    for row, column in ((0, 0), (0, 2), (1, 0), (1, 2)):  # the others are labelled empty tiles
        empty = tile(panel, row, column)
        assert share_of(empty, SURFACE) > 0.5
        assert empty.max() > 100  # the words


def test_a_camera_that_is_not_present_has_an_empty_tile(sample: Sample) -> None:
    group = replace(sample.cameras["surround"], present=torch.tensor([False, True]))
    panel = render_panel(replace(sample, cameras={"surround": group}), layers_of(sample), STYLE)
    assert share_of(tile(panel, 0, 1), SURFACE) > 0.5
    assert share_of(tile(panel, 1, 1), (GREY, GREY, GREY)) > 0.3


def test_the_box_ahead_is_in_the_front_picture_alone(sample: Sample) -> None:
    bare = render_panel(replace(sample, lidar=None), [], STYLE)
    drawn = render_panel(replace(sample, lidar=None), layers_of(sample), STYLE)
    assert (tile(bare, 0, 1) != tile(drawn, 0, 1)).any()
    assert (tile(bare, 1, 1) == tile(drawn, 1, 1)).all()


def test_without_cameras_the_birds_eye_view_stands_alone(sample: Sample) -> None:
    group = replace(sample.cameras["surround"], present=torch.tensor([False, False]))
    for cameras in ({}, {"surround": group}):
        panel = render_panel(replace(sample, cameras=cameras), layers_of(sample), STYLE)
        assert panel.shape[1] == 300


def test_a_drive_with_cameras_keeps_its_layout_where_they_fail(sample: Sample) -> None:
    style = replace(STYLE, channels=("CAM_FRONT",))
    with_cameras = render_panel(sample, layers_of(sample), style)
    assert render_panel(replace(sample, cameras={}), layers_of(sample), style).shape == with_cameras.shape


@pytest.mark.parametrize("kept", [{"lidar"}, {"cameras"}, {"boxes"}, set()])
def test_any_subset_of_a_sample_is_drawn(sample: Sample, kept: set[str]) -> None:
    nothing = {"lidar": None, "cameras": {}, "boxes": None}
    part = replace(sample, **{name: value for name, value in nothing.items() if name not in kept})
    layers = layers_of(sample) if "boxes" in kept else []
    panel = render_panel(part, layers, STYLE)
    assert panel.shape[0] % 2 == panel.shape[1] % 2 == 0 and panel.max() > 100


def test_rows_of_cameras() -> None:
    surround = [
        ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"],
        ["CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"],
    ]
    fisheyes = ["FISHEYE_FRONT", "FISHEYE_REAR", "FISHEYE_LEFT", "FISHEYE_RIGHT"]
    assert arrange(["CAM_BACK"]) == surround
    assert arrange(["CAM_BACK", *fisheyes]) == [*surround, fisheyes]
    assert arrange(fisheyes) == [fisheyes]
    assert arrange([]) == []


def test_four_fisheyes_take_the_width_of_three(sample: Sample) -> None:
    group = make_cameras({f"FISHEYE_{i}": 0.0 for i in range(4)}, "kannala_brandt")
    panel = render_panel(replace(sample, cameras={"fisheye": group}), layers_of(sample), STYLE)
    tile_px = (3 * 160 + 2 * GAP_PX - 3 * GAP_PX) // 4
    bev_px = 90 * (4 * tile_px) // (160 * 4)
    assert panel.shape[1] == pytest.approx(4 * tile_px + 4 * GAP_PX + bev_px, abs=2)


def test_predictions_carry_scores_and_the_weak_ones_are_left_out() -> None:
    found = Detections(
        boxes=torch.ones(3, 9), scores=torch.tensor([0.9, 0.5, 0.2]), labels=torch.tensor([1, 0, 0], dtype=torch.int64)
    )
    layer = detection_layer(found, CLASSES, score_threshold=0.5)
    assert layer.captions == ("pedestrian 0.90", "car 0.50")
    assert layer.names == ("pedestrian", "car")


def test_annotations_without_points_are_dimmed(sample: Sample) -> None:
    assert sample.boxes is not None
    unseen = replace(sample.boxes, num_lidar_points=torch.tensor([0, -1]))
    seen_colors = ground_truth_layer(sample.boxes, CLASSES).colors.astype(int)
    colors = ground_truth_layer(unseen, CLASSES).colors.astype(int)
    np.testing.assert_array_equal(colors[0], seen_colors[0] // 2)
    np.testing.assert_array_equal(colors[1], seen_colors[1])  # -1 is unknown, not unseen


def test_a_long_legend_leaves_the_scales_alone(sample: Sample) -> None:
    names = DETECTION_CLASSES * 2
    boxes = torch.zeros(len(names), 9)
    boxes[:, 2], boxes[:, 3:6] = 500.0, 1.0  # far above: only the legend shows them
    colors = np.full((len(names), 3), 90, dtype=np.uint8)
    long = BoxLayer(title="all kinds", boxes=boxes, names=names, captions=("",) * len(names), colors=colors)
    without, panel = (render_panel(sample, layers, STYLE)[-30:] for layers in ([], [long]))
    changed = np.flatnonzero((without != panel).any(axis=(0, 2)))
    scales = np.flatnonzero((without != without[0, 0]).any(axis=(0, 2)))
    assert 0 < changed.max() < scales.min()


def near_field(ahead: bool = True) -> NearFieldPrediction:
    """Something on the left half of the ground."""
    occupied = torch.zeros(160, 160)
    occupied[80:] = float(ahead)
    return NearFieldPrediction(occupied=occupied, grid=NEAR_FIELD_GRID)


def test_a_panel_without_other_tasks_is_what_it_was(sample: Sample) -> None:
    layers = layers_of(sample)
    bare = render_panel(sample, layers, STYLE)
    nothing = Predictions(token=sample.token, detections=None)
    np.testing.assert_array_equal(render_panel(sample, layers, STYLE, predictions=nothing), bare)
    said = replace(nothing, near_field=near_field())
    none_wanted = replace(STYLE, task_tiles=())
    np.testing.assert_array_equal(render_panel(sample, layers, none_wanted, predictions=said), bare)


def test_other_tasks_stand_under_the_cameras_which_stay_as_they_are(sample: Sample) -> None:
    bare = render_panel(sample, layers_of(sample), STYLE)
    said = Predictions(token=sample.token, detections=None, near_field=near_field())
    panel = render_panel(sample, layers_of(sample), STYLE, predictions=said)
    above, width = HEADER_PX + 2 * 90 + GAP_PX, bare.shape[1]
    assert panel.shape[1] == width
    np.testing.assert_array_equal(panel[:above], bare[:above])
    side = width // 4
    tile_of_task = panel[above + GAP_PX : above + GAP_PX + side, :side]
    half = side // 2
    assert share_of(tile_of_task[:, : half - 8], OCCUPIED) > 0.6 and share_of(tile_of_task[:, half + 8 :], FREE) > 0.6
    style = replace(STYLE, task_tiles=(TaskTile("near_field", "prediction"),))
    assert render_panel(sample, layers_of(sample), style).shape == panel.shape  # a sample without it
    both = replace(STYLE, task_tiles=(TaskTile("near_field", "prediction"), TaskTile("near_field", "truth")))
    assert render_panel(sample, layers_of(sample), both, predictions=said).shape[1] == width


def test_without_cameras_other_tasks_stand_beside_the_view(sample: Sample) -> None:
    blind = replace(sample, cameras={}, lidar=None)
    said = Predictions(token=sample.token, detections=None, near_field=near_field())
    panel = render_panel(blind, [], STYLE, predictions=said)
    assert panel.shape[1] > 300 + GAP_PX + 200
    beside = panel[HEADER_PX : HEADER_PX + 300, 300 + GAP_PX :]
    assert share_of(beside, OCCUPIED) > 0.3
    assert share_of(panel[HEADER_PX : HEADER_PX + 300, :300], OCCUPIED) == 0


def test_beside_a_single_row_of_cameras_the_view_stands_with_other_tasks(sample: Sample) -> None:
    group = make_cameras({f"FISHEYE_{i}": 0.0 for i in range(4)}, "kannala_brandt")
    fisheyes = replace(sample, cameras={"fisheye": group}, lidar=None)
    said = Predictions(token=sample.token, detections=None, near_field=near_field())
    panel = render_panel(fisheyes, [], STYLE, predictions=said)
    width = 4 * 118 + 3 * GAP_PX  # of the fisheyes
    side = width // 4
    assert panel.shape[1] == width
    below = panel[HEADER_PX + 90 * 4 * 118 // (4 * 160) + GAP_PX :]
    assert share_of(below[:side, :side], OCCUPIED) == 0
    assert share_of(below[:side, side + GAP_PX : side + GAP_PX + side // 2], OCCUPIED) > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_px": (9, 16)}, r"tile_px and bev_alone_px must be in 90..4096, got \(9, 16\) and 1400"),
        ({"tile_px": (90, 160_000)}, r"must be in 90..4096"),
        ({"bev_alone_px": 0}, r"must be in 90..4096, got \(450, 800\) and 0"),
        ({"bev_half_m": 0.0}, r"bev_half_m must be in 1.0..10000.0, got 0.0"),
        ({"bev_half_m": float("inf")}, r"bev_half_m must be in .*, got inf"),
    ],
)
def test_absurd_styles_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PanelStyle(**arguments)
