"""Gradients of tasks at what they share: against hand-computed ones, and without a trace in the run."""

import csv

import pytest
import torch

from perception.training import module as training_module
from perception.training.gradients import FUSED, GradientMonitor, gradient_figures, watched
from tests.training.test_module import make_data, make_module, make_trainer


def test_norms_and_cosines_are_those_of_the_tasks_own_gradients():
    fused, camera, lidar = (torch.zeros(size, requires_grad=True) for size in (2, 3, 2))
    # d boxes / d fused = (3, 0), d map / d fused = (3, 4): norms 3 and 5, cosine 9 / 15.
    losses = {
        "boxes/heatmap": 2 * fused[0] + lidar[0],
        "boxes/size": fused[0] + camera[1] - lidar[0],
        "map/focal": 3 * fused[0] + 4 * fused[1] - 2 * camera[1],
        "depth": 7 * camera.sum(),
    }
    figures = gradient_figures(losses, {FUSED: [fused], "camera": [camera], "lidar": [lidar]})
    expected = {
        "gradient_norm/fused/boxes": 3.0,
        "gradient_norm/fused/map": 5.0,
        "gradient_cosine/fused/boxes,map": 0.6,
        "gradient_norm/camera/boxes": 1.0,
        "gradient_norm/camera/map": 2.0,
        "gradient_norm/camera/depth": 7 * 3**0.5,
        "gradient_cosine/camera/boxes,map": -1.0,
        "gradient_cosine/camera/boxes,depth": 3**-0.5,
        "gradient_cosine/camera/map,depth": -(3**-0.5),
        "gradient_norm/lidar/boxes": 0.0,
    }
    assert {name: pytest.approx(float(value), abs=1e-6) for name, value in figures.items()} == expected


def test_levels_of_a_place_count_as_one_and_what_has_no_gradient_is_left_out():
    near, far = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    losses = {"a": 3 * near[0], "b": 4 * far[1] + 3 * near[0]}
    figures = gradient_figures(losses, {FUSED: [near, far], "absent": [torch.zeros(2)]})
    assert set(figures) == {"gradient_norm/fused/a", "gradient_norm/fused/b", "gradient_cosine/fused/a,b"}
    assert float(figures["gradient_norm/fused/b"]) == pytest.approx(5.0)
    assert float(figures["gradient_cosine/fused/a,b"]) == pytest.approx(0.6)
    assert gradient_figures({"a": torch.tensor(1.0)}, {FUSED: [near]}) == {}


def test_gradients_too_small_for_half_precision_are_measured():
    fused = torch.ones(64, dtype=torch.float16, requires_grad=True)
    figures = gradient_figures({"a": 1e-8 * fused.float().sum(), "b": -1e-9 * fused.float().sum()}, {FUSED: [fused]})
    assert float(figures["gradient_norm/fused/a"]) == pytest.approx(8e-8, rel=1e-3)
    assert float(figures["gradient_norm/fused/b"]) == pytest.approx(8e-9, rel=1e-2)
    assert float(figures["gradient_cosine/fused/a,b"]) == pytest.approx(-1.0)


def test_a_watched_detector_gives_its_maps_and_is_left_without_hooks(dataroot, tmp_path):
    detector = make_module().detector
    data = make_data(dataroot, index=str(tmp_path / "index"))
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    with watched(detector) as places:
        output = detector(batch)
    assert set(places) == {FUSED, "camera", "lidar"}
    detector(batch)  # no longer watched
    figures = gradient_figures(detector.losses(output, batch), places)
    assert float(figures["gradient_norm/fused/boxes"]) > 0


def test_a_run_logs_them_now_and_then_and_is_otherwise_the_same(dataroot, tmp_path):
    weights, columns = [], []
    for number, gradients in enumerate((None, GradientMonitor(every_n_steps=2))):
        torch.manual_seed(0)
        module = make_module(gradients=gradients)
        trainer = make_trainer(tmp_path / str(number), max_steps=3)
        trainer.fit(module, datamodule=make_data(dataroot))
        weights.append(module.detector.state_dict())
        with open(tmp_path / str(number) / "metrics.csv") as file:
            columns.append(list(csv.DictReader(file)))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for place in ("fused", "lidar", "camera"):
        norms = {int(row["step"]): float(value) for row in columns[1] if (value := row[f"gradient_norm/{place}/boxes"])}
        assert set(norms) == {0, 2}
        assert min(norms.values()) > 0
    assert not any(name.startswith("gradient_") for name in columns[0][0])


def test_batches_that_make_up_a_step_are_measured_once(dataroot, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(
        training_module, "gradient_figures", lambda *maps: measured.append(gradient_figures(*maps)) or {}
    )
    module = make_module(gradients=GradientMonitor(every_n_steps=2))
    make_trainer(tmp_path, max_steps=3, accumulate_grad_batches=2).fit(module, datamodule=make_data(dataroot))
    assert len(measured) == 2  # at steps 0 and 2


def test_it_must_be_asked_for_at_least_every_step():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        GradientMonitor(every_n_steps=0)
