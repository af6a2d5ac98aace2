"""Names that others add: algorithms, tasks and transports of installed distributions.

A decorator registers a name when its module is imported; an entry point says which module that is,
so that the name is known before anything is imported:

    [project.entry-points."dmlf.algorithms"]
    spiral = "dmlf_spiral.protocol"

A module is imported when its name is first asked for, once in each process: the command line, the
ranks' processes, `dmlf worker` and torchrun's processes find the same names in the same way.
Standard library only.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from dmlf.errors import DmlfError, PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_OWN = "dmlf"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a name is registered. distribution, version: None where no entry point leads there."""

    module: str
    distribution: str | None = None
    version: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether dmlf itself has it."""
        return self.distribution is None and self.module.partition(".")[0] == _OWN

    def files(self) -> list[Path]:
        """The sources behind the name, sorted.

        Of a distribution the whole top-level package (or module) that the name is registered in;
        without one, that module's file. Files that compute nothing are left out: compiled ones,
        hidden ones and documentation (.md).
        """
        name = self.module if self.distribution is None else self.module.partition(".")[0]
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__spec__ is None:  # a script, as `__main__`
            return [Path(loaded.__file__).resolve()] if loaded.__file__ else []
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None  # who imports it says what is wrong
        if found is None:
            return []
        if self.distribution is None or found.submodule_search_locations is None:
            return [Path(found.origin)] if found.origin and found.has_location else []
        folders = [Path(place) for place in found.submodule_search_locations]
        return sorted(path for folder in folders for path in source_files(folder))

    def sha256(self) -> str:
        """Hash of the names and contents of `files`."""
        digest = hashlib.sha256()
        files = self.files()
        parents = [path.parent for path in files]
        top = min(parents, key=lambda path: len(path.parts)) if parents else Path()
        for path in files:
            content = path.read_bytes()
            name = path.relative_to(top) if path.is_relative_to(top) else path.name
            digest.update(f"{name}\n{len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()


def source_files(folder: Path) -> Iterator[Path]:
    """The files below `folder` that can decide what a package computes, in no order."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if "__pycache__" in parts or any(part.startswith(".") for part in parts):
            continue
        if path.suffix not in (".pyc", ".md") and path.is_file():
            yield path


