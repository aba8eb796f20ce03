"""The command line of training: YAML files of real classes with typed arguments."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import itertools
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from perception.runtime.class_paths import ALLOWED_PACKAGES, check_config
from perception.runtime.config import load_config
from perception.training.checkpoints import CHECKPOINT_FOLDER, VerifiedCheckpoints, latest_checkpoint
from perception.training.data import NuScenesDataModule
from perception.training.module import TrainingModule

_LOG = logging.getLogger(__name__)
_OBJECTS = ("model", "data", "trainer")


class TrainingParser(LightningArgumentParser):
    """Ends with one sentence instead of two pages of usage, and answers an unknown name with the nearest ones."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Ends the program.

        Args:
            message: what is wrong.
            ex: the error behind it.

        Raises:
            SystemExit: always, with status 2.
        """
        self.exit(2, f"train: {message}{self._hint(message)}\n")
        raise AssertionError("exit does not return")

    def _hint(self, message: str) -> str:
        """The names nearest to one that a message calls unknown."""
        found = re.search(r"(?:[Oo]ption '|arguments: --)([\w.\-]+)", message)
        if found is None:
            return ""
        owners = re.findall(r"class_path '([\w.]+)'", message)
        groups = re.findall(r"Group '([\w.]+)'", message)
        if owners:
            module, _, owner = owners[-1].rpartition(".")
            known = list(inspect.signature(getattr(importlib.import_module(module), owner)).parameters)
        else:
            options = [option.removeprefix("--") for action in self._actions for option in action.option_strings]
            prefix = f"{groups[-1]}." if groups else ""
            known = [option.removeprefix(prefix) for option in options if option.startswith(prefix)]
            known += {option.split(".")[0] for option in options}
        name = found[1] if owners or "--" in found[0] else found[1].split(".")[0]
        nearest = difflib.get_close_matches(name, sorted(set(known)), n=3)
        return f"\ntrain: did you mean {' or '.join(nearest)}?" if nearest else ""


class TrainingCLI(LightningCLI):
    """Builds trainer, model and data of a config and leaves what was resolved in the run's folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what Lightning has no argument for.

        Args:
            parser: the parser.
        """
        parser.add_argument("--out_dir", "--out-dir", type=str, required=True, help="folder of the run")
        parser.add_argument(
            "--resume",
            type=str,
            default="",
            help="a checkpoint to go on from; last: the newest whole one in the run's folder, if there is one",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses arguments that `compose_arguments` made.

        Args:
            parser: the parser.
            args: the arguments.
        """
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with everything it writes in the run's folder.

        Args:
            kwargs: arguments of the trainer that take precedence over the config.

        Returns:
            The trainer.
        """
        kwargs["default_root_dir"] = self.config.out_dir
        if self.config_init.trainer.logger is None:
            _keep_metrics(Path(self.config.out_dir))
            kwargs["logger"] = [
                CSVLogger(self.config.out_dir, name="", version=""),
                TensorBoardLogger(self.config.out_dir, name="", version="tensorboard"),
            ]
        plugins = self.config_init.trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), VerifiedCheckpoints()]
        return super().instantiate_trainer(**kwargs)


def train(arguments: Sequence[str] | None = None) -> TrainingCLI:
    """Trains as the command line says.

    Args:
        arguments: without the program's name; None takes the process's own. `--config FILE` may come several times, a
            later file on top of the earlier ones, and single values on top of them all; a value that ends in ".yaml"
            stands for the content of that file, as in a config. `--allow-package NAME` lets a config name classes of
            one more package.

    Returns:
        The command line object, with `trainer`, `model` and `datamodule` as they are after training.

    Raises:
        ValueError: a config is not allowed, or names what does not exist.
        SystemExit: a value is wrong.
    """
    composed = compose_arguments(sys.argv[1:] if arguments is None else arguments)
    cli = TrainingCLI(
        TrainingModule,
        NuScenesDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=TrainingParser,
        # Our sampler already shares the samples between the processes.
        trainer_defaults={"use_distributed_sampler": False},
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        run=False,
        args=composed,
    )
    checkpoint = _checkpoint(cli.config.resume, Path(cli.config.out_dir))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    return cli


def compose_arguments(arguments: Sequence[str]) -> list[str]:
    """Replaces config files by their checked content, and lets the parser import from allowed packages alone.

    Args:
        arguments: of the command line.

    Returns:
        Arguments for the parser, configs first. The folder of the run is named after the last config file where
        neither a file nor the command line says it.

    Raises:
        ValueError: a config is not allowed, or names what does not exist.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("-c", "--config", action="append", default=[])
    first.add_argument("--allow-package", action="append", default=[])
    options, rest = first.parse_known_args(arguments)
    composed: list[str] = []
    if options.config:
        composed += ["--out_dir", str(Path("runs") / Path(options.config[-1]).stem)]
    for path in options.config:
        tree = load_config(path)
        for name in _OBJECTS:
            check_config(tree.get(name), allowed_packages=options.allow_package, where=f"{path}: {name}")
        composed += ["--config", json.dumps(tree, default=str)]
    # What the command line itself names is seen by the parser alone.
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=[*ALLOWED_PACKAGES, *options.allow_package]
    )
    return composed + [_content(argument) for argument in rest]


def _content(argument: str) -> str:
    """An argument with the content of a YAML file in place of its name, as in a config."""
    name, equals, value = argument.rpartition("=")
    return f"{name}{equals}{json.dumps(load_config(value))}" if value.endswith(".yaml") else argument


def _checkpoint(resume: str, run_folder: Path) -> str | None:
    if resume != "last":
        return resume or None
    found = latest_checkpoint(run_folder / CHECKPOINT_FOLDER)
    _LOG.info("%s", f"goes on from {found}" if found else f"{run_folder} has no checkpoint: starts from the beginning")
    return str(found) if found else None


@rank_zero_only
def _keep_metrics(run_folder: Path) -> None:
    """Renames the figures of an earlier part of the run, which the logger would remove."""
    if not (run_folder / "metrics.csv").is_file():
        return
    number = next(number for number in itertools.count(1) if not (run_folder / f"metrics.{number}.csv").exists())
    (run_folder / "metrics.csv").rename(run_folder / f"metrics.{number}.csv")
