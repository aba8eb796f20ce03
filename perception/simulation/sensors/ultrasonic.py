"""Twelve ultrasonic sensors in the bumpers: bursts of sound in a cone, and the first two echoes that stand out.

Every ray carries the same share of the burst's power, since rays are dense where the beam is strong. What it meets
mirrors part of the power in a lobe around the mirrored direction and scatters part of it evenly; what then reaches a
receiver falls with the square of the way back, with the receiver's own beam and with the air's absorption. So a wall
fades with 20 log r and a post with 40 log r without being told so. Power that arrives within the length of a burst adds
up, and an echo begins where the sum crosses a threshold.

All twelve fire in three slots of 36 ms (5.5 m there and back take 34 ms at -20 deg C), every third sensor at a time:
those that fire together lie two apart on a bumper and look elsewhere, so that little of one's sound reaches the other,
and each fires 9 times a second. The slots of a sample end with its timestamp. Neighbours listen to each burst as well.
Bursts are coded, but what arrives from the partner of the same slot is suppressed by 20 dB only: strong echoes leak
through, as crosstalk at a wrong distance. Diffraction and echoes over several surfaces are left out; the own car does
not echo. Distances rest on the speed of sound at the temperature that the car measures, which errs, so that all
distances of a scene are off by the same factor. Rain is heard where drops strike a membrane, at any time, as a sound
that came from somewhere; fog is but humid air. `acoustics.py` holds the physics and its sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.formats.ultrasonic import MAX_LEVEL_DB, NUM_ECHOES, Burst, EchoState, encode_burst
from perception.geometry.headings import headings
from perception.simulation.acoustics import (
    MAX_RANGE_M,
    PULSE_M,
    Air,
    Heard,
    Report,
    detected,
    draw_air,
    drop_strikes_per_s,
    echoed,
    sound_speed_m_s,
    threshold,
)
from perception.simulation.rays import STATIC
from perception.simulation.sensors.base import Surroundings

SLOT_US = 36_000
NUM_SLOTS = 3
CYCLE_US = NUM_SLOTS * SLOT_US
"""Every sensor fires once in this time; earlier cycles may be recorded too."""

NOISE_M = 0.01
HALF_BEAM_RAD = float(np.radians(40.0))
"""Sideways; a sensor hears its own echoes at half the pressure there (-6 dB)."""

_HALF_BEAM_UP_RAD = float(np.radians(20.0))
_NUM_RAYS = 1500
_WIDEST = 2.0  # beams end at this multiple of the half beam, at -24 dB there and back
_RING_DOWN_M = 0.2
_MIDDLE_US = 8_000  # when a burst has come half as far as it can be heard: what moves is taken where it is then
_FLIGHT_US = 16_000

_LEAK = 10**-2.0
_LEAK_STEP = 3  # every third ray will do for what leaks
_LEVEL_NOISE_DB = 2.0
_STRIKE = 0.1, 1.5  # decades over the threshold of hearing by which drops are heard
_FAULT_CHANCE, _BLIND_CHANCE, _LOST_CHANCE, _FOREIGN_CHANCE = 0.004, 0.008, 0.003, 0.002

_PLACES = (
    # x, y, z, heading in degrees from straight ahead to the left; clockwise from the front of the left side
    (2.98, 0.83, 0.50, 88.0),
    (3.30, 0.62, 0.50, 32.0),
    (3.42, 0.24, 0.50, 6.0),
    (3.42, -0.24, 0.50, -6.0),
    (3.30, -0.62, 0.50, -32.0),
    (2.98, -0.83, 0.50, -88.0),
    (-0.22, -0.83, 0.55, -92.0),
    (-0.54, -0.62, 0.55, -148.0),
    (-0.65, -0.24, 0.55, -174.0),
    (-0.65, 0.24, 0.55, 174.0),
    (-0.54, 0.62, 0.55, 148.0),
    (-0.22, 0.83, 0.55, 92.0),
)
_UP_DEG = 3.0
_PER_BUMPER = 6


@dataclass(frozen=True, eq=False)
class UltrasonicRecording:
    """A burst as reported, and what is behind it; R sensors listened.

    Attributes:
        t_us: timestamp, when the burst went out.
        ego2global: (4, 4) pose of the ego vehicle then.
        burst: the report.
        true_m: (R, 2) half the true way of the sound of each reported echo; NaN without echo.
        actor: (R, 2) int32 actor that most of an echo came from, -1 for none.
        own: (R, 2) bool: whether it is the burst's own echo, no crosstalk, no foreign sound and no drop.
        air: of the scene.
    """

    t_us: int
    ego2global: np.ndarray
    burst: Burst
    true_m: np.ndarray
    actor: np.ndarray
    own: np.ndarray
    air: Air

    @property
    def content(self) -> bytes:
        """The `.ultra` file."""
        return encode_burst(self.burst)


@dataclass(frozen=True, eq=False)
class Ultrasonic:
    """A mounted ultrasonic sensor: each of its recordings is one burst, as it and its neighbours heard it.

    Attributes:
        number: from 1; `ULTRASONIC_01` has 1.
        sensor2ego: (4, 4) mounting pose; x along the axis, y left, z up.
        listeners: numbers of the sensors that listen, itself among them.
        listener2ego: (R, 4, 4) their poses.
        partner2ego: (4, 4) pose of the sensor on the same bumper that fires at the same time; None without.
        delay_us: timestamp less the LiDAR's in the same sample.
    """

    number: int
    sensor2ego: np.ndarray
    listeners: tuple[int, ...]
    listener2ego: np.ndarray
    partner2ego: np.ndarray | None = None
    delay_us: int = 0
    modality: str = "ultrasonic"
    suffix: str = ".ultra"

    @property
    def channel(self) -> str:
        """`ULTRASONIC_` and two digits."""
        return channel_of(self.number)

    def capture(self, surroundings: Surroundings, t_us: int) -> UltrasonicRecording:
        """Sends a burst and listens.

        Args:
            surroundings: what there is to echo.
            t_us: when the burst goes out.

        Returns:
            What was heard.
        """
        air, rng = draw_air(surroundings), surroundings.rng(self.channel, t_us)
        arrivals = self._arrivals(surroundings, t_us, air)
        count = len(self.listeners)
        gain = 10 ** (_LEVEL_NOISE_DB * rng.standard_normal(count) / 10)  # (R,)
        noise_m = NOISE_M * rng.standard_normal((count, NUM_ECHOES))
        lost, foreign = rng.random(count) < _LOST_CHANCE, rng.random(count) < _FOREIGN_CHANCE  # (R,)
        foreign_m = rng.uniform(0.3, MAX_RANGE_M, count)  # (R,)
        foreign_power = threshold(foreign_m) * 10 ** rng.uniform(0.1, 1.2, count)
        strikes, reports = self._drop_strikes(surroundings, t_us), []
        for row in range(count):
            heard = arrivals.of(row, gain[row])
            if foreign[row]:
                heard = heard.with_foreign(foreign_m[row], foreign_power[row])
            for distance_m, power in strikes[row]:
                heard = heard.with_foreign(distance_m, power)
            reports.append(detected(heard, self._deaf_m(row)))
        state = np.array([report.state for report in reports], np.uint8)
        state = np.where(lost, EchoState.NOT_AVAILABLE, self._health(surroundings, state))
        return self._recording(surroundings, t_us, air, reports, state, noise_m)

    def _recording(
        self,
        surroundings: Surroundings,
        t_us: int,
        air: Air,
        reports: list[Report],
        state: np.ndarray,
        noise_m: np.ndarray,
    ) -> UltrasonicRecording:
        told = (state == EchoState.OBJECT)[:, None]  # (R, 1)
        true_m = np.where(told, [report.distance_m for report in reports], np.nan)  # (R, 2)
        level = np.rint(np.clip([report.level_db for report in reports], 0, MAX_LEVEL_DB))
        speed = sound_speed_m_s(air.measured_c)
        distance = true_m * (speed / sound_speed_m_s(air.temperature_c)) + noise_m
        burst = Burst(
            sender=self.number,
            sound_speed_m_s=speed,
            half_beam_rad=HALF_BEAM_RAD,
            noise_m=NOISE_M,
            temperature_c=air.measured_c,
            receiver=np.array(self.listeners, np.uint8),
            state=state.astype(np.uint8),
            reach_m=np.full(len(state), air.reach_m),
            distance_m=np.maximum.accumulate(np.maximum(distance, 0), axis=1),
            level_db=np.where(told, level, np.nan),
        )
        heard = ~np.isnan(true_m)
        return UltrasonicRecording(
            t_us=t_us,
            ego2global=surroundings.motion.ego2global(t_us),
            burst=burst,
            true_m=true_m,
            actor=np.where(heard, [report.actor for report in reports], STATIC).astype(np.int32),
            own=heard & np.array([report.own for report in reports]),
            air=air,
        )

    def _arrivals(self, surroundings: Surroundings, t_us: int, air: Air) -> _Arrivals:
        """All sound that reaches the listeners."""
        ego2global = surroundings.motion.ego2global(t_us)
        beams = [(ego2global @ self.sensor2ego, 1, 1.0)]  # pose, step between rays, share that is heard
        if self.partner2ego is not None:
            beams.append((ego2global @ self.partner2ego, _LEAK_STEP, _LEAK * _LEAK_STEP))
        directions = np.concatenate([_RAYS[::step] @ pose[:3, :3].T for pose, step, _ in beams])  # (N, 3)
        powers = np.concatenate([_POWERS[::step] * share for _, step, share in beams])  # (N,)
        origins = np.concatenate([np.tile(pose[:3, 3], (len(_RAYS[::step]), 1)) for pose, step, _ in beams])  # (N, 3)
        hits = surroundings.rays.cast(origins, directions, surroundings.actors(t_us + _MIDDLE_US))
        near = np.nonzero(hits.distance_m < 2 * MAX_RANGE_M)[0]  # (K,)
        hits, out = hits.at(near), hits.distance_m[near].astype(np.float64)
        places = origins[near] + directions[near] * out[:, None]  # (K, 3)
        listener2global = ego2global @ self.listener2ego  # (R, 4, 4)
        later = surroundings.motion.ego2global(t_us + _FLIGHT_US) @ self.listener2ego
        velocity = (later - listener2global)[:, None, :3, 3] / (_FLIGHT_US * 1e-6)  # (R, 1, 3)
        ears = listener2global[:, None, :3, 3] - places  # (R, K, 3) from what was hit
        flight_s = (out + np.linalg.norm(ears, axis=2)) / sound_speed_m_s(air.temperature_c)  # (R, K)
        ears += velocity * flight_s[..., None]
        back = np.linalg.norm(ears, axis=2)  # (R, K)
        ears /= back[..., None]
        power = echoed(hits, directions[near], ears) / back**2 * 10 ** (-air.absorption_db_m * (out + back) / 10)
        power *= _beam(-ears @ listener2global[:, :3, :3]) * powers[near]
        return _Arrivals((out + back) / 2, power, surroundings.known(hits.actor, t_us), near < len(_RAYS))

    def _drop_strikes(self, surroundings: Surroundings, t_us: int) -> list[list[tuple[float, float]]]:
        """Of the drops that strike each listener while it listens, half the way of an echo so late, and power."""
        weather, count = surroundings.weather, len(self.listeners)
        if weather.kind != "rain":
            return [[]] * count
        rng = surroundings.rng(f"{self.channel}/rain", t_us)
        now, later = (surroundings.motion.ego2global(t_us + step) @ self.listener2ego for step in (0, _FLIGHT_US))
        speed = np.einsum("ri,ri->r", (later - now)[:, :3, 3], now[:, :3, 0]) / (_FLIGHT_US * 1e-6)  # (R,)
        strikes = []
        for number in rng.poisson(drop_strikes_per_s(weather, speed) * SLOT_US * 1e-6).tolist():
            distance_m = rng.uniform(0.3, MAX_RANGE_M, number)
            power = threshold(distance_m) * 10 ** rng.uniform(*_STRIKE, number)
            strikes.append(list(zip(distance_m.tolist(), power.tolist(), strict=True)))
        return strikes

    def _deaf_m(self, row: int) -> float:
        """Below this half way a listener cannot hear: its membrane rings, or the burst itself passes by."""
        aside = float(np.linalg.norm(self.listener2ego[row, :3, 3] - self.sensor2ego[:3, 3]))
        return max(_RING_DOWN_M, aside / 2 + PULSE_M)

    def _health(self, surroundings: Surroundings, state: np.ndarray) -> np.ndarray:
        """(R,) states with what is wrong with the sensors all through the scene."""
        own = _condition(surroundings, self.number)
        if own is not None:
            return np.where(np.array(self.listeners) == self.number, own, EchoState.NOT_AVAILABLE)
        conditions = [_condition(surroundings, number) for number in self.listeners]
        return np.array([now if always is None else always for always, now in zip(conditions, state, strict=True)])


@dataclass(frozen=True, eq=False)
class _Arrivals:
    """Sound at R listeners from K places: half ways and powers (R, K), actors and whether the burst's own (K,)."""

    distance_m: np.ndarray
    power: np.ndarray
    actor: np.ndarray
    own: np.ndarray

    def of(self, row: int, gain: float) -> Heard:
        """The sound at one listener, with a factor on its power."""
        order = np.argsort(self.distance_m[row])
        order = order[self.distance_m[row, order] < MAX_RANGE_M]
        return Heard(self.distance_m[row, order], self.power[row, order] * gain, self.actor[order], self.own[order])


