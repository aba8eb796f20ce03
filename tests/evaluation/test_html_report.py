"""The page of a run: everything is on it, nothing of it is executed, and a browser shows it."""

import os
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.bootstrap import Interval, bootstrap
from perception.evaluation.confusion import confusion
from perception.evaluation.detection import annotations_as_detections
from perception.evaluation.detection_report import DetectionReport, evaluate_submission
from perception.evaluation.html import Marks, Markup, chart, element, table
from perception.evaluation.html_report import ReportContents, report_page, write_report
from perception.evaluation.html_worst import worst_pictures
from perception.evaluation.tasks import TaskScores
from perception.formats.submission import SubmissionMeta, write_submission
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

EVIL = "<script>alert('x')</script>\"&<b>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Counts tags, and keeps words and what is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> tuple[Path, Index, DetectionReport]:
    """A set, its index, and the report of its annotations moved by half a metre, cars left out."""
    root = write_synthetic_nuscenes(tmp_path_factory.mktemp("set"), cameras=False)
    folder = tmp_path_factory.mktemp("index")
    build_index(root, VERSION, folder / "index")
    index = Index.open(folder / "index")
    found = []
    for position in index.samples_of("mini_val"):
        record = index.record(int(position))
        one = annotations_as_detections(record.annotations)
        keep = one.labels != 0
        boxes = one.boxes_global[keep] + np.array([0.5, *[0.0] * 8])
        found.append((record.token, replace(one, boxes_global=boxes, scores=one.scores[keep],
                                            labels=one.labels[keep], attributes=None)))  # fmt: skip
    write_submission(folder / "results.json", found, SubmissionMeta(False, True, False))
    return root, index, evaluate_submission(folder / "results.json", index, "mini_val")


@pytest.fixture(scope="module")
def contents(scored) -> ReportContents:
    root, index, report = scored
    tracking = {"amota": 0.5, "amotp": 1.25, "label_metrics": {"amota": {"car": float("nan")}, "amotp": {"car": 1.0}}}
    return ReportContents(
        title=EVIL,
        facts={"set": EVIL},
        detection=report,
        intervals=bootstrap(report, 5),
        tasks={
            "map": TaskScores("map", problem=f"{EVIL}: missing"),
            "near_field": TaskScores("near field", {EVIL: Interval(0.5, 0.25, 0.75), "nan": Interval(*[np.nan] * 3)}),
            "occupancy": TaskScores("occupancy", tables={"by class": {"bus": {"iou_mask_camera": 0.625}}}),
        },
        tracking=tracking,
        pictures=worst_pictures(report, confusion(report).faults, index, "mini_val", root, count=2),
    )


def test_everything_is_on_the_page_and_nothing_comes_from_elsewhere(scored, contents):
    page = Page(report_page(contents))
    assert "script" not in page.tags and "link" not in page.tags and page.tags.count("b") < 60
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    for heading in ("Boxes", "Confusion", "Slices", "Reliability", "Worst samples", "Map", "Near field", "Tracking"):
        assert heading in page.words
    assert page.words.count(EVIL) == 4  # the title twice, a fact, a figure
    assert f"Not scored: {EVIL}: missing" in page.words
    report = scored[2]
    for value in (report.summary["nd_score"], report.summary["mean_ap"], report.summary["label_aps"]["truck"][0.5]):
        assert f"{value:.3f}" in page.words
    assert {"0.250 to 0.750", "1.250", "0.625", "iou mask camera", "20-30 m", "points <= 5", "visibility 4"} <= set(
        page.words
    )
    assert page.tags.count("img") == 2 and page.tags.count("svg") > 5


def test_worst_samples_are_the_ones_with_faults(scored):
    root, index, report = scored
    faults = confusion(report).faults
    assert (faults == 2).all()  # the two cars of each sample are missed, and nothing else is wrong
    assert len(worst_pictures(report, faults, index, "mini_val", root)) == len(faults)
    assert worst_pictures(report, np.zeros_like(faults), index, "mini_val", root) == []
    (one,) = worst_pictures(report, np.arange(len(faults)), index, "mini_val", root, count=1)
    assert index.tokens_of(index.samples_of("mini_val"))[-1] in one


@pytest.mark.parametrize("size", [np.inf, 1e300])
def test_a_prediction_too_large_to_draw_is_left_out_of_the_picture(scored, size):
    root, index, report = scored
    found = report.predictions
    absurd = replace(found, sizes_wlh=np.full_like(found.sizes_wlh, size), scores=np.ones_like(found.scores))
    faults = np.ones(len(report.sample_scenes), dtype=np.int64)
    (one,) = worst_pictures(replace(report, predictions=absurd), faults, index, "mini_val", root, count=1)
    assert "and 0 predictions" in one


def test_a_page_without_boxes_and_with_nothing_found(scored):
    assert "Boxes" not in report_page(ReportContents("empty", {}))
    nothing = np.zeros(len(scored[2].predictions), dtype=bool)
    report = scored[2]
    empty = replace(
        report,
        predictions=report.predictions.select(nothing),
        matches={
            name: replace(it, predictions=it.predictions[:0], scores=it.scores[:0], hits=it.hits[:0])
            for name, it in report.matches.items()
        },
    )
    assert "Confusion" in report_page(ReportContents("none", {}, detection=empty))


def test_a_name_of_a_file_that_is_not_unicode_does_not_cost_the_page(tmp_path):
    write_report(tmp_path / "report.html", ReportContents("of " + os.fsdecode(b"caf\xe9.json"), {}))
    assert "of caf?.json" in (tmp_path / "report.html").read_text()


def test_text_is_escaped_and_markup_is_not():
    assert element("td", "<b>", Markup("<i></i>"), attributes={"title": '"<'}) == (
        '<td title="&quot;&lt;">&lt;b&gt;<i></i></td>'
    )
    cells = table(["a", "b"], [["x", "1"]], np.array([[0.5]]))
    assert "rgba(var(--shade), 0.50)" in cells and "0.00" not in table(["a", "b"], [["x", "1"]], np.array([[np.nan]]))


def test_a_chart_puts_the_unit_square_on_its_grid():
    drawn = chart("t", ("x", "y"), [(np.array([0.0, 1.0]), np.array([0.0, 1.0]))])
    assert 'class="l l0" points="28.0,158.0 232.0,20.0"' in drawn
    marks = Marks(np.array([0.5, np.nan]), np.array([1.0, np.nan]), np.array([4, 0]))
    drawn = chart("t", ("x", "y"), marks=marks)
    assert drawn.count("<circle") == 1 and 'cx="130.0" cy="20.0" r="9.0"' in drawn


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it(contents, tmp_path, width):
    import cv2

    write_report(tmp_path / "report.html", contents)
    assert (tmp_path / "report.html").stat().st_size < 5e6
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    address = (tmp_path / "report.html").as_uri()
    shot = [f"--window-size={width},900", f"--screenshot={tmp_path / 'shot.png'}", address]
    subprocess.run([*command, *shot], check=True, capture_output=True, timeout=120)
    picture = cv2.imread(str(tmp_path / "shot.png"))
    assert picture.shape == (900, width, 3)
    assert picture.std() > 5  # not blank
    seen = subprocess.run([*command, "--dump-dom", address], check=True, capture_output=True, timeout=120, text=True)
    page = Page(seen.stdout)
    assert "script" not in page.tags and "Reliability" in page.words
