"""What made a file of weights: the command, the data, the software, the machine, the figures."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback

_PACKAGES = ("bev-perception-stack", "torch", "lightning", "transformers", "numpy")
_LIMITS = """\
- The figures hold for the data named above. Other sensors, mountings, places or weather were not measured here.
- Scores are not probabilities: they are not calibrated.
- Not a safety component: nothing here was validated for driving."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, as far as it can be told from outside the model.

    Args:
        commands: command lines, the one that started the run first, then those that went on with it.
        config: the resolved config as YAML; "" where the run was not started from one.
        commit: of the source, "-dirty" added where files differ from it; "unknown" outside a git checkout.
        versions: of Python and packages by name.
        hardware: one line.
        data: description of the data by name.
        seeds: by what they seed.
    """

    commands: tuple[str, ...]
    config: str
    commit: str
    versions: Mapping[str, str]
    hardware: str
    data: Mapping[str, Any]
    seeds: Mapping[str, int]

    @property
    def config_sha256(self) -> str:
        """Checksum of the resolved config."""
        return hashlib.sha256(self.config.encode()).hexdigest()


def record_run(trainer: Trainer, earlier_commands: Sequence[str] = ()) -> RunRecord:
    """Looks at a run from outside the model.

    Args:
        trainer: of the run, attached to module and data.
        earlier_commands: that the run goes on from.

    Returns:
        The record.
    """
    seeds = {"training step": getattr(trainer.lightning_module, "seed", None)}
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is not None:
        seeds["order and augmentation"] = getattr(getattr(data, "settings", None), "seed", None)
    if "PL_GLOBAL_SEED" in os.environ:
        seeds["initial weights"] = int(os.environ["PL_GLOBAL_SEED"])
    command = shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
    return RunRecord(
        commands=(*earlier_commands, command),
        config=_resolved_config(trainer),
        commit=source_commit(),
        versions={"python": platform.python_version(), **_versions()},
        hardware=describe_hardware(trainer),
        data=data.describe() if hasattr(data, "describe") else {},
        seeds={name: seed for name, seed in seeds.items() if seed is not None},
    )


def card_text(record: RunRecord, title: str, figures: Mapping[str, object], limits: str = "") -> str:
    """Writes a model card.

    Args:
        record: of the run.
        title: name of the weights.
        figures: results and counts by name.
        limits: what the weights are not for; None says what holds for any.

    Returns:
        Markdown.
    """
    sections = {
        "Command": "\n".join(["```sh", *record.commands, "```"]),
        "Config": f"sha256 `{record.config_sha256}`, in the weights' metadata." if record.config else "None was given.",
        "Source": f"commit `{record.commit}`",
        "Data": _rows(record.data),
        "Seeds": _rows(record.seeds),
        "Figures": _rows(figures),
        "Software": _rows(record.versions),
        "Hardware": record.hardware,
        "Limits": limits or _LIMITS,
    }
    return f"# {title}\n\n" + "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items()) + "\n"


def weights_metadata(record: RunRecord, class_names: Sequence[str], step: int) -> dict[str, str]:
    """Gives what is kept inside a file of weights.

    Args:
        record: of the run.
        class_names: of the detector.
        step: of the optimizer.

    Returns:
        Text by name; lists and mappings as JSON, the config as YAML.
    """
    return {
        "class_names": json.dumps(list(class_names)),
        "commands": json.dumps(record.commands),
        "commit": record.commit,
        "config": record.config,
        "step": str(step),
        "versions": json.dumps(dict(record.versions)),
    }


def source_commit() -> str:
    """Asks git which commit the source is of.

    Returns:
        The hash, with "-dirty" where files differ from it, or "unknown" outside a git checkout.
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # git would find whatever repository the installed package lies in
        return "unknown"
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"


def describe_hardware(trainer: Trainer) -> str:
    """Names the machine.

    Args:
        trainer: of the run.

    Returns:
        One line: devices, processor, cores.
    """
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    cores = len(os.sched_getaffinity(0))
    return f"{trainer.world_size} x {name}; {_processor()}, {cores} cores, {platform.system()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _resolved_config(trainer: Trainer) -> str:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SaveConfigCallback):
            text: str = callback.parser.dump(callback.config, skip_none=False)
            return text
    return ""


def _rows(values: Mapping[str, object]) -> str:
    if not values:
        return "Unknown."
    return "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
