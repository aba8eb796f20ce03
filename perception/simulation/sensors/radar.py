"""Radars as nuScenes has them: 77 GHz, no height, 125 returns a scan with the states and codes of their interface.

The sensor is modelled on the Continental ARS 408 in cluster mode. Echoes (`radar_echoes.py`) fluctuate, those above the
threshold are found, the 125 largest of them reported: their place with noise, quantised; a velocity of which only the
part along the line of sight is measured; and what the sensor thinks of each. The radar assumes that what stands still
moves past as its vehicle's motion says, with its mounting angle rounded to 90 degrees, and that what moves has no
velocity across; so do recorded files, and only the radial part of `vx vy` means anything.

What rain and fog do is in `radar_weather.py`. Not modelled: waves below vehicles, turning wheels and swinging limbs,
other radars, the state "stopped", which needs a history.

Sources: Continental Engineering Services, Standardized ARS Interface, technical documentation 1.91 (2018): states and
codes; Skolnik, Introduction to Radar Systems, 3rd edition, section 2.8: Swerling's fluctuations; Kellner et al.,
Instantaneous ego-motion estimation using Doppler radar, ITSC 2013: Doppler of what stands still. Shares of states and
sizes of codes follow recorded nuScenes scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception.formats.radar import RADAR_FIELDS, radar_bytes
from perception.ops.points_in_boxes import count_points_in_boxes
from perception.simulation.rays import STATIC
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.radar_echoes import Carrier, Echoes, Lobe, echoes_of, resolved
from perception.simulation.sensors.radar_weather import attenuated, rain_echoes

NUM_SLOTS = 125
PERIOD_S = 1 / 13
RMS_BOUNDS = (
    0.005, 0.006, 0.008, 0.011, 0.014, 0.018, 0.023, 0.029, 0.038, 0.049, 0.063, 0.081, 0.105, 0.135, 0.174, 0.224,
    0.288, 0.371, 0.478, 0.616, 0.794, 1.023, 1.317, 1.697, 2.187, 2.817, 3.63, 4.676, 6.025, 7.762, 10.0,
)  # fmt: skip
"""Upper bounds of the codes 0 to 30 of the `_rms` fields, metres or m/s; 31 is beyond."""

LOBE = Lobe(
    half_width_deg=62.0,
    columns=180,
    borders_deg=(-12.0, -7.0, -4.0, -2.2, -1.2, -0.5, 0.1, 0.8, 2.0, 4.0, 8.0),
    half_power_deg=(40.0, 9.0),
    reach_m=200.0,
    range_cell_m=0.5,
    sine_cell=0.03,
    across_cell_m=0.6,
    doppler_cell_m_s=0.12,
)
"""Field of view and resolution; near and far scan in one."""

_THRESHOLD_DB, _LOWEST_THRESHOLD_DB = 11.0, 0.0
_LOW_RCS_DB, _LOW_SHARE = -0.5, 0.3
"""A return may be held for too weak below this, and only if it is among this share of the weakest of its scan."""

_FALSE_ALARMS = 1.5
_RANGE_NOISE_M, _RATE_NOISE_M_S, _AZIMUTH_NOISE_DEG = 0.08, 0.08, 0.25
_PLACE_STEP_M, _PLACE_OFFSET_M, _RCS_STEP_DB, _SPEED_STEP_M_S = 0.2, 0.1, 0.5, 0.25
_MOVING_M_S = 0.7
"""Rate over ground, beyond what the sensor's own speed blurs, from which on something counts as moving."""

_AMBIGUITY_M_S = 30.0
"""Range rates this far apart look the same in one train of chirps: a wave of 3.9 mm, 65 us from chirp to chirp."""


@dataclass(frozen=True, eq=False)
class RadarRecording:
    """One scan: P returns, nearest first.

    Attributes:
        t_us: timestamp.
        ego2global: (4, 4) pose of the ego vehicle then.
        sensor2global: (4, 4) pose of the radar then.
        points: (P, 18) float32, columns `RADAR_FIELDS`, sensor frame.
        actor: (P,) int32 actor that each return comes from, -1 for none.
        ghost: (P,) bool, whether the wave took a way over a wall.
    """

    t_us: int
    ego2global: np.ndarray
    sensor2global: np.ndarray
    points: np.ndarray
    actor: np.ndarray
    ghost: np.ndarray

    @property
    def content(self) -> bytes:
        """The `.pcd` file."""
        return radar_bytes(self.points)


