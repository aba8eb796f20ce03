"""Maps of hidden sensors, predicted from the others."""

import pytest
import torch

from perception.models.fusers.concat_conv import ConcatConvFuser
from perception.models.fusers.reconstruction import ReconstructingFuser
from perception.models.losses.reconstruction import ReconstructionLoss
from perception.structures import Batch, BevMap, SensorFeatures
from tests.models.fusers.features import (
    GRIDS,
    IN_CHANNELS,
    OUT_CHANNELS,
    SENSORS,
    make_features,
    make_fuser,
    present_of,
)

PAIR = {"main": {"camera": 2, "radar": 2}}


def wrapped(**settings: float) -> ReconstructingFuser:
    torch.manual_seed(0)
    inner = ConcatConvFuser(in_channels=IN_CHANNELS, out_channels=OUT_CHANNELS)
    return ReconstructingFuser(fuser=inner, width=6, **settings)


def test_with_every_sensor_it_changes_nothing() -> None:
    fuser = wrapped().eval()
    features = make_features(present_of(SENSORS, SENSORS))
    fused = fuser(features)
    assert torch.equal(fused.bev["main"].features, fuser.fuser(features).bev["main"].features)
    assert not fused.aux


def test_absent_rows_are_predicted_and_stay_invalid() -> None:
    fuser = wrapped().eval()
    features = make_features(present_of(SENSORS, ("lidar",)))
    given: dict[str, dict[str, SensorFeatures]] = {}
    fuse_level = fuser.fuser.fuse_level
    fuser.fuser.fuse_level = lambda level, parts: given.setdefault(level, parts) and fuse_level(level, parts)
    fused = fuser(features)
    filled = given["main"]
    assert all(part.present.all() for part in filled.values())
    assert torch.equal(filled["radar"].bev["main"].features[0], features["radar"].bev["main"].features[0])
    assert not torch.equal(filled["radar"].bev["main"].features[1], features["radar"].bev["main"].features[1])
    assert not filled["radar"].bev["main"].validity[1].any()
    assert torch.equal(fused.bev["main"].validity, features["lidar"].bev["main"].validity)
    assert not fused.aux  # what is absent has no target
    assert all(part.present.tolist() == [True, False] for part in given["near"].values())  # LiDAR says nothing there


def test_a_hidden_map_is_predicted_from_the_others_alone() -> None:
    features = make_features(present_of(SENSORS, ("lidar", "radar")))
    guesses = []
    for change in (0.0, 5.0):
        fuser = wrapped(hide_probability=0.5).train()
        hidden = torch.tensor([[False, False, True, False], [False, False, True, False]])
        fuser._hide = lambda present, hidden=hidden: present & ~hidden
        radar = features["radar"].bev["main"]
        moved = BevMap(features=radar.features + change, validity=radar.validity, grid=radar.grid)
        changed = SensorFeatures(present=features["radar"].present, bev={"main": moved})
        guesses.append(fuser({**features, "radar": changed}).aux["reconstruction/main/radar"])
    assert torch.equal(*guesses)


def test_what_is_predicted_has_no_trust() -> None:
    torch.manual_seed(0)
    fuser = ReconstructingFuser(fuser=make_fuser("gmu"), width=6).eval()
    trust = fuser(make_features(present_of(("lidar",), ("camera", "radar"), SENSORS))).aux["trust/main"]
    assert torch.equal(trust[0].amax((1, 2)) > 0, torch.tensor([sensor == "lidar" for sensor in SENSORS]))
    assert torch.equal(trust[1].amax((1, 2)) > 0, torch.tensor([sensor in ("camera", "radar") for sensor in SENSORS]))
    torch.testing.assert_close(trust.sum(1), torch.ones(3, 16, 16))


def test_training_hides_some_sensors_and_never_all() -> None:
    fuser = wrapped(hide_probability=0.9).train()
    present = torch.tensor([[True, False, True, True], [False, True, False, False]]).repeat(200, 1)
    kept = fuser._hide(present)
    assert not (kept & ~present).any()
    assert kept.any(1).all()
    assert 1 < kept[::2].sum(1).float().mean() < 1.5  # 1 + what is beyond one of three kept with probability 0.1
    features = make_features(present_of(SENSORS, ("lidar",), SENSORS))
    torch.manual_seed(1)
    aux = fuser(features).aux
    targets = {key: value for key, value in aux.items() if key.startswith("reconstruction_target/")}
    assert targets
    for key, target in targets.items():
        _, level, sensor = key.split("/")
        predicted = aux[f"reconstruction/{level}/{sensor}"]
        assert predicted.shape == target.shape
        assert predicted.requires_grad
        assert not target.requires_grad
        source = features[sensor].bev[level].features
        assert all(any(torch.equal(row, candidate) for candidate in source) for row in target)


def test_the_loss_is_the_mean_square_and_zero_without_pairs() -> None:
    identity = torch.eye(4, dtype=torch.float64)[None]
    batch = Batch(
        tokens=("sample",),
        scenes=("scene",),
        timestamps_us=torch.zeros(1, dtype=torch.long),
        ego2global=identity,
        ego2aug=identity,
        cameras={},
        lidar=None,
        boxes=(None,),
    )
    aux = {
        "fused/reconstruction/main/radar": torch.full((1, 2, 2, 2), 3.0),
        "fused/reconstruction_target/main/radar": torch.full((1, 2, 2, 2), 1.0),
        "fused/reconstruction/near/camera": torch.full((2, 1, 2, 2), 1.0),
        "fused/reconstruction_target/near/camera": torch.full((2, 1, 2, 2), 1.0),
        "fused/trust/main": torch.ones(1),
    }
    assert ReconstructionLoss(weight=0.5)(aux, batch) == 0.5 * (4 + 0) / 2
    assert ReconstructionLoss()({}, batch) == 0


def test_it_learns_one_sensor_from_the_other() -> None:
    torch.manual_seed(0)
    inner = ConcatConvFuser(in_channels=PAIR, out_channels={"main": 4})
    fuser = ReconstructingFuser(fuser=inner, width=8, depth=1, stride=1, hide_probability=0.5)
    optimizer = torch.optim.Adam(fuser.parameters(), 1e-2)
    valid, present = torch.ones(4, 1, 16, 16, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    losses = []
    for _ in range(80):
        maps = torch.randn(4, 2, 16, 16)
        views = {"camera": maps, "radar": -maps.flip(1)}
        features = {
            name: SensorFeatures(
                present=present, bev={"main": BevMap(features=view, validity=valid, grid=GRIDS["main"])}
            )
            for name, view in views.items()
        }
        aux = fuser(features).aux
        pairs = [
            (aux[key], aux[f"reconstruction_target/main/{key.split('/')[2]}"])
            for key in aux
            if key.startswith("reconstruction/")
        ]
        if not pairs:
            continue
        loss = torch.stack([(guess - target).square().mean() for guess, target in pairs]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hide_probability in \[0, 1\), got 32, 2, 2 and 1.0"):
        ReconstructingFuser(fuser=wrapped().fuser, hide_probability=1.0)
