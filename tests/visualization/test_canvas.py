import numpy as np
import pytest

from perception.visualization import canvas
from perception.visualization.colors import class_colors, depth_colors, height_colors


def blank(height: int = 40, width: int = 60) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def test_lines_are_cut_at_the_border() -> None:
    segments = np.array(
        [
            [[-100, 10], [100, 10]],  # through
            [[5, 5], [10, 10]],  # inside
            [[-10, -10], [-5, 80]],  # beside
            [[20, -1e9], [20, 1e9]],  # far out
            [[np.nan, 0], [10, 10]],
        ]
    )
    lines, visible = canvas.clip_segments(segments, (40, 60))
    assert visible.tolist() == [True, True, False, True, False]
    np.testing.assert_allclose(lines[0], [[-0.5, 10], [59.5, 10]])
    np.testing.assert_allclose(lines[1], segments[1])
    np.testing.assert_allclose(lines[3], [[20, -0.5], [20, 39.5]], atol=1e-5)


def test_polygons_are_cut_by_a_line() -> None:
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    half = canvas.clip_polygon(square, square[:, 0] - 1)
    assert {tuple(corner) for corner in half} == {(1.0, 0.0), (2.0, 0.0), (2.0, 2.0), (1.0, 2.0)}
    assert canvas.clip_polygon(square, square[:, 0] - 3).shape == (0, 2)
    np.testing.assert_array_equal(canvas.clip_polygon(square, square[:, 0] + 1), square)


def test_a_see_through_polygon_mixes_the_colours() -> None:
    picture = blank()
    canvas.fill_polygon(picture, np.array([[10.0, 10], [30, 10], [30, 30], [10, 30]]), (200, 100, 0), opacity=0.5)
    assert picture[20, 20].tolist() == [100, 50, 0]
    assert picture[5, 5].tolist() == [0, 0, 0]


def test_a_polygon_may_reach_out_of_the_picture() -> None:
    picture = blank()
    canvas.fill_polygon(picture, np.array([[-500.0, -500], [500, -500], [500, 500], [-500, 500]]), (9, 9, 9))
    assert (picture == 9).all()
    canvas.fill_polygon(picture, np.array([[100.0, 100], [200, 100], [200, 200]]), (1, 1, 1))
    assert (picture == 9).all()


def test_a_dot_covers_its_area_and_later_dots_cover_earlier_ones() -> None:
    picture = blank()
    colors = np.array([[255, 0, 0], [0, 255, 0]], dtype=np.uint8)
    canvas.draw_points(picture, np.array([[20.0, 20.0], [20.0, 20.0]]), colors, radius_px=3)
    assert picture[20, 20].tolist() == [0, 255, 0] and picture[..., 0].max() == 0
    assert picture[..., 1].sum() / 255 == pytest.approx(np.pi * 3**2, rel=0.15)


def test_dots_at_the_border_and_beyond() -> None:
    picture = blank()
    pixels = np.array([[-0.5, -0.5], [59.4, 39.4], [60.0, 5.0], [np.inf, 0.0], [5.0, np.nan]])
    canvas.draw_points(picture, pixels, np.full((5, 3), 255, dtype=np.uint8), radius_px=2)
    assert picture[0, 0].max() == 255 and picture[39, 59].max() == 255
    assert picture[5, 50:].max() == 0


@pytest.mark.parametrize(("align", "columns"), [("left", (30, 60)), ("right", (0, 30)), ("center", (10, 50))])
def test_text_stands_where_it_is_aligned(align: str, columns: tuple[int, int]) -> None:
    picture = blank()
    canvas.draw_text(picture, "abc", (30, 10), 12, (255, 255, 255), align)
    marked = np.argwhere(picture.any(axis=-1))
    assert len(marked) > 20
    assert columns[0] <= marked[:, 1].min() and marked[:, 1].max() < columns[1]


def test_text_is_cut_off_at_the_border() -> None:
    picture = blank()
    for at in ((-10, -5), (55, 35), (-200, 0), (0, 200), (300, 300)):
        canvas.draw_text(picture, "long text", at, 14, (255, 255, 255))
    assert picture[:12, :30].any() and picture[35:, 55:].any()
    with pytest.raises(ValueError, match="align must be left, center or right, got 'top'"):
        canvas.draw_text(picture, "a", (0, 0), 10, (1, 1, 1), "top")


def test_plates_never_cover_each_other_and_stay_inside() -> None:
    anchors = np.random.default_rng(0).uniform(0, 200, (60, 2))
    texts = [f"box {i}" for i in range(59)] + [""]
    places = canvas.place_tags(texts, anchors, 10, (200, 200))
    boxes = [
        (u, v, u + canvas.tag_size(text, 10)[0], v + canvas.tag_size(text, 10)[1])
        for text, place in zip(texts, places, strict=True)
        if place is not None
        for u, v in [place]
    ]
    assert places[0] is not None and places[-1] is None and 5 < len(boxes) < 59
    for i, a in enumerate(boxes):
        assert min(a[:2]) >= 0 and max(a[2:]) <= 200
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in boxes[:i])


def test_colour_scales_are_defined_everywhere() -> None:
    values = np.array([-1e9, 0.0, 1.5, 70.0, np.nan, np.inf])
    assert height_colors(values).shape == depth_colors(values).shape == (6, 3)
    near, far = depth_colors(np.array([2.0, 60.0])).astype(int)
    assert near[0] > near[2] and far[2] > far[0]  # red near, blue far
    low, high = height_colors(np.array([0.0, 4.0])).astype(int)
    assert high.sum() > low.sum()


def test_every_class_has_a_colour_of_its_own() -> None:
    names = ("car", "truck", "bus", "pedestrian", "tram", "dog", "cart")
    colors = class_colors(names)
    assert len({tuple(color) for color in colors.tolist()}) == len(names)
    assert class_colors(()).shape == (0, 3)
