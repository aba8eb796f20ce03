"""The predictor: samples with any sensors in, boxes in the true ego frame out."""

from dataclasses import replace

import pytest
import torch

from perception.data.collate import collate
from perception.models.temporal.history import BevHistory
from perception.runtime.predictor import Predictor
from perception.structures import CameraImages, PointCloud, Sample
from perception.structures.tensors import identity4, map_tensors
from tests.models.scenes import augmentation, make_cameras, make_detector


def cameras() -> CameraImages:
    return map_tensors(make_cameras([[True, True]]), lambda tensor: tensor[0])


def cloud(count: int) -> PointCloud:
    points = torch.rand(count, 5) * 20 - 10
    return PointCloud(points=points, fields=("intensity", "time_lag_s"), sensor2ego=identity4())


def sample(token: str, *, camera: bool = False, points: int | None = None) -> Sample:
    return Sample(
        token=token,
        scene="scene",
        timestamp_us=0,
        ego2global=identity4(),
        cameras={"surround": cameras()} if camera else {},
        lidar=None if points is None else cloud(points),
    )


def test_samples_with_different_sensors_are_predicted_together() -> None:
    detector = make_detector()
    detector.heads["boxes"].decoding = type(detector.heads["boxes"].decoding)(score_threshold=0.0, max_boxes=20)
    predictor = Predictor(detector, "cpu")
    assert not detector.training
    samples = [sample("a", camera=True), sample("b", points=100), sample("c", camera=True, points=0)]
    together = predictor.predict(samples)
    assert [one.token for one in together] == ["a", "b", "c"]
    for index, one in enumerate(samples):
        (alone,) = predictor.predict([one])
        found = together[index].detections
        assert len(found) == 20
        assert (found.scores[:-1] >= found.scores[1:]).all()
        torch.testing.assert_close(found.scores, alone.detections.scores, rtol=1e-4, atol=1e-5)
        assert found.scores.requires_grad is False
    assert predictor.predict(samples)[0].detections.scores.equal(together[0].detections.scores)


def test_a_sample_without_sensors_is_an_error() -> None:
    with pytest.raises(ValueError, match="got none for blind"):
        Predictor(make_detector()).predict([sample("seen", points=3), sample("blind")])


def test_a_history_is_handed_on_from_sample_to_sample() -> None:
    detector = make_detector(["lidar"])
    detector.temporal = BevHistory(channels={"main": 16})
    detector.heads["boxes"].decoding = type(detector.heads["boxes"].decoding)(score_threshold=0.0)
    drive = [replace(sample(str(i), points=200), timestamp_us=500_000 * i) for i in range(4)]
    one_call, many_calls = Predictor(detector), Predictor(detector)
    together = one_call.predict(drive)
    state = None
    for moment, found in zip(drive, together, strict=True):
        batch = collate([moment])
        with torch.no_grad():
            output = detector(batch, state=state)
        state = output.state
        expected = detector.predict(output, batch)[0].detections.scores
        assert torch.equal(found.detections.scores, expected)
        assert torch.equal(many_calls.predict([moment])[0].detections.scores, expected)
    (alone,) = Predictor(detector).predict(drive[3:])
    assert not torch.equal(alone.detections.scores, together[3].detections.scores)
    with pytest.raises(ValueError, match="sample"):
        one_call.predict([])


def test_augmentation_does_not_show_in_the_frame_of_the_boxes() -> None:
    # The centre of a box lies in the augmented grid, taken back to the ego frame.
    detector = make_detector(["lidar"])
    detector.heads["boxes"].decoding = type(detector.heads["boxes"].decoding)(score_threshold=0.0)
    plain = sample("a", points=50)
    moved = Sample(**{**vars(plain), "ego2aug": augmentation()})
    (found,) = Predictor(detector).predict([moved])
    centers = found.detections.boxes[:, :3].double()
    in_grid = centers @ augmentation()[:3, :3].T + augmentation()[:3, 3]
    assert (
        in_grid[:, :2].abs() <= torch.tensor([16.0, 12.8]) + 1.6
    ).all()  # a cell and an offset of an untrained network
