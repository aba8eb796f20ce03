"""Sensors that fail at random: which, how often, and always the same ones for a seed."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from perception.data.dropout import SensorDropout, keep_modalities, modalities_of
from perception.data.samplers import seeded_generator
from perception.structures import CameraImages, PointCloud, Sample, UltrasonicEchoes

KINDS = ("camera", "fisheye", "lidar", "radar", "ultrasonic")
EYE = torch.eye(4, dtype=torch.float64)


def cameras(count: int, model: str) -> CameraImages:
    return CameraImages(
        names=tuple(f"{model}_{row}" for row in range(count)),
        camera_model=model,
        images=torch.zeros(count, 3, 2, 2, dtype=torch.uint8),
        intrinsics=torch.zeros(count, 3, 3),
        distortion=torch.zeros(count, 4),
        camera2ego=EYE.repeat(count, 1, 1),
        image2aug=torch.zeros(count, 3, 3),
        present=torch.arange(count) != 1,
    )


def echoes() -> UltrasonicEchoes:
    """Four sensors that all hear one another."""
    sent_by, sensor = torch.cartesian_prod(torch.arange(1, 5), torch.arange(1, 5)).unbind(1)
    number = torch.arange(16.0)
    names = ("distance_m", "beam_rad", "sigma_m", "level", "age_s")
    return UltrasonicEchoes(
        sender=number[:, None].expand(16, 3),
        receiver=number[:, None].expand(16, 3),
        **dict.fromkeys(names, number),
        kind=torch.ones(16, dtype=torch.long),
        state=torch.ones(16, dtype=torch.long),
        sensor=sensor,
        sent_by=sent_by,
    )


@pytest.fixture
def sample() -> Sample:
    radar = PointCloud(
        points=torch.arange(20.0)[:, None].expand(20, 3), fields=(), sensor2ego=EYE, sensor=torch.arange(20) // 4
    )
    return Sample(
        token="t",
        scene="s",
        timestamp_us=0,
        ego2global=EYE,
        cameras={"surround": cameras(6, "pinhole"), "fisheye": cameras(4, "kannala_brandt")},
        lidar=PointCloud(points=torch.zeros(3, 3), fields=(), sensor2ego=EYE),
        radar=radar,
        ultrasonic=echoes(),
    )


def kept_kinds(dropout: SensorDropout, sample: Sample, count: int = 4000) -> Counter[tuple[str, ...]]:
    generator = torch.Generator().manual_seed(0)
    return Counter(modalities_of(dropout(sample, generator)) for _ in range(count))


def test_each_kind_fails_by_its_own_chance_and_one_is_always_left(sample: Sample) -> None:
    both = keep_modalities(sample, ["camera", "radar"])
    found = kept_kinds(SensorDropout(drop={"camera": 0.5, "radar": 0.8, "lidar": 0.9}), both)
    # Of 0.1 both, 0.4 camera alone, 0.1 radar alone, 0.4 nothing the last is ruled out.
    shares = {kept: number / 4000 for kept, number in found.items()}
    expected = {("camera", "radar"): 1 / 6, ("camera",): 4 / 6, ("radar",): 1 / 6}
    assert shares == {kept: pytest.approx(share, abs=0.03) for kept, share in expected.items()}


def test_subsets_are_drawn_by_weight_among_those_the_sample_has(sample: Sample) -> None:
    weights = {"camera+lidar": 2.0, "radar": 1.0, "radar4d": 5.0, "lidar+radar4d": 1.0}
    found = kept_kinds(SensorDropout(subsets=weights), sample)
    expected = {("camera", "lidar"): 0.5, ("radar",): 0.25, ("lidar",): 0.25}
    assert {k: n / 4000 for k, n in found.items()} == {k: pytest.approx(v, abs=0.03) for k, v in expected.items()}
    alone = keep_modalities(sample, ["ultrasonic"])
    assert kept_kinds(SensorDropout(subsets=weights), alone, 10) == {("ultrasonic",): 10}


def test_single_sensors_fail_and_one_of_each_kind_is_left(sample: Sample) -> None:
    names = ("camera", "fisheye", "radar", "ultrasonic")
    hard = SensorDropout(single=dict.fromkeys(names, 0.99))
    for seed in range(30):
        left = hard(sample, torch.Generator().manual_seed(seed))
        assert modalities_of(left) == KINDS
        for group, whole in sample.cameras.items():
            present = left.cameras[group].present
            assert present.any() and not (present & ~whole.present).any()
            assert left.cameras[group].images is whole.images
        assert len(left.radar.sensor.unique()) >= 1
        assert torch.equal(left.radar.points[:, 0].long() // 4, left.radar.sensor)
        heard = left.ultrasonic
        assert len(heard) == len(heard.sensor.unique()) ** 2  # who does not hear does not send
        assert torch.equal(heard.distance_m.long(), (heard.sent_by - 1) * 4 + heard.sensor - 1)
    mild = SensorDropout(single={"camera": 0.2})
    drawn = [mild(sample, torch.Generator().manual_seed(seed)).cameras["surround"].present for seed in range(1000)]
    assert torch.stack(drawn).float().mean(0).tolist() == pytest.approx([0.8, 0, 0.8, 0.8, 0.8, 0.8], abs=0.05)


def test_returns_of_radars_that_nobody_tells_apart_stay(sample: Sample) -> None:
    unnamed = replace(sample, radar=replace(sample.radar, sensor=None))
    left = SensorDropout(single={"radar": 0.99})(unnamed, torch.Generator().manual_seed(0)).radar
    assert left.points.shape == (20, 3) and left.sensor is None


def test_echoes_that_nobody_asked_who_sent_go_by_who_heard(sample: Sample) -> None:
    """With a chance of 0.99 all but one of the four fail, all but surely."""
    unnamed = replace(sample, ultrasonic=replace(sample.ultrasonic, sent_by=None))
    left = SensorDropout(single={"ultrasonic": 0.99})(unnamed, torch.Generator().manual_seed(0)).ultrasonic
    heard = left.sensor[0]
    assert left.sensor.tolist() == [heard] * 4  # of all four that sent
    assert left.distance_m.tolist() == [heard - 1, heard + 3, heard + 7, heard + 11]
    assert left.sent_by is None


def test_it_depends_on_the_generator_alone_and_changes_nothing(sample: Sample) -> None:
    dropout = SensorDropout(drop=dict.fromkeys(KINDS, 0.4), single={"camera": 0.4, "radar": 0.4})
    before = sample.cameras["surround"].present.clone(), sample.radar.points.clone()
    first, second = (dropout(sample, seeded_generator(3, 1, 7, 0)) for _ in range(2))
    assert modalities_of(first) == modalities_of(second)
    if first.radar is not None:
        assert torch.equal(first.radar.points, second.radar.points)
    assert torch.equal(sample.cameras["surround"].present, before[0]) and torch.equal(sample.radar.points, before[1])
    assert len({modalities_of(dropout(sample, seeded_generator(3, 1, n, 0))) for n in range(50)}) > 10


def test_what_follows_draws_the_same_whatever_the_sample_has(sample: Sample) -> None:
    dropout = SensorDropout(drop={"camera": 0.3}, single={"camera": 0.5})
    drawn = []
    for given in (sample, replace(sample, cameras={}), keep_modalities(sample, ["ultrasonic"])):
        generator = torch.Generator().manual_seed(5)
        dropout(given, generator)
        drawn.append(float(torch.rand((), generator=generator)))
    assert len(set(drawn)) == 1


def test_a_sample_without_sensors_stays_as_it_is(sample: Sample) -> None:
    bare = keep_modalities(sample, [])
    assert modalities_of(bare) == ()
    assert modalities_of(SensorDropout(drop={"lidar": 0.5})(bare, torch.Generator())) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": {"lidar": 1.0}}, "drop must be chances in 0..1, below 1"),
        ({"single": {"camera": -0.1}}, "single must be chances"),
        ({"drop": {"lidr": 0.1}}, "drop must name kinds of camera, .*, got lidr"),
        ({"subsets": {"camera+": 1.0}}, "subsets must name kinds of camera"),
        ({"subsets": {"camera": 0.0}}, "weights >= 0, not all 0"),
        ({"single": {"lidar": 0.1}}, "single must name kinds of camera, fisheye, radar, .*, got lidar"),
        ({"drop": {"lidar": 0.1}, "subsets": {"camera": 1.0}}, "drop and subsets must not both be given"),
    ],
)
def test_wrong_chances_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SensorDropout(**options)
