"""What a config may name: classes of allowed packages, with arguments that they have.

Configs are untrusted. A class path is looked at before it is imported. What it leads to must be a class defined in an
allowed package: neither `os.system` nor `torch.os.system` nor a function such as `torch.hub.load`. And it must be of
the type that the argument asks for: allowed packages hold classes that start a process when they are built.
"""

import dataclasses
import difflib
import enum
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ALLOWED_PACKAGES = ("perception", "torch", "lightning", "transformers")

_SPEC_KEYS = ("class_path", "init_args")
_PLAIN_VALUES = (str, int, float, bool, type(None), Path)
_PLAIN_TYPES = (str, int, float, bool, complex, bytes, type(None), Path, object, Any)


class _Untyped:
    """Stands for the type where none is known: outside all objects."""


def check_config(
    config: Any, *, wanted: Any = _Untyped, allowed_packages: Sequence[str] = (), where: str = "config"
) -> None:
    """Checks every class path and every argument name of a config.

    Args:
        config: a tree of plain values; a mapping with `class_path` describes an object.
        wanted: type of the whole tree; without it, any allowed class may stand outside the arguments of another.
        allowed_packages: packages besides `ALLOWED_PACKAGES`.
        where: what to call the tree in errors.

    Raises:
        ValueError: a class path that is not allowed, or leads to no class or one of the wrong type; an argument that
            the class does not have (the nearest names are given); a string where an object must be described.
    """
    _Checker((*ALLOWED_PACKAGES, *allowed_packages)).value(config, wanted, where)


def import_class(class_path: str, *, allowed_packages: Sequence[str] = (), where: str = "config") -> type:
    """Imports a class of an allowed package.

    Args:
        class_path: dotted path.
        allowed_packages: packages besides `ALLOWED_PACKAGES`.
        where: what to call the place of the path in errors.

    Returns:
        The class.

    Raises:
        ValueError: the package is not allowed, or the path leads to no class defined in an allowed package.
    """
    return _import_class(class_path, (*ALLOWED_PACKAGES, *allowed_packages), where)


def _import_class(class_path: str, packages: Sequence[str], where: str) -> type:
    parts = class_path.split(".")
    if parts[0] not in packages or not all(part.isidentifier() for part in parts) or len(parts) < 2:
        raise ValueError(f"{where}: class_path must lie in one of {', '.join(packages)}, got {class_path!r}")
    module_path, name = ".".join(parts[:-1]), parts[-1]
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name is None or not module_path.startswith(error.name):
            raise  # the module exists; a package that it needs does not
        raise ValueError(f"{where}: class_path must name a class, got {class_path!r}: {error}") from error
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise ValueError(f"{where}: class_path must name a class, got {class_path!r}{_nearest(name, classes)}")
    if found.__module__.split(".")[0] not in packages:
        raise ValueError(
            f"{where}: class_path must lead to a class of {', '.join(packages)}, "
            f"got {class_path!r}, which is {found.__module__}.{found.__qualname__}"
        )
    return found


class _Checker:
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def value(self, value: Any, hint: Any, where: str) -> None:
        """Checks a value against what the type hint says about objects in it; plain types are left to the parser."""
        hints = _members(hint)
        if isinstance(value, Mapping):
            self._mapping(value, hints, where)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self.value(
                    item, _item_hint(hints, (list, tuple, set, Sequence, Iterable, Collection)), f"{where}[{index}]"
                )
        elif isinstance(value, str) and ("class_path" in value or _leads_to_object(value, hints)):
            raise ValueError(f"{where}: must be a mapping with class_path and init_args, got {value!r}")
        elif not isinstance(value, _PLAIN_VALUES):
            raise ValueError(f"{where}: must be a plain value, got {type(value).__name__}")

    def _mapping(self, value: Mapping[str, Any], hints: Sequence[Any], where: str) -> None:
        structures = [hint for hint in hints if dataclasses.is_dataclass(hint)]
        if "class_path" in value:
            self._object(value, hints, where)
        elif structures:
            self._arguments(value, structures[0], where)
        else:
            for key, item in value.items():
                self.value(item, _item_hint(hints, (dict, Mapping)), f"{where}.{key}")

    def _object(self, spec: Mapping[str, Any], hints: Sequence[Any], where: str) -> None:
        _check_names(spec, _SPEC_KEYS, "an object", where)
        if not isinstance(spec["class_path"], str):
            raise ValueError(f"{where}: class_path must be a string, got {spec['class_path']!r}")
        arguments = spec.get("init_args") or {}
        if not isinstance(arguments, Mapping):
            raise ValueError(f"{where}: init_args must be a mapping, got {arguments!r}")
        found = _import_class(spec["class_path"], self._packages, where)
        if not any(_admits(hint, found) for hint in hints):
            types_ = " | ".join(getattr(hint, "__name__", str(hint)) for hint in hints)
            raise ValueError(f"{where}: class_path must lead to {types_}, got {spec['class_path']!r}")
        self._arguments(arguments, found, f"{where}.init_args")

    def _arguments(self, arguments: Mapping[str, Any], owner: Any, where: str) -> None:
        parameters = inspect.signature(owner).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            _check_names(arguments, [parameter.name for parameter in parameters], owner.__name__, where)
        hints = _argument_hints(owner)
        for name, item in arguments.items():
            self.value(item, hints.get(name, Any), f"{where}.{name}")


def _check_names(given: Mapping[str, Any], known: Sequence[str], owner: str, where: str) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: {owner} has no {name!r}{_nearest(str(name), known)}; it has {', '.join(known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3)
    return f" (did you mean {' or '.join(map(repr, matches))}?)" if matches else ""


def _argument_hints(owner: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(owner.__init__)
    except (NameError, TypeError):  # hints that cannot be resolved at run time
        return {}


def _members(hint: Any) -> list[Any]:
    """The alternatives of a union, flat; aliases and `Annotated` opened."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(hint) for member in _members(argument)]
    return _members(typing.get_args(hint)[0]) if origin is typing.Annotated else [hint]


def _item_hint(hints: Sequence[Any], containers: Sequence[Any]) -> Any:
    """Type of the items of the containers among the hints; Any where there is none, unknown where nothing is known."""
    if _Untyped in hints:
        return _Untyped
    items = [
        typing.get_args(hint)[-1 if typing.get_args(hint)[-1] is not Ellipsis else 0]
        for hint in hints
        if typing.get_origin(hint) in containers and typing.get_args(hint)
    ]
    return typing.Union[tuple(items)] if items else Any  # noqa: UP007 (built at run time)


def _admits(hint: Any, found: type) -> bool:
    """Whether an object of the class may stand where the hint does."""
    if hint is _Untyped:
        return True
    if Callable in (hint, typing.get_origin(hint)):
        result = (typing.get_args(hint) or (None,))[-1]
        made = inspect.isclass(result) and issubclass(found, result)
        return made or any("__call__" in vars(base) for base in found.__mro__)
    return _is_object_hint(hint) and inspect.isclass(hint) and issubclass(found, hint)


def _leads_to_object(value: str, hints: Sequence[Any]) -> bool:
    """Whether the parser would take the string for the path of a class or function, or for a mapping."""
    plain = _Untyped in hints or (str in hints and "." not in value)  # such as the name of an activation
    return not plain and any(map(_is_object_hint, hints))


def _is_object_hint(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (Callable, type, dict, Mapping) or hint in (Callable, type, dict):
        return True
    return inspect.isclass(hint) and origin is None and hint not in _PLAIN_TYPES and not issubclass(hint, enum.Enum)
