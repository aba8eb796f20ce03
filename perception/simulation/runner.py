"""A whole set made by several processes: it goes on where it was interrupted, and its tables come last.

Each scene is made by one worker, started by spawn with one thread, and leaves its rows under `OUT/.parts/<scene>` once
all its files are written, and the map of its town beside them. When every part is there, maps and tables are written,
the folder of each version's tables gets its name in one step, and the parts are removed. So a version whose folder is
there is whole.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

from perception.formats.files import atomic_writer
from perception.formats.nuscenes_map import merge_maps, write_maps
from perception.formats.nuscenes_tables import read_tables, write_tables
from perception.simulation.dataset import common_tables, merged
from perception.simulation.manifest import Manifest, SceneOrder
from perception.simulation.manifest_file import manifest_text
from perception.simulation.recorder import CAN_BUS_FOLDER, record_scene, town_at
from perception.simulation.rig import sensor_rig
from perception.simulation.town.town_map import town_map

PARTS = ".parts"
_MANIFEST = "manifest.yaml"
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Progress = Callable[[int, int], None]


class SimulationError(RuntimeError):
    """A set could not be finished; what is made of it is kept, and the same call goes on with it."""


def simulate(manifest: Manifest, out: str | Path, workers: int = 1, progress: Progress | None = None) -> None:
    """Makes a set in nuScenes format, or finishes one that was begun with the same manifest.

    Args:
        manifest: which scenes, and what is recorded of them.
        out: the folder; new, empty, or with the unfinished set.
        workers: processes, each of which makes one scene at a time; they do not change a byte.
        progress: called with the keyframes done and all keyframes whenever one is done.

    Raises:
        ValueError: `workers` is below 1, or the folder holds something else or a set with another manifest.
        OSError: the folder cannot be written.
        SimulationError: a scene cannot be made, or its worker was killed.
    """
    if workers < 1:
        raise ValueError(f"simulate: workers must be at least 1, got {workers}")
    out = Path(out)
    with _claimed(out, manifest):
        pending = [order for order in manifest.scenes if not _part(out, order).is_dir()]
        total = len(manifest.scenes) * manifest.settings.num_keyframes
        counter = _Counter(total - len(pending) * manifest.settings.num_keyframes, total, progress)
        _make_scenes(pending, manifest, out, workers, counter)
        _finish(manifest, out)
    shutil.rmtree(out / PARTS)


class _Counter:
    """Keyframes done."""

    def __init__(self, done: int, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = done, total, progress
        self.add(0)

    def add(self, count: int) -> None:
        """Counts more, and tells."""
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


@contextmanager
def _claimed(out: Path, manifest: Manifest) -> Iterator[None]:
    """Makes the folder this set's, or finds that it is; no other process may write to it meanwhile."""
    parts, text = out / PARTS, manifest_text(manifest)
    if out.exists() and not out.is_dir():
        raise ValueError(f"simulate: {out} must be a folder, got a file")
    if all((out / version).exists() for version in manifest.versions):
        versions = " and ".join(manifest.versions)
        raise ValueError(f"simulate: {out} must be a new folder, got one with a complete set {versions}")
    if out.exists() and any(out.iterdir()) and not parts.is_dir():
        raise ValueError(f"simulate: {out} must be a new or empty folder, got one with other files")
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"simulate: {out} must have one writer, got another that is at work") from error
        if not (parts / _MANIFEST).exists():
            _write_text(parts / _MANIFEST, text)
        elif (parts / _MANIFEST).read_text() != text:
            raise ValueError(
                f"simulate: {out} must have been begun with the same scenes and settings, got an unfinished set with "
                f"others; {parts / _MANIFEST} lists them"
            )
        yield


def _part(out: Path, order: SceneOrder) -> Path:
    return out / PARTS / order.name


def _write_text(path: Path, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text.encode())


def _town_part(out: Path, order: SceneOrder) -> Path:
    """The file with the map of a scene's town."""
    return out / PARTS / f"{order.location}-{order.district}.json"


def _finish(manifest: Manifest, out: Path) -> None:
    """Writes maps and manifest, then the tables of each version, whose folder appears in one step."""
    _write_maps(manifest, out)
    for left in (out / CAN_BUS_FOLDER).glob(".*.tmp"):  # of a killed worker; the devkit reads every name there
        left.unlink()
    _write_text(out / _MANIFEST, manifest_text(manifest))
    rig = sensor_rig(manifest.settings)
    for version, orders in manifest.versions.items():
        if (out / version).exists():  # written before the process was killed
            continue
        folder = out / PARTS / version
        write_tables(folder, merged(common_tables(rig), (read_tables(_part(out, order)) for order in orders)))
        folder.rename(out / version)