def _beam(directions: np.ndarray) -> np.ndarray:
    """(...) share of the power that a sensor passes, of directions (..., 3) in its frame; 1 along its axis."""
    aside = headings(directions) / HALF_BEAM_RAD
    up = np.arcsin(np.clip(directions[..., 2], -1, 1)) / _HALF_BEAM_UP_RAD
    return 0.5 ** (aside**2 + up**2)


def _spread() -> tuple[np.ndarray, np.ndarray]:
    """Unit directions (N, 3) in the sensor's frame, dense where the beam is strong, and the power (N,) of each ray.

    No two rays are one above the other, so that a thin post meets nearly as many wherever it stands.
    """
    offsets = np.linspace(-_WIDEST, _WIDEST, 2001)  # of the half beam
    share = np.cumsum(0.5**offsets**2)
    share = (share - share[0]) / (share[-1] - share[0])
    index = np.arange(_NUM_RAYS)
    aside = HALF_BEAM_RAD * np.interp((index + 0.5) / _NUM_RAYS, share, offsets)  # (N,)
    up = _HALF_BEAM_UP_RAD * np.interp((index * (np.sqrt(5) - 1) / 2 + 0.5) % 1, share, offsets)
    directions = np.stack((np.cos(up) * np.cos(aside), np.cos(up) * np.sin(aside), np.sin(up)), axis=1)
    return directions, np.cos(up) / np.cos(up).sum()


