"""Configs: YAML files that name classes and their arguments, checked before anything that they name is imported."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.models.detector import Detector
from perception.runtime.class_paths import check_config
from perception.runtime.yaml_files import load_yaml


def load_config(path: Path | str) -> dict[str, Any]:
    """Reads a config with the files that it names.

    Args:
        path: YAML file. A value that ends in ".yaml" stands for the content of that file, found relative to the file
            that names it.

    Returns:
        One tree of plain values.

    Raises:
        ValueError: a file is missing, is not YAML, names itself, or is no mapping.
    """
    config = load_yaml(Path(path))
    if not isinstance(config, dict):
        raise ValueError(f"load_config: {path} must hold a mapping, got {type(config).__name__}")
    return config


def build_detector(config: Mapping[str, Any] | Path | str, *, allowed_packages: Sequence[str] = ()) -> Detector:
    """Builds the detector that a config describes.

    Args:
        config: a file, or what `load_config` gave: either the detector itself (`class_path` and `init_args`), or a
            training config, of which `model.init_args.detector` alone is read.
        allowed_packages: packages besides this one, torch, lightning and transformers whose classes may be built.

    Returns:
        The detector with fresh weights, or the published ones that the config names.

    Raises:
        ImportError: a class needs a package that is not installed.
        ValueError: the config does not describe a detector: an unknown argument (the nearest names are given), a value
            of the wrong type, a class of a package that is not allowed, or parts that do not fit each other.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    tree = load_config(config) if isinstance(config, Path | str) else dict(config)
    detector = copy.deepcopy(_detector_subtree(tree))  # jsonargparse writes into what it parses
    check_config(detector, wanted=Detector, allowed_packages=allowed_packages)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--detector", type=Detector, required=True)
    try:
        parsed = parser.parse_object({"detector": detector})
    except ArgumentError as error:
        raise ValueError(f"build_detector: config must describe a detector: {error}") from error
    built: Detector = parser.instantiate(parsed).detector
    return built


def _detector_subtree(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    subtree: Any = tree
    if "class_path" not in tree:
        for key in ("model", "init_args", "detector"):
            subtree = subtree.get(key) if isinstance(subtree, Mapping) else None
    if not isinstance(subtree, Mapping) or "class_path" not in subtree:
        raise ValueError(
            f"build_detector: config must have class_path or model.init_args.detector at its top, got {list(tree)}"
        )
    return subtree