class Registry(Mapping[str, T], Generic[T]):
    """One kind of things by name: those of dmlf first, then what is installed, by name.

    kind: what one thing is called, as in `algorithm`. decorator: what registers one. shipped: the
    modules of dmlf's own, imported when asked for. reserved: names that mean something else.
    Looking at the names imports nothing. `registry[name]` imports the module behind the name, and
    raises PluginError where two distributions claim it, where the module cannot be imported, or
    where it does not register the name; KeyError where nobody knows it.
    """

    def __init__(
        self,
        kind: str,
        decorator: str,
        shipped: Mapping[str, str] | None = None,
        reserved: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.group = f"dmlf.{kind}s"
        self._decorator = decorator
        self._shipped = dict(shipped or {})
        self._reserved = frozenset(reserved)
        self._registered: dict[str, tuple[T, str]] = {}

    def register(self, name: str, value: T, module: str) -> None:
        """Make `value`, defined in `module`, known by `name`. Raises PluginError."""
        known = self._registered.get(name)
        if known is not None and known[0] is value:
            return
        if problem := self._name_problem(name):
            raise PluginError(self.kind, name, module, problem)
        home = self._shipped.get(name, module) if known is None else known[1]
        if known is not None or home != module:
            problem = f"the name is registered already, by {home}; choose another name"
            raise PluginError(self.kind, name, module, problem)
        self._registered[name] = (value, module)

    def __getitem__(self, name: str) -> T:
        installed = self._installed.get(name, [])
        claims = [_owner(point) for point in installed]
        if self._is_own(name):
            claims.insert(0, _OWN)
        if len(claims) > 1:
            others = [claim for claim in claims if claim != _OWN]
            problem = f"{' and '.join(claims)} all have one of this name; uninstall " + (
                f"{others[0]}, or have its authors rename it"
                if len(others) == 1
                else f"all but one of {', '.join(others)}"
            )
            raise PluginError(self.kind, name, claims[-1], problem)
        if name not in self._registered:
            if name in self._shipped:
                importlib.import_module(self._shipped[name])
            elif installed:
                self._load(installed[0])
            else:
                raise KeyError(name)
        return self._registered[name][0]

    def __iter__(self) -> Iterator[str]:
        own = dict.fromkeys([*self._shipped, *filter(self._is_own, self._registered)])
        others = {*self._registered, *self._installed} - own.keys()
        return iter([*own, *sorted(others)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in self._shipped or name in self._installed

    def usable(self) -> list[str]:
        """All names whose modules load; each of the others costs a line on standard error."""
        names = []
        for name in self:
            try:
                self[name]
            except PluginError as error:
                warn(f"{error}; left out")
            else:
                names.append(name)
        return names

    def origin(self, name: str) -> Origin:
        """Where `name` is registered, or is said to be. Raises KeyError."""
        for point in self._installed.get(name, []):
            return _origin(point)
        if name in self._registered:
            return Origin(self._registered[name][1])
        return Origin(self._shipped[name])

    def claims(self) -> list[tuple[str, Origin]]:
        """Every (name, origin) that an entry point claims, sorted."""
        points = [point for points in self._installed.values() for point in points]
        return sorted(((point.name, _origin(point)) for point in points), key=str)

    @functools.cached_property
    def _installed(self) -> dict[str, list[EntryPoint]]:
        """The entry points of this kind by name; what cannot be a name is left out, and said."""
        found: dict[str, list[EntryPoint]] = {}
        for point in _entry_points(self.group):
            if problem := self._name_problem(point.name):
                warn(f"{PluginError(self.kind, point.name, _owner(point), problem)}; left out")
                continue
            found.setdefault(point.name, []).append(point)
        return found

    def _is_own(self, name: str) -> bool:
        registered = self._registered.get(name)
        return name in self._shipped or (registered is not None and Origin(registered[1]).is_own)

    def _name_problem(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            return "a name is made of letters, digits and '_'; have its authors rename it"
        if name in self._reserved:
            return "dmlf has another meaning for this name; have its authors rename it"
        return None

    def _load(self, point: EntryPoint) -> None:
        owner = _owner(point)
        try:
            importlib.import_module(point.module)
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            problem = f"{point.module} cannot be imported ({reason}); repair or uninstall {owner}"
            cause = error.__cause__ if isinstance(error, DmlfError) else error
            raise PluginError(self.kind, point.name, owner, problem) from cause
        if point.name not in self._registered:
            problem = (
                f"{point.module} registers no {self.kind} of this name; its authors have to "
                f"decorate one with {self._decorator}, or to name the module that does"
            )
            raise PluginError(self.kind, point.name, owner, problem)


def _origin(point: EntryPoint) -> Origin:
    version = None if point.dist is None else point.dist.version
    return Origin(point.module, _owner(point), version)


def _owner(point: EntryPoint) -> str:
    """The name of the distribution that an entry point comes from."""
    return "a distribution without a name" if point.dist is None else str(point.dist.name)


def module_of(function: Callable[..., object]) -> str:
    """The module that a function was defined in."""
    return str(getattr(function, "__module__", None) or "?")


def warn(line: str) -> None:
    """Say something in one line on standard error; ranks' processes leave it to their launcher."""
    from multiprocessing import parent_process

    if parent_process() is None:
        print(f"dmlf: {line}", file=sys.stderr)


def _entry_points(group: str) -> EntryPoints:
    """Takes 5 ms with a hundred distributions."""
    from importlib.metadata import entry_points

    return entry_points(group=group)