@dataclass(frozen=True, eq=False)
class Radar:
    """A mounted radar without height.

    Attributes:
        channel: such as `RADAR_FRONT`.
        sensor2ego: (4, 4) mounting pose; sensor frame x forward, y left, z up.
        delay_us: timestamp less the LiDAR's in the first sample; the radar runs freely from there.
    """

    channel: str
    sensor2ego: np.ndarray
    delay_us: int = 0
    modality: str = "radar"
    suffix: str = ".pcd"

    def capture(self, surroundings: Surroundings, t_us: int) -> RadarRecording:
        """Records the scan at a timestamp.

        Args:
            surroundings: what there is.
            t_us: the time, to which the whole scan belongs.

        Returns:
            The scan; at most 125 returns.
        """
        rng = surroundings.rng(self.channel, t_us)
        carrier = Carrier.of(surroundings, self.sensor2ego, t_us)
        cells = resolved(echoes_of(surroundings, carrier, LOBE, t_us, rng), LOBE, carrier)
        cells = attenuated(cells, surroundings.weather)
        drops = surroundings.rng(f"{self.channel}/rain", t_us)
        rain = rain_echoes(surroundings.weather, LOBE, carrier, _THRESHOLD_DB, drops)
        found, signal_db = _found(cells, rain, rng)
        return RadarRecording(
            t_us=t_us,
            ego2global=carrier.sensor2global @ np.linalg.inv(self.sensor2ego),
            sensor2global=carrier.sensor2global,
            points=_reported(found, signal_db, carrier, self._misfit(), rng),
            actor=found.actor,
            ghost=found.ghost,
        )

    def _misfit(self) -> np.ndarray:
        """(3, 3) from the sensor's axes to those that it is told it has: turned by whole quarters."""
        quarter = np.round(np.arctan2(self.sensor2ego[1, 0], self.sensor2ego[0, 0]) / (np.pi / 2)) * (np.pi / 2)
        return _turned(float(quarter)).T @ self.sensor2ego[:3, :3]


def surround_radars() -> tuple[Radar, ...]:
    """The five radars of nuScenes' cars: front, at the front's sides, and at the back's corners.

    Returns:
        Front, front left, front right, back left, back right.
    """
    return (
        Radar("RADAR_FRONT", mounted((3.412, 0.0, 0.5), 0.2), 16_000),
        Radar("RADAR_FRONT_LEFT", mounted((2.422, 0.8, 0.78), 88.4), -21_000),
        Radar("RADAR_FRONT_RIGHT", mounted((2.422, -0.8, 0.77), -90.7), 5_000),
        Radar("RADAR_BACK_LEFT", mounted((-0.562, 0.628, 0.53), 174.6), -32_000),
        Radar("RADAR_BACK_RIGHT", mounted((-0.562, -0.618, 0.53), -176.0), -9_000),
    )


def mounted(position_m: tuple[float, float, float], yaw_deg: float) -> np.ndarray:
    """Mounting pose (4, 4) of an upright sensor at a position in the ego frame, turned to the left."""
    sensor2ego = np.eye(4)
    sensor2ego[:3, :3], sensor2ego[:3, 3] = _turned(float(np.radians(yaw_deg))), position_m
    return sensor2ego


def scan_times_us(delay_us: int, period_s: float, key_us: Sequence[int], sweeps: int) -> list[list[int]]:
    """When a freely running sensor scans, sample by sample.

    Args:
        delay_us: timestamp of the scan of the first sample less that sample's.
        period_s: from scan to scan.
        key_us: times of the samples, rising.
        sweeps: how many scans before the sample's own are wanted at most.

    Returns:
        For each sample the scans since the sample before, the newest `sweeps` of them, and last the sample's own, the
        nearest to its time. The first sample has its own only.
    """
    first_us = key_us[0] + delay_us
    numbers = [round((time - first_us) * 1e-6 / period_s) for time in key_us]
    times = []
    for place, number in enumerate(numbers):
        since = numbers[place - 1] + 1 if place else number
        times.append([first_us + round(n * period_s * 1e6) for n in range(max(since, number - sweeps), number + 1)])
    return times


def count_radar_points(scans: Sequence[RadarRecording], boxes: np.ndarray) -> np.ndarray:
    """The returns of all radars in each box, whatever their states, as `num_radar_pts` counts them.

    Args:
        scans: of one keyframe, each at its own pose.
        boxes: (A, 7) float64 in the frame that the scans' poses lead to: centre, length width height, yaw.

    Returns:
        (A,) int64.
    """
    places = [np.zeros((0, 3))]
    for scan in scans:
        sensor2global = scan.sensor2global
        places.append(scan.points[:, :3].astype(np.float64) @ sensor2global[:3, :3].T + sensor2global[:3, 3])
    return count_points_in_boxes(torch.from_numpy(np.concatenate(places)), torch.from_numpy(boxes)).numpy()


