"""The small detector of every sensor with every fuser: all subsets of five branches, mixed in batches."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perception.formats.near_field import NearFieldCell
from perception.geometry.grid import Grid
from perception.models.detector import Detector, DetectorOutput
from perception.structures import Batch, NearField
from tests.models.fusers.test_configs import FUSERS, detector_with
from tests.models.near_scenes import every_sensor, make_echoes
from tests.models.scenes import augmentation, make_cameras, settled, two_boxes
from tests.models.test_every_sensor import sample_of, without_echoes, without_points

BRANCHES = ("camera", "fisheye", "lidar", "radar", "ultrasonic")
SUBSETS = [subset for count in range(1, 6) for subset in itertools.combinations(BRANCHES, count)]
BATCH_SIZE = 4
# Few and many sensors side by side, 31 subsets and once more all of them; the same rows, each among other neighbours.
BATCHES = [tuple([*SUBSETS, BRANCHES][first::8]) for first in range(8)]
SHUFFLED = [tuple(BATCHES[(first + row) % 8][row] for row in range(BATCH_SIZE)) for first in range(8)]
EVERY = pytest.mark.parametrize(
    "path",
    # The two that the others are compared with always, the others where there is time.
    [
        pytest.param(path, marks=[] if path.stem in ("concat_conv", "deformable") else pytest.mark.slow)
        for path in FUSERS
    ],
    ids=lambda path: path.stem,
)


@functools.cache
def whole_batch() -> Batch:
    """Four samples with every sensor and with all that the losses want to know."""
    torch.manual_seed(0)
    batch = every_sensor(BATCH_SIZE)
    moves = [augmentation(), augmentation(-1.0, 0.95, False), torch.eye(4, dtype=torch.float64), augmentation(3.0)]
    cells = torch.randint(0, max(NearFieldCell) + 1, (BATCH_SIZE, 64, 64), dtype=torch.uint8)
    truths = tuple(NearField(cells=sample, grid=Grid.square(3.2, 0.1, (-1.0, 3.0))) for sample in cells)
    cameras = {**batch.cameras, "surround": make_cameras([[True] * 6] * BATCH_SIZE)}
    return dataclasses.replace(
        batch,
        ego2aug=torch.stack(moves),
        cameras=cameras,
        radar4d=None,
        boxes=(two_boxes(),) * BATCH_SIZE,
        near_field=truths,
    )


def with_branches(batch: Batch, per_sample: Sequence[Sequence[str]]) -> Batch:
    """Takes sensors away: of each sample those that its entry does not name."""
    keep = {name: torch.tensor([name in names for names in per_sample]) for name in BRANCHES}
    groups = {"surround": keep["camera"], "fisheye": keep["fisheye"]}
    cameras = {
        group: dataclasses.replace(images, present=images.present & groups[group][:, None])
        for group, images in batch.cameras.items()
    }
    return dataclasses.replace(
        batch,
        cameras=cameras,
        lidar=without_points(batch.lidar, keep["lidar"]),
        radar=without_points(batch.radar, keep["radar"]),
        ultrasonic=None if batch.ultrasonic is None else without_echoes(batch.ultrasonic, keep["ultrasonic"]),
    )


def built(path: Path) -> Detector:
    """The detector with a fuser of a config, always the same."""
    torch.manual_seed(1)
    return detector_with(path)


def outputs_of(output: DetectorOutput) -> dict[str, Tensor]:
    """What heads say, by name, a row per sample."""
    boxes, near = output.heads["boxes"], output.heads["near_field"]
    return {"heatmap": boxes.heatmap, "regression": boxes.regression, "near": near.logits, "coarse": near.coarse_logits}


def test_every_subset_is_there() -> None:
    assert len(SUBSETS) == 31
    assert {subset for batch in BATCHES for subset in batch} == set(SUBSETS)


@EVERY
def test_all_subsets_train_in_mixed_batches(path: Path) -> None:
    detector = built(path)
    for subsets in BATCHES:
        detector.zero_grad()
        check_trained(detector, with_branches(whole_batch(), subsets))


def check_trained(detector: Detector, batch: Batch) -> None:
    """A training step whose outputs, losses and gradients are finite."""
    output = detector(batch)
    assert all(value.isfinite().all() for value in outputs_of(output).values())
    losses = detector.losses(output, batch)
    assert all(loss.isfinite() for loss in losses.values()), losses
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in detector.buffers())


@EVERY
@torch.no_grad()
def test_in_evaluation_each_subset_is_the_same_among_any_others_and_alone(path: Path) -> None:
    detector = settled(built(path), whole_batch())
    among: dict[tuple[int, tuple[str, ...]], list[dict[str, Tensor]]] = {}
    for subsets in (*BATCHES, *SHUFFLED):
        together = outputs_of(detector(with_branches(whole_batch(), subsets)))
        assert together["heatmap"].diff(dim=0).abs().flatten(1).amax(1).min() > 0.01  # the samples are different
        for row, subset in enumerate(subsets):
            among.setdefault((row, subset), []).append({name: value[row] for name, value in together.items()})
    assert len(among) == 31  # the one of all sensors twice
    for row, subset in enumerate(BATCHES[3]):
        alone = outputs_of(detector(alone_of(with_branches(whole_batch(), BATCHES[3]), row)))
        among[row, subset].append({name: value[0] for name, value in alone.items()})
    for key, (first, *others) in among.items():
        for name, value in first.items():
            scale = max(value.std().item(), 1.0)
            error = max((other[name] - value).abs().max().item() for other in others)
            assert error < 2e-3 * scale, (key, name, error)


def alone_of(batch: Batch, index: int) -> Batch:
    """One sample of a batch, as a batch."""
    nothing = without_points(batch.radar, torch.zeros(BATCH_SIZE, dtype=torch.bool))  # `sample_of` wants some
    return dataclasses.replace(sample_of(dataclasses.replace(batch, radar4d=nothing), index), radar4d=None)


@EVERY
def test_single_sensors_may_be_missing(path: Path) -> None:
    """One camera of six, one fisheye of four, two radars of five, five ultrasonic sensors of twelve."""
    batch = whole_batch()
    cameras = {
        name: dataclasses.replace(images, present=images.present & (torch.arange(images.present.shape[1]) != 1))
        for name, images in batch.cameras.items()
    }
    behind = batch.radar.points[:, 0] < -2  # where the rear radars look
    radar = dataclasses.replace(
        batch.radar, points=batch.radar.points[~behind], batch_index=batch.radar.batch_index[~behind]
    )
    heard = make_echoes([range(7), (0, 2, 3, 5, 7, 8, 11), range(5, 12), (0, 1, 2, 3, 4, 5, 11)])
    check_trained(built(path), dataclasses.replace(batch, cameras=cameras, radar=radar, ultrasonic=heard))


@EVERY
def test_a_sample_without_any_sensor_is_refused(path: Path) -> None:
    batch = with_branches(whole_batch(), [BRANCHES, ("radar",), (), ("lidar",)])
    message = r"must have one of the sensors camera, fisheye, lidar, radar, ultrasonic, got none for sample_2"
    with pytest.raises(ValueError, match=message):
        built(path)(batch)