def _write_maps(manifest: Manifest, out: Path) -> None:
    """Writes the map of every location, put together from its towns'."""
    towns = {order.place: _town_part(out, order) for order in manifest.scenes}
    maps: dict[str, list[dict]] = {}
    for location, district in sorted(towns):
        maps.setdefault(location, []).append(json.loads(towns[location, district].read_bytes()))
    write_maps(out, {location: merge_maps(parts) for location, parts in maps.items()})


class _Worker:
    """A process and the scene that it is making."""

    def __init__(self, manifest: Manifest, out: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.scene: SceneOrder | None = None
        self.process = context.Process(target=_serve, args=(theirs, manifest, out), daemon=True)
        with _one_thread():
            self.process.start()
        theirs.close()

    def give(self, order: SceneOrder) -> None:
        """Hands it a scene to make."""
        self.scene = order
        try:
            self.connection.send(order)
        except OSError as error:
            raise self.death() from error

    def death(self) -> SimulationError:
        """What to say once its connection broke."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with status {code}"
        return SimulationError(f"simulate: {self.scene.name if self.scene else 'no scene'}: its worker {how}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Environment of processes in which numeric libraries start with one thread."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Pending:
    """Scenes that nobody makes yet."""

    def __init__(self, orders: Sequence[SceneOrder]) -> None:
        self._orders = list(orders)
        self._begun: set[tuple[str, int]] = set()

    def __bool__(self) -> bool:
        return bool(self._orders)

    def pop(self, last: SceneOrder | None) -> SceneOrder:
        """The next scene for a worker: in the town it has built, else in one that nobody has, else any."""
        own = None if last is None else last.place
        costs = [0 if it.place == own else 1 + (it.place in self._begun) for it in self._orders]
        order = self._orders.pop(costs.index(min(costs)))
        self._begun.add(order.place)
        return order


def _make_scenes(pending: Sequence[SceneOrder], manifest: Manifest, out: Path, workers: int, counter: _Counter) -> None:
    """Makes scenes until none is left; the first failure ends all."""
    left = _Pending(pending)
    team = [_Worker(manifest, out) for _ in range(min(workers, len(pending)))]
    try:
        for worker in team:
            worker.give(left.pop(None))
        busy = {worker.connection: worker for worker in team}
        while busy:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                if _listen(worker, counter):
                    if left:
                        worker.give(left.pop(worker.scene))
                    else:
                        del busy[worker.connection]
    finally:
        for worker in team:
            worker.process.terminate()
            worker.process.join()
            worker.connection.close()


def _listen(worker: _Worker, counter: _Counter) -> bool:
    """Takes one message; whether the worker's scene is done."""
    try:
        kind, text = worker.connection.recv()
    except (EOFError, OSError) as error:
        raise worker.death() from error
    if kind == "failed":
        raise SimulationError(f"simulate: {worker.scene.name if worker.scene else 'no scene'}: {text}")
    if kind == "keyframe":
        counter.add(1)
    return kind == "done"


def _serve(connection: Connection, manifest: Manifest, out: Path) -> None:
    """A worker's life: makes the scenes it is given until its connection closes."""
    import cv2
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        while True:
            order = connection.recv()
            connection.send(_attempt(order, manifest, out, connection))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        return


def _attempt(order: SceneOrder, manifest: Manifest, out: Path, connection: Connection) -> tuple[str, str]:
    """Makes a scene and its part; what to tell the parent."""
    try:
        version = manifest.version_of(order)
        tables = record_scene(order, manifest.settings, out, version, lambda: connection.send(("keyframe", "")))
        if not _town_part(out, order).exists():
            _write_text(_town_part(out, order), json.dumps(town_map(town_at(order))))
        part = _part(out, order)
        draft = part.with_name(f"{part.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        write_tables(draft, tables)
        draft.rename(part)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except (OSError, ValueError, MemoryError) as error:
        return "failed", str(error) or type(error).__name__
    except Exception:  # anything else is a fault of ours, and its place is told
        return "failed", traceback.format_exc()
    return "done", ""