def _turned(yaw_rad: float) -> np.ndarray:
    (cosine, sine) = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def fluctuating(cells: Echoes, rng: np.random.Generator) -> Echoes:
    """Echoes as strong as they happen to be in one scan.

    Vehicles and people fluctuate as one strong scatterer among small ones does (Swerling III), the town as many alike
    (Swerling I).

    Args:
        cells: C echoes of mean strength.
        rng: draws the fluctuation.

    Returns:
        The same with other cross-sections.
    """
    shape = np.where(cells.actor == STATIC, 1.0, 2.0)
    return cells._replace(section_m2=cells.section_m2 * np.maximum(rng.gamma(shape) / shape, 1e-6))


def _found(cells: Echoes, rain: Echoes, rng: np.random.Generator) -> tuple[Echoes, np.ndarray]:
    """The 125 echoes that are reported, nearest first, and their power over the noise in dB.

    Of what lies above the threshold those of the largest cross-section fill the list; the threshold sinks as long as
    there are too few.
    """
    cells = fluctuating(cells, rng)
    cells = Echoes(*map(np.concatenate, zip(cells, _false_alarms(rng), rain, strict=True)))
    signal_db = LOBE.signal_db(cells)
    threshold_db = _THRESHOLD_DB
    if (signal_db > threshold_db).sum() < NUM_SLOTS < len(signal_db):
        threshold_db = max(float(np.partition(signal_db, -NUM_SLOTS)[-NUM_SLOTS]), _LOWEST_THRESHOLD_DB)
    rows = np.nonzero(signal_db >= threshold_db)[0]
    rows = rows[np.argsort(-cells.section_m2[rows], kind="stable")][:NUM_SLOTS]
    rows = rows[np.argsort(cells.range_m[rows], kind="stable")]
    return cells.at(rows), signal_db[rows]


def _false_alarms(rng: np.random.Generator) -> Echoes:
    """Peaks of the noise: anywhere, with any Doppler, just above the threshold."""
    count = int(rng.poisson(_FALSE_ALARMS))
    range_m, sine, rate, above_db = rng.uniform([5, -0.88, -30, 0], [110, 0.88, 30, 4], (count, 4)).T
    none = np.zeros(count)
    noise = Echoes(range_m, sine, none, rate, none + 1.0, np.full(count, STATIC, np.int32), np.zeros(count, bool))
    level_db = _THRESHOLD_DB + above_db - LOBE.signal_db(noise)
    return noise._replace(section_m2=10 ** (0.1 * level_db))


