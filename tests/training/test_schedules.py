import pytest

from perception.training.schedules import WarmupCosine


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
