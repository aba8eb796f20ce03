"""What the codes of a radar's returns mean, and where returns are by the time of the sample."""

import pytest
import torch

from perception.data.radar import Scans, radar4d_points, radar_points
from perception.data.sensor_settings import Radar4dLoading, RadarLoading
from perception.formats.radar import RADAR_FIELDS as SCAN_FIELDS
from perception.structures import RADAR_FIELDS

LAG_S = 0.5
# ARS 408's upper bounds of the codes 0 to 30; 0 is what a file holds where nothing is known.
RMS_M = (
    "0.005 0.006 0.008 0.011 0.014 0.018 0.023 0.029 0.038 0.049 0.063 0.081 0.105 0.135 0.174 0.224 0.288 0.371 0.478 "
    "0.616 0.794 1.023 1.317 1.697 2.187 2.817 3.630 4.676 6.025 7.762 10.0"
)


def scans_of(rows: torch.Tensor) -> Scans:
    """Rows of one radar in the middle of the rear axle."""
    eye = torch.eye(4, dtype=torch.float64).expand(len(rows), 4, 4)
    lag_s = torch.full((len(rows),), LAG_S, dtype=torch.float64)
    return Scans(rows=rows.double(), radar2ego=eye, lag_s=lag_s, radar=torch.zeros(len(rows), dtype=torch.long))


def returns(**codes: range) -> torch.Tensor:
    """(P, 11) returns 10 m ahead that come nearer at 4 m/s, one for each code; else valid, moving and unambiguous."""
    rows = torch.zeros(len(next(iter(codes.values()))), len(SCAN_FIELDS))
    for name, value in {"x": 10.0, "vx_comp": -4.0, "ambig_state": 3, "pdh0": 1, **codes}.items():
        rows[:, SCAN_FIELDS.index(name)] = torch.as_tensor(value, dtype=rows.dtype)
    return radar_points(scans_of(rows), RadarLoading(range_sigma_m=0.001, azimuth_sigma_rad=0.0001))


def column(points: torch.Tensor, name: str) -> torch.Tensor:
    return points[:, 3 + RADAR_FIELDS.index(name)]


def test_moving_oncoming_and_crossing_returns_are_moved_on() -> None:
    points = returns(dyn_prop=range(8))
    assert points[:, 0].tolist() == [8, 10, 8, 10, 10, 10, 8, 10]
    assert (column(points, "vx_mps") == -4).all()


def test_a_return_of_ambiguous_doppler_has_no_velocity_and_stays() -> None:
    points = returns(ambig_state=range(5))
    assert points[:, 0].tolist() == [10, 10, 10, 8, 8]
    assert column(points, "vx_mps").isnan().tolist() == [True, True, True, False, False]
    assert column(points, "vy_mps").isnan().tolist() == [True, True, True, False, False]
    assert column(points, "quality").tolist() == [0.5, 0.5, 0.5, 1, 1]


def test_validity_with_a_reservation_counts_half() -> None:
    quality = column(returns(invalid_state=range(18)), "quality")
    reserved = (4, 8, 9, 10, 11, 12, 15, 16, 17)
    assert quality.tolist() == [1.0] + [0.75 if code in reserved else 0.5 for code in range(1, 18)]


def test_a_false_alarm_takes_its_chance_off_the_quality() -> None:
    quality = column(returns(pdh0=range(8)), "quality")
    assert quality.tolist() == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0.1, 0.01, 0.001])


def test_scatter_is_coded_and_unknown_at_both_ends_of_the_code() -> None:
    points = returns(x_rms=range(32), y_rms=range(31, -1, -1))
    rms_m = [0.0, *map(float, RMS_M.split()[1:]), 0.0]
    variance = [1e-6 + value**2 for value in rms_m]
    assert column(points, "cov_xx_m2").tolist() == pytest.approx(variance, rel=1e-6)
    assert column(points, "cov_yy_m2").tolist() == pytest.approx(variance[::-1], rel=1e-6)


def test_points_with_height_move_along_the_line_of_sight_either_way() -> None:
    rate = torch.tensor([5.0, -5.0, 0.5, -0.5, 0.25, -0.25])
    rows = torch.zeros(6, 7)
    rows[:, 0], rows[:, 2], rows[:, 4] = 3.0, 4.0, rate  # 5 m off, 3 ahead and 4 up
    points = radar4d_points(scans_of(rows), Radar4dLoading(moving_mps=0.5))
    assert points[:, 0].tolist() == pytest.approx([4.5, 1.5, 3.15, 2.85, 3, 3])
    assert points[:, 2].tolist() == pytest.approx([6, 2, 4.2, 3.8, 4, 4])
    assert column(points, "vx_mps").tolist() == pytest.approx((0.6 * rate).tolist())
    assert not column(points, "vy_mps").any()