def _reported(
    found: Echoes, signal_db: np.ndarray, carrier: Carrier, misfit: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(P, 18) float32: what the sensor says of what it found."""
    count = len(found.range_m)
    noise, chance = rng.standard_normal((4, count)), rng.random((5, count))
    weak = 10 ** (-signal_db / 20)  # (P,) standard error of an amplitude or phase in units of the noiseless one
    x, y = _places(found, weak, noise[:2])
    rcs = _quantised(10 * np.log10(found.section_m2) + 0.4 * noise[2], _RCS_STEP_DB)
    ambiguity = _ambiguity(signal_db, chance[0])
    rate = _unfolded(found.rate_m_s + _RATE_NOISE_M_S * noise[3], ambiguity, chance[1])
    line = np.stack([x, y, np.zeros(count)], axis=1) / np.hypot(x, y)[:, None]  # (P, 3)
    own_rate, unknown = carrier.own_rate(line), ambiguity == 0
    dynamic = np.where(unknown, 4, _dynamics(rate + own_rate, own_rate, found.range_m, chance[2]))
    vy = np.where((dynamic == 1) | (dynamic == 3), _ground_across(carrier, misfit, x), 0.0)
    vx = np.where(unknown, 0.0, _quantised((rate - vy * line[:, 1]) / line[:, 0], _SPEED_STEP_M_S))
    over_ground = vx * line[:, 0] + vy * line[:, 1] + own_rate  # (P,)
    validity = _validity(found, rcs, unknown, chance[3:])
    rms = _rms_codes(found, weak, unknown)  # (P, 4)
    columns = {
        "x": x,
        "y": y,
        "dyn_prop": dynamic,
        "id": np.arange(count),
        "rcs": rcs,
        "vx": vx,
        "vy": vy,
        "vx_comp": over_ground * line[:, 0],
        "vy_comp": over_ground * line[:, 1],
        "is_quality_valid": 1,
        "ambig_state": ambiguity,
        "invalid_state": validity,
        "pdh0": np.where(unknown, 6, np.where(np.isin(validity, (0, 16)), 1, 3)),
        **dict(zip(("x_rms", "y_rms", "vx_rms", "vy_rms"), rms.T, strict=True)),
    }
    points = np.zeros((count, len(RADAR_FIELDS)), np.float32)
    for name, values in columns.items():
        points[:, RADAR_FIELDS.index(name)] = values
    return points


def _places(found: Echoes, weak: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measured x and y (P,), quantised; `noise` (2, P) in standard deviations."""
    spread_rad = np.radians(_AZIMUTH_NOISE_DEG) * (1 + 4 * weak) / (1 - found.sine**2)
    azimuth_rad = np.arcsin(found.sine) + spread_rad * noise[0]
    range_m = found.range_m + _RANGE_NOISE_M * (1 + 4 * weak) * noise[1]
    x = np.maximum(_quantised(range_m * np.cos(azimuth_rad), _PLACE_STEP_M), _PLACE_STEP_M)
    return x, _quantised(range_m * np.sin(azimuth_rad) - _PLACE_OFFSET_M, _PLACE_STEP_M) + _PLACE_OFFSET_M


def _unfolded(rate: np.ndarray, ambiguity: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Range rates (P,) as the sensor resolves them: ambiguous ones (1) wrongly, of uncertain ones (2) every second."""
    wrong = (ambiguity == 1) | (ambiguity == 2) & (chance < 0.5)
    return rate - np.where(wrong, _AMBIGUITY_M_S * np.where(rate > 0, 1, -1), 0.0)


def _quantised(values: np.ndarray, step: float) -> np.ndarray:
    return np.round(values / step) * step


def _ground_across(carrier: Carrier, misfit: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(P,) the velocity along y at which the sensor believes the ground at x to pass, quantised."""
    believed = misfit @ carrier.sensor2global[:3, :3].T @ carrier.velocity_m_s  # (3,) of the sensor, its own axes
    return _quantised(-believed[1] - carrier.yaw_rate_rad_s * x, _SPEED_STEP_M_S)


def _ambiguity(signal_db: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(P,) whether the Doppler is resolved: 3 yes, 2 and 1 not for sure, 0 not at all; weak echoes fail more often."""
    failing = 0.03 + 0.10 * 10 ** (-(signal_db - _THRESHOLD_DB) / 10)
    share = chance / failing
    return np.where(share > 1, 3, np.select([share < 0.5, share < 0.75], [0, 1], 2))


def _dynamics(over_ground: np.ndarray, own_rate: np.ndarray, range_m: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(P,) 0 going away, 2 coming, 1 standing, 3 perhaps standing: more often far away, where less confirms it."""
    standing = np.abs(over_ground) < _MOVING_M_S + 0.02 * np.abs(own_rate)
    candidate = chance < np.clip((range_m - 10) / 100, 0.08, 0.75)
    return np.where(standing, np.where(candidate, 3, 1), np.where(over_ground < 0, 2, 0))


def _validity(found: Echoes, rcs: np.ndarray, unknown: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(P,) what the sensor holds each return for; 0 for sound. Later rules win; `chance` (2, P) decides."""
    count, azimuth_deg = len(rcs), np.degrees(np.arcsin(found.sine))
    near = np.abs(found.range_m[:, None] - found.range_m) < 2.0
    near &= np.abs(found.sine[:, None] - found.sine) < 0.1
    beaten = (near & (rcs[None] > rcs[:, None])).any(axis=1) & (chance[0] < 0.36)
    state = np.where(chance[1] < 0.12, 16, np.zeros(count, np.int64))  # several targets in one cell
    state[beaten] = np.where(chance[1][beaten] < 0.55, 11, 9)  # no peak of its own; child of a stronger one
    low_db = min(_LOW_RCS_DB, float(np.quantile(rcs, _LOW_SHARE))) if count else _LOW_RCS_DB
    state[(rcs < low_db) & (chance[0] > 0.45)] = 4
    state[(np.abs(np.abs(azimuth_deg) - 50) < 3) & (chance[1] > 0.9)] = 10
    state[(found.range_m > 95) & (np.abs(azimuth_deg) > 10) & (chance[1] < 0.5)] = 15
    state[(found.range_m < 70) & (chance[1] > 0.992)] = 3
    state[found.ghost & (chance[0] < 0.5)] = 6
    state[(np.abs(azimuth_deg) > 60) | unknown & (chance[1] < 0.7)] = 7
    return state


def _rms_codes(found: Echoes, weak: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """(P, 4) codes of the standard deviations of x, y, vx, vy that the sensor states; larger than its errors are."""
    sine, flat = found.sine, np.sqrt(1 - found.sine**2)
    along_m = 0.49 * (1 + np.sqrt(weak))
    across_m = np.maximum(found.range_m * np.radians(0.35) * (1 + 2 * np.sqrt(weak)) / flat**2.5, along_m)
    deviations = np.stack(
        [
            np.hypot(along_m * flat, across_m * sine),
            np.hypot(along_m * sine, across_m * flat),
            0.2526 / flat,
            np.full(len(sine), 0.01),
        ],
        axis=1,
    )
    codes = np.searchsorted(RMS_BOUNDS, deviations)  # (P, 4)
    codes[unknown] = 0
    return codes
