"""Registries of what a config may name: a decorator beside each thing puts it in.

    LOSSES = Registry("loss", "cnn_lab.tasks", LossEntry)

    @LOSSES.register(needs_one_class=True)
    def hinge(scores, targets, margin: Positive = 1.0): ...

A user's own module, which `config.imports` names, registers in the same way; nothing here needs
editing.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from cnn_lab.core.errors import ConfigError, lookup

Entry = TypeVar("Entry")
Function = TypeVar("Function", bound=Callable[..., Any])


class Registry(MutableMapping[str, Entry], Generic[Entry]):
    """The entries of one kind by name, in alphabetical order.

    Args:
        kind: the noun for one entry, in messages.
        package: dotted name of the package whose modules register entries. They are imported when
            an entry is first looked for: a new file there is known without being listed anywhere.
        make_entry: (function, **facts) -> entry; by default the entry is the function itself.
    """

    def __init__(
        self, kind: str, package: str, make_entry: Callable[..., Any] = lambda function: function
    ) -> None:
        self._kind, self._package, self._make_entry = kind, package, make_entry
        self._entries: dict[str, Entry] = {}
        self._functions: dict[str, Callable[..., Any]] = {}  # those that were registered
        self._is_loaded = False

    def register(self, *, name: str | None = None, **facts: Any) -> Callable[[Function], Function]:
        """Decorates a function, or a class, whose parameters with a default are its options.

        Its name in a config is its own by default; `facts` are the other fields of the entry.

        Raises:
            ConfigError: an option has no annotation, by which values from a config are checked, or
                something else has the name.
        """

        def decorate(function: Function) -> Function:
            chosen = name or function.__name__
            for parameter in inspect.signature(function).parameters.values():
                if parameter.default is not parameter.empty is parameter.annotation:
                    raise ConfigError(
                        f"The {self._kind} {chosen!r} ({_origin(function)}) has an option "
                        f"{parameter.name!r} without annotation; write what fits, such as "
                        f"`{parameter.name}: float = {parameter.default!r}`.",
                        where=_origin(function),
                        found=parameter.name,
                    )
            self.add(chosen, self._make_entry(function, **facts), function)
            return function

        return decorate

    def add(self, name: str, entry: Entry, function: Callable[..., Any]) -> None:
        """Adds the entry of a function; a `ConfigError` where something else has the name.

        The same definition read again takes the place of the first: a notebook's cell, or an
        experiment file that is imported as a module too.
        """
        if not function.__module__.startswith(f"{self._package}."):
            self._loaded()  # a clash of names is the newcomer's
        other = self._functions.setdefault(name, function)
        if _definition(other) != _definition(function):
            raise ConfigError(
                f"The {self._kind} {name!r} exists already ({_origin(other)}); register "
                f"{_origin(function)} by another name.",
                where=_origin(function),
                found=name,
            )
        self._entries[name], self._functions[name] = entry, function

    def module_of(self, name: str) -> str | None:
        """The module that registered an entry; None for one that was put in without a function."""
        self._loaded()
        return self._functions[name].__module__ if name in self._functions else None

    def lookup(self, name: str, where: str | None = None) -> Entry:
        """The entry of a name in the field or flag `where`; a `ConfigError` if there is none."""
        return lookup(self, name, self._kind, where)

    def __getitem__(self, name: str) -> Entry:
        return self._loaded()[name]

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._loaded()[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        self._functions.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._loaded()))

    def __len__(self) -> int:
        return len(self._loaded())

    def _loaded(self) -> dict[str, Entry]:
        if not self._is_loaded:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._is_loaded = True
        return self._entries


def _origin(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _definition(function: Callable[..., Any]) -> tuple[str, str]:
    """The file (of a notebook, the module) and the name of a function or class."""
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    return str(Path(file).resolve()) if file else function.__module__, function.__qualname__
