"""A radar that measures height: several hundred points a scan with elevation, Doppler, cross-section and power.

Modelled on imaging radars with about two hundred virtual channels: a field of view of 120 by 30 degrees, resolved to
about 1 degree in azimuth and 2 in elevation. The echoes are those of `radar_echoes.py`, on more rays and in finer
cells; a scan holds those of the largest cross-section above the noise.

Source: Continental, ARS540, product information (range and resolution); Palffy et al., Multi-class road user detection
with 3+1D radar in the View-of-Delft dataset, IEEE RA-L 7(2), 2022 (what such points hold).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.formats.radar4d import radar4d_bytes
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.radar import fluctuating, mounted
from perception.simulation.sensors.radar_echoes import Carrier, Echoes, Lobe, echoes_of, resolved, unit
from perception.simulation.sensors.radar_weather import attenuated, rain_echoes

MAX_POINTS = 1024
PERIOD_S = 1 / 13

LOBE = Lobe(
    half_width_deg=60.0,
    columns=260,
    borders_deg=(-15, -12, -9.5, -7.5, -6, -4.8, -3.8, -2.9, -2.1, -1.4, -0.8, -0.3, 0.2, 0.8, 1.6, 2.6, 4, 6, 9, 15),
    half_power_deg=(45.0, 12.0),
    reach_m=300.0,
    range_cell_m=0.4,
    sine_cell=0.0175,
    across_cell_m=0.2,
    doppler_cell_m_s=0.1,
    elevation_cell_deg=2.0,
)
"""Field of view and resolution."""

_THRESHOLD_DB = 11.0
_RANGE_NOISE_M, _RATE_NOISE_M_S, _AZIMUTH_NOISE_DEG, _ELEVATION_NOISE_DEG = 0.05, 0.04, 0.12, 0.3


@dataclass(frozen=True, eq=False)
class Radar4dRecording:
    """One scan: P points, nearest first.

    Attributes:
        t_us: timestamp.
        ego2global: (4, 4) pose of the ego vehicle then.
        sensor2global: (4, 4) pose of the radar then.
        points: (P, 7) float32, columns `RADAR4D_FIELDS`, sensor frame.
        actor: (P,) int32 actor that each point comes from, -1 for none.
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
        """The `.bin` file."""
        return radar4d_bytes(self.points)


@dataclass(frozen=True, eq=False)
class Radar4d:
    """A mounted radar with height.

    Attributes:
        channel: such as `RADAR4D_FRONT`.
        sensor2ego: (4, 4) mounting pose; sensor frame x forward, y left, z up.
        delay_us: timestamp less the LiDAR's in the first sample; the radar runs freely from there.
    """

    channel: str
    sensor2ego: np.ndarray
    delay_us: int = 0
    modality: str = "radar4d"
    suffix: str = ".bin"

    def capture(self, surroundings: Surroundings, t_us: int) -> Radar4dRecording:
        """Records the scan at a timestamp.

        Args:
            surroundings: what there is.
            t_us: the time, to which the whole scan belongs.

        Returns:
            The scan; at most `MAX_POINTS` points.
        """
        rng = surroundings.rng(self.channel, t_us)
        carrier = Carrier.of(surroundings, self.sensor2ego, t_us)
        cells = resolved(echoes_of(surroundings, carrier, LOBE, t_us, rng), LOBE, carrier)
        cells = fluctuating(attenuated(cells, surroundings.weather), rng)
        drops = surroundings.rng(f"{self.channel}/rain", t_us)
        rain = rain_echoes(surroundings.weather, LOBE, carrier, _THRESHOLD_DB, drops)
        cells = Echoes(*map(np.concatenate, zip(cells, rain, strict=True)))
        signal_db = LOBE.signal_db(cells)
        rows = np.nonzero(signal_db > _THRESHOLD_DB)[0]
        rows = rows[np.argsort(-cells.section_m2[rows], kind="stable")][:MAX_POINTS]
        rows = rows[np.argsort(cells.range_m[rows], kind="stable")]  # (P,)
        found, power_db = cells.at(rows), signal_db[rows]
        noise = rng.standard_normal((5, len(rows)))
        weak = 1 + 4 * 10 ** (-power_db / 20)  # (P,) how much larger errors are than those of a strong echo
        flat = np.sqrt(1 - found.sine**2)
        azimuth_rad = np.arcsin(found.sine) + np.radians(_AZIMUTH_NOISE_DEG) * weak / flat * noise[0]
        elevation_rad = found.elevation_rad + np.radians(_ELEVATION_NOISE_DEG) * weak * noise[1]
        range_m = found.range_m + _RANGE_NOISE_M * weak * noise[2]
        rate = found.rate_m_s + _RATE_NOISE_M_S * weak * noise[3]
        line = unit(np.sin(azimuth_rad), elevation_rad)  # (P, 3)
        rcs = 10 * np.log10(found.section_m2) + 0.4 * noise[4]
        columns = (line * range_m[:, None], rate, rate + carrier.own_rate(line), rcs, power_db)
        return Radar4dRecording(
            t_us=t_us,
            ego2global=surroundings.motion.ego2global(t_us),
            sensor2global=carrier.sensor2global,
            points=np.column_stack(columns).astype(np.float32),
            actor=found.actor,
            ghost=found.ghost,
        )


def surround_radars4d() -> tuple[Radar4d, ...]:
    """Two radars with height: in the middle of the front and of the back.

    Returns:
        Front, rear.
    """
    return (
        Radar4d("RADAR4D_FRONT", mounted((3.42, 0.0, 0.62), 0.0), 9_000),
        Radar4d("RADAR4D_REAR", mounted((-0.64, 0.0, 0.64), 180.0), -14_000),
    )
