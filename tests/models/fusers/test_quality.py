"""Quality-weighted fusion: the classes of cells, the ranking, and trust that falls where a sensor is corrupted."""

import pytest
import torch

from perception.models.fusers.qmf import QmfFuser, energy_confidence
from perception.models.losses.quality import QualityLoss, cell_classes
from perception.structures import Batch, BevMap, Boxes3D, FusedFeatures, SensorFeatures
from tests.models.fusers.features import GRIDS, make_features, present_of

GRID = GRIDS["main"]


def boxes_at(rows: list[list[float]], labels: list[int]) -> Boxes3D:
    """Boxes of 2 m x 1 m x 1.5 m high above the plane: x, y, yaw."""
    boxes = torch.zeros(len(rows), 9)
    for row, (x, y, yaw) in zip(boxes, rows, strict=True):
        row[:7] = torch.tensor([x, y, 0.8, 2.0, 1.0, 1.5, yaw])
    return Boxes3D(
        boxes=boxes,
        labels=torch.tensor(labels),
        num_lidar_points=torch.ones(len(rows), dtype=torch.long),
        tokens=tuple(f"box {number}" for number in range(len(rows))),
    )


def batch_of(boxes: list[Boxes3D | None]) -> Batch:
    identity = torch.eye(4, dtype=torch.float64).repeat(len(boxes), 1, 1)
    return Batch(
        tokens=tuple(f"sample {number}" for number in range(len(boxes))),
        scenes=("scene",) * len(boxes),
        timestamps_us=torch.arange(len(boxes)),
        ego2global=identity,
        ego2aug=identity,
        cameras={},
        lidar=None,
        boxes=tuple(boxes),
    )


def named(fused: FusedFeatures) -> dict[str, torch.Tensor]:
    """Auxiliary outputs as a detector names them."""
    return {f"fused/{key}": value for key, value in fused.aux.items()}


def test_cells_know_which_box_covers_them() -> None:
    mirror = torch.eye(4, dtype=torch.float64)
    mirror[1, 1] = -1
    ego2aug = torch.stack((torch.eye(4, dtype=torch.float64), mirror, mirror))
    boxes = [boxes_at([[2.0, 1.0, 0.0]], [3]), boxes_at([[2.0, 1.0, 0.0]], [0]), None]
    classes = cell_classes(GRID.centers_xy(), boxes, ego2aug)
    assert classes.shape == (3, 16, 16)
    assert classes[0].nonzero().tolist() == [[row, column] for row in (9, 10) for column in (10, 11, 12, 13)]
    assert classes[0, 9, 10] == 4
    assert classes[1].nonzero().tolist() == [[row, column] for row in (5, 6) for column in (10, 11, 12, 13)]
    assert classes[1, 5, 10] == 1
    assert (classes[2] == -1).all()
    assert not cell_classes(GRID.centers_xy(), [boxes_at([], [])], ego2aug[:1]).any()


def test_energy_is_high_where_a_classifier_is_sure() -> None:
    evidence = torch.tensor([[4.0, 0.0], [0.0, 0.0]]).view(2, 1, 2)  # two classes, one row of two cells
    sure, unsure = energy_confidence(evidence)[0]
    assert sure > 4
    assert unsure.item() == torch.tensor(2.0).log().item()


def test_ranking_wants_confidence_to_fall_as_loss_rises() -> None:
    loss = QualityLoss(num_pairs=2000)
    losses = torch.tensor([0.0, 1.0]).view(1, 1, 2)
    shares = torch.ones(1, 1, 2)
    torch.manual_seed(0)
    right = loss._rank(torch.tensor([3.0, 2.0]).view(1, 1, 2), losses, shares)
    flat = loss._rank(torch.tensor([2.0, 2.0]).view(1, 1, 2), losses, shares)
    wrong = loss._rank(torch.tensor([2.0, 3.0]).view(1, 1, 2), losses, shares)
    assert right == 0  # the gap of the confidences is that of the losses
    assert flat == 0  # no order, nothing to correct, as published
    torch.testing.assert_close(wrong, torch.tensor(1.0), rtol=0.1, atol=0)  # half of the pairs differ, by 1 + 1


def test_nothing_to_learn_from_is_zero() -> None:
    fuser = QmfFuser(
        in_channels={"main": {"lidar": 6, "radar": 4}}, out_channels={"main": 8}, num_classes=2, hidden_channels=4
    )
    features = make_features(present_of(("lidar",), ("radar",)))
    fused = fuser({name: features[name] for name in ("lidar", "radar")})
    value = QualityLoss()(named(fused), batch_of([None, None]))
    assert value == 0
    value.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in fuser.parameters())
    assert QualityLoss(level="near")(named(fused), batch_of([None, None])) == 0
    taught = QualityLoss()(named(fused), batch_of([boxes_at([[1.0, 1.0, 0.3]], [1]), None]))
    assert taught > 0
    assert taught.isfinite()
    with pytest.raises(ValueError, match="labels must be below the 2 classes of the fuser, got 2"):
        QualityLoss()(named(fused), batch_of([boxes_at([[1.0, 1.0, 0.3]], [2]), None]))


def test_trust_falls_where_a_sensor_is_corrupted() -> None:
    """Both sensors see the objects; the camera's map is noise on the left half of every second sample."""
    torch.manual_seed(0)
    fuser = QmfFuser(
        in_channels={"main": {"camera": 3, "lidar": 3}}, out_channels={"main": 4}, num_classes=1, hidden_channels=8
    )
    loss = QualityLoss(num_pairs=256)
    optimizer = torch.optim.Adam(fuser.parameters(), 1e-2)

    def look() -> tuple[dict[str, SensorFeatures], Batch]:
        places = 6 * torch.rand(4, 3, 2) - 3
        boxes = [boxes_at([[*place, 0.0] for place in sample.tolist()], [0, 0, 0]) for sample in places]
        batch = batch_of(boxes)
        occupied = (cell_classes(GRID.centers_xy(), boxes, batch.ego2aug) > 0).float()[:, None]  # (4, 1, 16, 16)
        clean = 2 * occupied * torch.ones(1, 3, 1, 1) + 0.2 * torch.randn(4, 3, 16, 16)
        camera = clean.clone()
        camera[::2, :, :, :8] = 2 * torch.rand(2, 3, 16, 8) + torch.randn(2, 3, 1, 8)
        present, valid = torch.ones(4, dtype=torch.bool), torch.ones(4, 1, 16, 16, dtype=torch.bool)
        maps = {"camera": camera, "lidar": clean}
        return {
            name: SensorFeatures(present=present, bev={"main": BevMap(features=part, validity=valid, grid=GRID)})
            for name, part in maps.items()
        }, batch

    for _ in range(60):
        features, batch = look()
        optimizer.zero_grad()
        loss(named(fuser(features)), batch).backward()
        optimizer.step()
    features, _ = look()
    trust = fuser.eval()(features).aux["trust/main"]
    corrupted, intact = trust[::2, 0, :, :7].mean(), trust[::2, 0, :, 9:].mean()
    assert corrupted < intact - 0.1
    assert trust[1::2, 0, :, :7].mean() > corrupted + 0.1  # the same cells of samples that are fine
    torch.testing.assert_close(trust.sum(1), torch.ones(4, 16, 16))
