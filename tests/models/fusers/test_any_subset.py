"""What every fuser promises: any subset of the sensors, mixed in a batch, and nothing read that is absent."""

import pytest
import torch

from perception.geometry.grid import Grid
from perception.models.parts import Fuser
from perception.structures import BevMap, FusedFeatures, SensorFeatures
from tests.models.fusers.features import (
    BUILDERS,
    GRIDS,
    IN_CHANNELS,
    OUT_CHANNELS,
    SENSORS,
    SUBSETS,
    TRUSTING,
    make_features,
    make_fuser,
    overwrite_absent,
    present_of,
    random_bytes,
    sample_of,
)

EVERY = pytest.mark.parametrize("name", BUILDERS)
MIXED = present_of(SENSORS, ("camera",), ("lidar",), ("lidar", "radar"), ("ultrasonic", "radar"))


def total(fused: FusedFeatures) -> torch.Tensor:
    """A scalar that every fused cell and every auxiliary output moves in its own way."""
    generator = torch.Generator().manual_seed(5)
    values = [part.features for part in fused.bev.values()]
    values += [value for value in fused.aux.values() if value.requires_grad]
    return sum((value * torch.randn(value.shape, generator=generator)).sum() for value in values)


def same(one: FusedFeatures, other: FusedFeatures) -> bool:
    """Whether two results are equal to the bit."""
    return all(
        torch.equal(one.bev[level].features, other.bev[level].features)
        and torch.equal(one.bev[level].validity, other.bev[level].validity)
        for level in OUT_CHANNELS
    ) and all(torch.equal(value, other.aux[key]) for key, value in one.aux.items())


@EVERY
def test_every_subset_gives_finite_maps_and_gradients_and_all_reach_every_parameter(name: str) -> None:
    fuser = make_fuser(name).eval()  # in evaluation, so that no batch norm hides a constant before it
    reached = {key: torch.zeros_like(p) for key, p in fuser.named_parameters() if p.requires_grad}
    for subset in SUBSETS:
        fuser.zero_grad()
        features = make_features(present_of(subset, SENSORS))
        fused = fuser(features)
        for level, channels in OUT_CHANNELS.items():
            grid = GRIDS[level]
            assert fused.bev[level].grid == grid
            assert fused.bev[level].features.shape == (2, channels, grid.num_y, grid.num_x)
            assert fused.bev[level].features.isfinite().all()
            seen = any(sensor in IN_CHANNELS[level] for sensor in subset)
            assert fused.bev[level].validity[0, 0, 0, :2].tolist() == [seen, False]
        total(fused).backward()
        for key, parameter in fuser.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), key
                reached[key] += parameter.grad.abs()
    assert not {key for key, value in reached.items() if not value.any()}


@EVERY
def test_a_training_step_on_a_mixed_batch_is_finite(name: str) -> None:
    fuser = make_fuser(name).train()
    features = make_features(MIXED)
    for part in features.values():
        for bev in part.bev.values():
            bev.features.requires_grad_()
    fused = fuser(features)
    total(fused).backward()
    assert all(part.features.isfinite().all() for part in fused.bev.values())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in fuser.parameters())
    for part in features.values():
        for bev in part.bev.values():
            assert bev.features.grad.isfinite().all()
            assert not bev.features.grad[~part.present].any()


@EVERY
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_mixed_precision_stays_finite_and_close(name: str, training: bool) -> None:
    fuser = make_fuser(name).train(training)
    features = make_features(MIXED)
    torch.manual_seed(1)
    exact = fuser(features)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        fused = fuser(features)
    total(fused).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in fuser.parameters())
    for level in OUT_CHANNELS:
        error = (fused.bev[level].features.float() - exact.bev[level].features).abs().mean()
        assert error < 0.05 * exact.bev[level].features.std()


@EVERY
def test_in_training_a_level_learns_from_samples_that_have_its_sensors_alone(name: str) -> None:
    """Batch statistics of `near` are those of the one sample that sees it, whatever stands beside that one."""
    results, features = [], make_features(present_of(("camera", "lidar", "ultrasonic"), ("lidar",), ("lidar", "radar")))
    for given in (features, sample_of(features, 0)):
        fuser = make_fuser(name).train()
        if name == "reconstruction":
            fuser.hide_probability = 0.0  # draws depend on how many samples there are
        torch.manual_seed(2)
        fused = fuser(given).bev["near"].features[0]
        running = [value for key, value in fuser.state_dict().items() if "near" in key and "running" in key]
        results.append((fused, *running))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@EVERY
def test_in_evaluation_a_sample_does_not_depend_on_its_neighbours(name: str) -> None:
    fuser = make_fuser(name).eval()
    features = make_features(MIXED)
    with torch.no_grad():
        together = fuser(features)
        for index in range(len(MIXED["lidar"])):
            alone = fuser(sample_of(features, index))
            for level in OUT_CHANNELS:
                torch.testing.assert_close(
                    alone.bev[level].features[0], together.bev[level].features[index], rtol=1e-4, atol=1e-5
                )
                assert torch.equal(alone.bev[level].validity[0], together.bev[level].validity[index])


