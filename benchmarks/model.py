"""A detector's parts at batch size 1, a training step, and whether the loader keeps up with it."""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.flops import count_macs
from benchmarks.model_inputs import made_up_suite
from perception.data.collate import collate
from perception.data.loading import SampleLoader
from perception.drives.setup import open_index, sensor_settings
from perception.models.detector import Detector
from perception.runtime.config import build_detector, load_config
from perception.structures import Batch

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_FUSERS = _CONFIGS / "fusers"
_STEP_US = 500_000  # between keyframes
_ALL, _DECODE, _PLAN = "all", "decode", "plan, also in the parts"


class Clock:
    """Notes how long something takes, again and again: by the wall clock, and on all processors together."""

    def __init__(self) -> None:
        self._times: list[tuple[float, float]] = []
        self._started = (0.0, 0.0)

    def start(self) -> None:
        """Begins."""
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Ends."""
        wall_s, cpu_s = self._started
        self._times.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Begins and ends with a block."""
        self.start()
        yield
        self.stop()

    def ms(self, skip: int = 0) -> float:
        """Gives the median by the wall clock.

        Args:
            skip: runs at the beginning that do not count.

        Returns:
            Milliseconds.
        """
        return 1e3 * statistics.median(wall_s for wall_s, _ in self._times[skip:])

    def cpu_ms(self, skip: int = 0) -> float:
        """Gives the median of the processors' time; a busy machine changes it less.

        Args:
            skip: runs at the beginning that do not count.

        Returns:
            Milliseconds.
        """
        return 1e3 * statistics.median(cpu_s for _, cpu_s in self._times[skip:])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    recorded = os.environ.get("PERCEPTION_REAL_DATA")
    default = Path(recorded) / "nuscenes" if recorded else None
    known = sorted(path.stem for path in _FUSERS.glob("*.yaml"))
    parser.add_argument(
        "--config",
        type=Path,
        help="of a training run; its data part gives the sizes (default: configs/overfit/keyframe.yaml, with --fuser "
        "configs/sim_v2/every_sensor.yaml, whose sensors the fusers' configs name)",
    )
    parser.add_argument("--fuser", choices=known, help="takes the place of the config's")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs; medians are given")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--dataroot", type=Path, default=default, help="of a set in nuScenes' format for the loader; without, no loader"
    )
    parser.add_argument("--version", default="v1.0-mini", help="its version")
    parser.add_argument("--scenes", nargs="+", help="its scenes to load; default: those of the config")
    parser.add_argument(
        "--sample", type=int, help="position of a sample of it that takes the place of made-up data; no loader then"
    )


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times the parts on a batch of every sensor that the config names, made up or loaded.

    Args:
        options: see `add_arguments`.

    Returns:
        Rows of part, ms (median), cpu_ms (of all threads, median), share of the whole's ms, gmac (10^9
        multiply-accumulates), samples_per_s.
    """
    default = "sim_v2/every_sensor.yaml" if options.fuser else "overfit/keyframe.yaml"
    config = load_config(options.config or _CONFIGS / default)
    detector = build_detector(config if options.fuser is None else with_fuser(config, options.fuser))
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            batch = _batches(config, options, Path(folder))
            rows = [*part_rows(detector, batch(1), options.repeats), _training_row(detector, config, options, batch)]
        if options.dataroot is not None and options.sample is None:
            delivered = _loader_rate(config, options)
            ratio = delivered / rows[-1]["samples_per_s"]
            rows.append({"part": "loader alone", "samples_per_s": delivered, "over_training": ratio})
        return rows
    finally:
        torch.set_num_threads(threads)


def with_fuser(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Puts another fuser into a config.

    Args:
        config: of a training run.
        name: of a config in `configs/fusers`.

    Returns:
        The detector's subtree with that fuser.
    """
    detector: Mapping[str, Any] = config["model"]["init_args"]["detector"]
    return {**detector, "init_args": {**detector["init_args"], "fuser": load_config(_FUSERS / f"{name}.yaml")}}


def _batches(config: Mapping[str, Any], options: argparse.Namespace, folder: Path) -> Callable[[int], Batch]:
    """What gives a batch of some size: made up, or one loaded sample as often as it takes."""
    sensors = sensor_settings(config)
    if options.sample is None:
        return lambda batch_size: made_up_suite(sensors, batch_size)
    if options.dataroot is None:
        raise ValueError("benchmark model: --sample must come with the set that it is of, got no --dataroot")
    loader = SampleLoader(
        index=open_index(options.dataroot, options.version, folder / "index"),
        dataroot=options.dataroot,
        class_names=build_detector(config).class_names,
        cameras=sensors.cameras,
        lidar=sensors.lidar,
        **vars(sensors.ranging),
    )
    if not 0 <= options.sample < len(loader):
        raise ValueError(f"benchmark model: --sample must be one of {len(loader)}, got {options.sample}")
    sample = loader.load(options.sample)
    return lambda batch_size: collate([sample] * batch_size)


