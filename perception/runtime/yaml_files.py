"""YAML files made of smaller ones; plain values only."""

import re
from pathlib import Path
from typing import Any

import yaml

_MAX_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """Plain values, numbers as in YAML 1.2 (1e-3 is a number), and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuses repeated keys, of which PyYAML would silently keep the last."""
        keys = [key.value for key, _ in node.value]
        repeated = sorted({key for key in keys if isinstance(key, str) and keys.count(key) > 1})
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated[0]!r} is repeated", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_yaml(path: Path) -> Any:
    """Reads a YAML file and puts the files that it names in place of their names.

    Args:
        path: the file. A value that ends in ".yaml" names another, relative to the file that it stands in.

    Returns:
        Plain values: mappings, lists, strings, numbers, booleans and None.

    Raises:
        ValueError: a file is missing, is not YAML, repeats a key, names itself, or holds absurdly much.
    """
    try:
        return _Composer().file(path, ())
    except RecursionError as error:
        raise ValueError(f"load_yaml: {path} must not be nested without end") from error


class _Composer:
    """Counts what it reads, so that aliases of aliases cannot grow without end."""

    def __init__(self) -> None:
        self._num_values = 0

    def file(self, path: Path, chain: tuple[Path, ...]) -> Any:
        """Reads a file; `chain` holds the files that led to it, the first one first."""
        resolved = path.resolve()
        if resolved in chain:
            raise ValueError(f"load_yaml: {path} must not name itself, got {' -> '.join(map(str, (*chain, resolved)))}")
        named_by = f" (named by {chain[-1]})" if chain else ""
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"load_yaml: {path}{named_by} must be a readable YAML file: {error}") from error
        return self.value(content, (*chain, resolved))

    def value(self, value: Any, chain: tuple[Path, ...]) -> Any:
        """Puts files in place of their names within a value of the last file of the chain."""
        self._num_values += 1
        if self._num_values > _MAX_VALUES:
            raise ValueError(f"load_yaml: {chain[0]} must hold at most {_MAX_VALUES} values")
        if isinstance(value, str) and value.endswith(".yaml"):
            return self.file(chain[-1].parent / value, chain)
        if isinstance(value, dict):
            return {key: self.value(item, chain) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, chain) for item in value]
        return value