_RAYS, _POWERS = _spread()


def _condition(surroundings: Surroundings, number: int) -> EchoState | None:
    """What is wrong with a sensor all through a scene; None if it is well."""
    drawn = surroundings.rng(f"{channel_of(number)}_HEALTH", 0).random()
    if drawn < _FAULT_CHANCE:
        return EchoState.FAULTED
    return EchoState.BLIND if drawn < _FAULT_CHANCE + _BLIND_CHANCE else None


def channel_of(number: int) -> str:
    """The channel of a sensor by its number."""
    return f"ULTRASONIC_{number:02d}"


def bumper_sensors() -> tuple[Ultrasonic, ...]:
    """The twelve sensors, clockwise from the front of the left side: six in the front bumper, six in the rear.

    Returns:
        The sensors; each of them fires once before every sample, the last of them 36 ms before its timestamp.
    """
    poses = [_pose(*place) for place in _PLACES]
    sensors = []
    for index, pose in enumerate(poses):
        first = index - index % _PER_BUMPER
        listeners = [it for it in (index - 1, index, index + 1) if first <= it < first + _PER_BUMPER]
        partner = first + (index - first + NUM_SLOTS) % _PER_BUMPER
        sensors.append(
            Ultrasonic(
                number=index + 1,
                sensor2ego=pose,
                listeners=tuple(it + 1 for it in listeners),
                listener2ego=np.stack([poses[it] for it in listeners]),
                partner2ego=poses[partner],
                delay_us=(index % NUM_SLOTS - NUM_SLOTS) * SLOT_US,
            )
        )
    return tuple(sensors)


def _pose(x_m: float, y_m: float, z_m: float, heading_deg: float) -> np.ndarray:
    (cy, sy), (cp, sp) = ((np.cos(angle), np.sin(angle)) for angle in np.radians((heading_deg, -_UP_DEG)))
    pose = np.eye(4)
    pose[:3, :3] = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    pose[:3, 3] = x_m, y_m, z_m
    return pose