def part_rows(detector: Detector, batch: Batch, repeats: int) -> list[dict[str, Any]]:
    """Times each part of a forward pass and the decoding after it.

    Args:
        detector: the model; it is switched to evaluation.
        batch: what it sees.
        repeats: timed runs, after one to warm up.

    Returns:
        Rows of part, ms, cpu_ms, share and gmac; the last ones are the whole, and what of it calibration alone decides.
    """
    detector.eval()
    parts = dict(_parts(detector))
    clocks: dict[str, Clock] = defaultdict(Clock)
    with torch.no_grad():
        macs = count_macs(detector, lambda: detector(batch))  # warms up too
        with _timed(parts, clocks):
            state = None  # of a drive, which a history needs
            for moment in range(repeats):
                now = replace(batch, timestamps_us=batch.timestamps_us + _STEP_US * moment)
                with clocks[_ALL].running():
                    output = detector(now, state=state)
                    with clocks[_DECODE].running():
                        detector.predict(output, now)
                state = output.state
        for _ in range(repeats):
            with clocks[_PLAN].running():
                detector.plan(batch)
    whole_ms = clocks[_ALL].ms()
    return [
        {
            "part": name,
            "ms": clocks[name].ms(),
            "cpu_ms": clocks[name].cpu_ms(),
            "share": clocks[name].ms() / whole_ms,
            "gmac": _giga(macs.get("" if name == _ALL else name)),
        }
        for name in (*parts, _DECODE, _ALL, _PLAN)
    ]


def train_step(detector: Detector, batch: Batch) -> Callable[[], None]:
    """Prepares a training step: forward, losses, backward, AdamW.

    Args:
        detector: the model; it is switched to training.
        batch: what it sees, with annotations.

    Returns:
        Takes one step.
    """
    optimizer = torch.optim.AdamW(detector.train().parameters(), 1e-4)

    def step() -> None:
        """One step."""
        optimizer.zero_grad()
        torch.stack(list(detector.losses(detector(batch), batch).values())).sum().backward()
        optimizer.step()

    return step


def _parts(detector: Detector) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a forward pass, by their names in the detector; a branch and what it is made of."""
    for sensor, branch in detector.branches.items():
        yield f"branches.{sensor}", branch
        for name, part in branch.named_children():
            yield f"branches.{sensor}.{name}", part
    yield "fuser", detector.fuser
    if detector.temporal is not None:
        yield "temporal", detector.temporal
    yield "neck", detector.neck
    for name, head in detector.heads.items():
        yield f"heads.{name}", head


@contextmanager
def _timed(parts: Mapping[str, nn.Module], clocks: Mapping[str, Clock]) -> Iterator[None]:
    """Lets each part's clock run while the part does."""
    hooks = []
    for name, part in parts.items():
        hooks.append(part.register_forward_pre_hook(lambda *_, clock=clocks[name]: clock.start()))
        hooks.append(part.register_forward_hook(lambda *_, clock=clocks[name]: clock.stop()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _training_row(
    detector: Detector, config: Mapping[str, Any], options: argparse.Namespace, batch: Callable[[int], Batch]
) -> dict[str, Any]:
    """A training step at the config's batch size."""
    batch_size = config["data"]["init_args"].get("loader", {}).get("batch_size", 1)
    step = train_step(detector, batch(batch_size))
    clock = Clock()
    for _ in range(max(options.repeats // 3, 2)):
        with clock.running():
            step()
    return {
        "part": f"training step, batch size {batch_size}",
        "ms": clock.ms(skip=1),  # the first step warms up
        "cpu_ms": clock.cpu_ms(skip=1),
        "samples_per_s": 1e3 * batch_size / clock.ms(skip=1),
    }


def _loader_rate(config: Mapping[str, Any], options: argparse.Namespace) -> float:
    """Samples per second of the config's loader, with its workers and augmentation."""
    from jsonargparse import ArgumentParser

    from perception.training.data import NuScenesDataModule

    with tempfile.TemporaryDirectory() as folder:
        given = dict(config["data"]["init_args"])
        given |= {
            "dataroot": str(options.dataroot),
            "version": options.version,
            "index": f"{folder}/index",
            "val": None,
        }
        given |= {"train": options.scenes} if options.scenes else {}
        parser = ArgumentParser()
        parser.add_argument("--data", type=NuScenesDataModule)
        parsed = parser.parse_object({"data": {**config["data"], "init_args": given}})
        module: NuScenesDataModule = parser.instantiate(parsed).data
        module.prepare_data()
        module.setup("fit")
        loader = module.train_dataloader()
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        next(batches)  # starts the workers
        start, count = time.perf_counter(), 0
        while count < options.repeats:
            count += len(next(batches))
        return count / (time.perf_counter() - start)


def _giga(macs: int | None) -> float | None:
    return None if macs is None else macs / 1e9