@EVERY
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_absent_rows_may_hold_anything(name: str, training: bool) -> None:
    results = []
    fills = (
        torch.zeros_like,
        lambda rows: torch.full_like(rows, torch.nan),
        lambda rows: torch.full_like(rows, torch.inf),
        random_bytes,
    )
    for fill in fills:
        fuser = make_fuser(name).train(training)
        features = make_features(MIXED)
        overwrite_absent(features, fill)
        torch.manual_seed(1)
        fused = fuser(features)
        total(fused).backward()
        results.append((fused, {key: parameter.grad for key, parameter in fuser.named_parameters()}))
    first, gradients = results[0]
    for fused, others in results[1:]:
        assert same(first, fused)
        for key, gradient in gradients.items():
            assert (gradient is None) == (others[key] is None), key
            assert gradient is None or torch.equal(gradient, others[key]), key


@EVERY
@pytest.mark.parametrize("missing", ["camera", "lidar", "ultrasonic"])
def test_a_sensor_that_is_not_named_is_absent_in_every_sample(name: str, missing: str) -> None:
    fuser = make_fuser(name).eval()
    rest = [sensor for sensor in SENSORS if sensor != missing]
    features = make_features(present_of(rest, rest[1:]))
    with torch.no_grad():
        absent = fuser(features)
        unnamed = fuser({sensor: part for sensor, part in features.items() if sensor != missing})
    assert same(absent, unnamed)


@EVERY
def test_a_level_without_any_of_its_sensors_is_the_same_everywhere_and_valid_nowhere(name: str) -> None:
    fuser = make_fuser(name).eval()
    with torch.no_grad():
        fused = fuser(make_features(present_of(("lidar",), ("lidar", "camera"))))
        nobody = fuser(make_features(present_of(("lidar",), ("radar",))))
    assert not fused.bev["near"].validity[0].any()
    assert fused.bev["near"].validity[1].any()
    assert not nobody.bev["near"].validity.any()
    assert torch.equal(fused.bev["near"].features[0], nobody.bev["near"].features[0])
    assert not nobody.bev["near"].features.any()


@pytest.mark.parametrize("name", TRUSTING)
def test_trust_adds_up_to_one_over_the_present_sensors(name: str) -> None:
    fuser = make_fuser(name).train()
    trust = fuser(make_features(MIXED)).aux["trust/main"]
    assert trust.shape == (5, 4, 16, 16)
    assert (trust >= 0).all()
    torch.testing.assert_close(trust.sum(1), torch.ones(5, 16, 16))
    present = torch.tensor([MIXED[sensor] for sensor in SENSORS]).T  # (B, N)
    assert not trust[~present].any()
    assert (trust[present] > 0).all()
    near = fuser(make_features(MIXED)).aux["trust/near"]
    torch.testing.assert_close(near.sum(1)[:, 0, 0], torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0]))


@EVERY
def test_one_sensor_alone_is_a_fuser_too(name: str) -> None:
    fuser = BUILDERS[name]({"main": {"lidar": 6}}, {"main": 8})
    lidar = make_features(present_of(SENSORS, ("lidar",)))["lidar"]
    fused = fuser({"lidar": lidar})
    assert fused.bev["main"].features.shape == (2, 8, 16, 16)
    total(fused).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in fuser.parameters())


@EVERY
def test_maps_that_do_not_fit_are_refused(name: str) -> None:
    fuser: Fuser = BUILDERS[name]({"main": {"camera": 2, "lidar": 2}}, {"main": 4})

    def part(grid: Grid, level: str = "main") -> SensorFeatures:
        shape = (1, 2, grid.num_y, grid.num_x)
        bev = BevMap(features=torch.zeros(shape), validity=torch.zeros(1, 1, *shape[2:], dtype=torch.bool), grid=grid)
        return SensorFeatures(present=torch.ones(1, dtype=torch.bool), bev={level: bev})

    with pytest.raises(ValueError, match="must hold maps of level 'main' on one grid"):
        fuser({"camera": part(GRIDS["main"]), "lidar": part(GRIDS["near"])})
    with pytest.raises(ValueError, match=r"must hold maps of level 'main' on one grid, got \[\]"):
        fuser({})
    with pytest.raises(ValueError, match="features of 'lidar' must have level 'main', got \\['near'\\]"):
        fuser({"camera": part(GRIDS["main"]), "lidar": part(GRIDS["main"], "near")})


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "reconstruction"])
def test_levels_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must name the same levels, each with a sensor"):
        BUILDERS[name]({"main": {"lidar": 4}}, {"near": 4})
    with pytest.raises(ValueError, match="must name the same levels, each with a sensor"):
        BUILDERS[name]({"main": {}}, {"main": 4})
