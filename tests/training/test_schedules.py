import pytest
import torch

from perception.training.schedules import OneCycle, Schedule, WarmupCosine


def test_known_values():
    schedule = WarmupCosine(warmup=0.25, start_factor=0.2, end_factor=0.01)
    values = [schedule.factor(progress) for progress in (0.0, 0.125, 0.25, 0.625, 1.0, 1.5)]
    assert values == pytest.approx([0.2, 0.6, 1.0, 0.505, 0.01, 0.01])


def test_without_warmup_it_starts_at_the_top_and_falls():
    schedule = WarmupCosine(warmup=0.0)
    values = [schedule.factor(step / 10) for step in range(11)]
    assert values[0] == 1.0
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"warmup": 1.0}, r"warmup must be in \[0, 1\), got 1.0"), ({"end_factor": -1.0}, "factors must be >= 0, got")],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosine(**arguments)


def rates(schedule: Schedule, num_steps: int) -> list[tuple[float, float]]:
    """Learning rate and first beta of every step."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule.build(optimizer, num_steps)
    found = []
    for _ in range(num_steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_raises_the_rate_and_lowers_the_momentum():
    found = rates(OneCycle(peak_at=0.4, start_factor=0.1, end_factor=1e-4), 100)
    assert found[0] == pytest.approx((0.2, 0.95))
    assert found[39] == pytest.approx((2.0, 0.85))
    assert found[99] == pytest.approx((2e-4, 0.95))
    assert found[:40] == sorted(found[:40], key=lambda pair: (pair[0], -pair[1]))
    assert found[39:] == sorted(found[39:], key=lambda pair: (-pair[0], pair[1]))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
@pytest.mark.parametrize("schedule", [OneCycle(peak_at=0.1), OneCycle(peak_at=0.5), OneCycle(), WarmupCosine()])
def test_short_runs_have_rates_too(schedule, num_steps):
    assert all(0 < rate <= 2.0 for rate, _ in rates(schedule, num_steps))


def test_warmup_cosine_scales_the_rate_of_the_optimizer():
    schedule = WarmupCosine(warmup=0.5, start_factor=0.1)
    assert [rate for rate, _ in rates(schedule, 8)] == pytest.approx(
        [2 * schedule.factor(step / 8) for step in range(8)]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peak_at": 0.0}, r"peak_at must be in \(0, 1\), got 0.0"),
        ({"end_factor": 0.0}, "factors must be positive"),
        ({"momentum": (0.95, 0.85)}, "momentum must be two rising numbers"),
    ],
)
def test_one_cycle_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        OneCycle(**arguments)
