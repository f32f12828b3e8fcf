"""Finding backends: the specification's own adapters, entry points, a class by its path, a program by its command.

A backend is imported only when it is selected. One that cannot be imported, or finds no device, is reported as missing
with the reason, and never as a pass.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from setadam_conformance.adapters.claims import wrong_claim
from setadam_conformance.adapters.published import LIBRARIES, PUBLISHED
from setadam_conformance.protocol import Adapter, Capabilities, ProtocolError

GROUP = "setadam.backends"
# Seconds to load a backend, for one example, or for one reply of a program. A cold torch.compile on a busy machine has
# taken 15.
PATIENCE = 300.0
_SPEC = "setadam_conformance.adapters.spec"
_ONNX = "setadam_conformance.adapters.onnx"
# By default, the specification is judged under each namespace, like any backend.
BUILT_IN = {
    "spec:numpy": f"{_SPEC}:NumPySpec",
    "spec:strict": f"{_SPEC}:StrictSpec",
    "spec:dask": f"{_SPEC}:DaskSpec",
    "spec:torch": f"{_SPEC}:TorchSpec",
    "spec:jax-jit": f"{_SPEC}:JaxJitSpec",
    "spec:ndonnx": f"{_ONNX}:NdonnxSpec",
    "onnxruntime": f"{_ONNX}:OnnxRuntime",
}
# The framework of a name that does not begin with it.
_FRAMEWORKS = {"spec:ndonnx": "onnx", "onnxruntime": "onnx"}
_METHODS = ("from_numpy", "to_numpy", "step")
# The distributions behind a framework, where they are not the one of its name.
_DISTRIBUTIONS = {
    "strict": ("array-api-strict",),
    "jax": ("jax", "jaxlib", "optax"),
    "keras": ("keras", "torch", "jax", "tensorflow"),
    "onnx": ("ndonnx", "onnx", "onnxruntime"),
    **LIBRARIES,
}


class BackendError(Exception):
    """A backend that was named cannot be loaded: exit code 3."""


@dataclass(frozen=True)
class Source:
    """A backend's name, and how to make its adapter on a device."""

    name: str
    framework: str
    target: str  # "module:Class", or "cmd:program args"

    @property
    def is_program(self) -> bool:
        return self.target.startswith("cmd:")

    def check_module(self) -> None:
        """Raise BackendError if no module has the name of the target's: it is misspelt, or not on the path."""
        module = self.target.partition(":")[0]
        with suppress(ModuleNotFoundError):  # its package is not found
            if self.is_program or importlib.util.find_spec(module):
                return
        raise BackendError(f"{self.name}: no module is called {module!r}, neither here nor on PYTHONPATH")

    def make(self, device: str, patience: float = PATIENCE) -> Adapter:
        """Make the adapter. patience: seconds that a program may take for a reply.

        Raises
        ------
        ImportError, RuntimeError : the backend cannot run here.
        ProtocolError : it is not an adapter.
        """
        if self.is_program:
            from setadam_conformance.adapters.command import CommandAdapter

            command: Adapter = CommandAdapter(self.target.removeprefix("cmd:"), device, patience)
            return command
        try:
            return checked(self._made(device), self.name)
        except (ImportError, RuntimeError, ProtocolError):
            raise
        except (Exception, SystemExit) as error:
            raise ProtocolError(f"{self.name}({device!r}) raised {type(error).__name__}: {error}") from error

    def _made(self, device: str) -> Any:
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)(device)


@dataclass(frozen=True, eq=False)
class Given(Source):
    """An adapter that a caller of this process has, or its class or another function of a device that makes it."""

    adapter: Any

    __eq__ = object.__eq__  # two objects of one class have the same name and path
    __hash__ = object.__hash__

    @property
    def has_path(self) -> bool:
        """True if other code can import it by its path."""
        module, _, attribute = self.target.partition(":")
        return module != "__main__" and getattr(sys.modules.get(module), attribute, None) is self.adapter

    def check_module(self) -> None:
        """It has been imported."""

    def _made(self, device: str) -> Any:
        is_adapter = not isinstance(self.adapter, type) and hasattr(self.adapter, "step")
        return self.adapter if is_adapter or not callable(self.adapter) else self.adapter(device)


def checked(adapter: Any, name: str) -> Adapter:
    """The adapter, if it has the protocol's attributes and its claims are known. Raises ProtocolError otherwise."""
    lacks = [x for x in ("name", "framework", "capabilities", *_METHODS) if not hasattr(adapter, x)]
    if lacks:
        raise ProtocolError(f"{name} has no {', '.join(lacks)}: see setadam_conformance.protocol.Adapter")
    claims = adapter.capabilities
    if not isinstance(claims, Capabilities):
        raise ProtocolError(f"{name}.capabilities must be a Capabilities, got {claims!r}")
    if wrong := wrong_claim(claims):
        raise ProtocolError(f"{name} {wrong}")
    if claims.reloads and not hasattr(adapter, "reload"):
        raise ProtocolError(f"{name} claims reloads {claims.reloads!r} but has no method reload")
    found: Adapter = adapter
    return found


def known() -> dict[str, Source]:
    """All backends registered on this machine, by name, whether loaded or not."""
    targets = dict(BUILT_IN)
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        targets[entry.name] = entry.value
    return {name: Source(name, _framework(name), target) for name, target in targets.items()}


def published() -> dict[str, Source]:
    """Adams of other libraries that the kit has adapters for, by name: "torch-adam:fused" is one of "torch-adam"."""
    return {name: Source(name, name.partition(":")[0], target) for name, target in PUBLISHED.items()}


def registered() -> dict[str, Source]:
    """Everything that has a name: the backends of SET-Adam, and published Adams."""
    return {**known(), **published()}


def select(names: Iterable[str]) -> list[Source]:
    """The backends that are named, or all of SET-Adam's if none is.

    A name is that of a registered backend, a framework (all of its backends), `module:Class`, or `cmd:program args`.
    Nothing is imported or started yet. Raises BackendError for a name that is none of these.
    """
    sources = registered()
    chosen: dict[str, Source] = {}
    for name in names:
        if name in sources:
            found = [sources[name]]
        elif name.startswith("cmd:"):
            found = [Source(name, "command", name)]
        elif ":" in name:
            found = [_by_path(name)]
        else:
            found = [source for source in sources.values() if source.framework == name]
        if not found:
            raise BackendError(
                f"no backend or framework is called {name!r}; known: {', '.join(sorted(sources))}; "
                "or give package.module:Adapter, or cmd:'program args'"
            )
        chosen |= {source.name: source for source in found}
    return list((chosen or known()).values())


def given(adapter: Any) -> Given:
    """An adapter object, class or function as a backend. Its name is the path of its class, `module:Class`."""
    named = adapter if hasattr(adapter, "__qualname__") else type(adapter)
    path = f"{named.__module__}:{named.__qualname__}"
    return Given(path, "other", path, adapter)


def absent(names: Iterable[str], here: Mapping[Source, bool]) -> list[str]:
    """The names for which nothing can run: a backend that is missing, or a framework all of whose paths are."""
    meant = {name: [source for source in here if name in (source.name, source.framework)] for name in names}
    return [name for name, sources in meant.items() if not any(here[source] for source in sources)]


def versions(framework: str) -> dict[str, str]:
    """The package versions that a verdict on this framework depends on."""
    return installed(*_DISTRIBUTIONS.get(framework, (framework,)))


def installed(*names: str) -> dict[str, str]:
    """The versions of these distributions, without those that are not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _framework(name: str) -> str:
    """The framework in a registered name: "torch" in "torch:foreach", "jax" in "spec:jax-jit"."""
    return _FRAMEWORKS.get(name) or name.removeprefix("spec:").partition(":")[0].partition("-")[0]


def _by_path(path: str) -> Source:
    if str(Path.cwd()) not in sys.path:  # as `python -m` does, to find an adapter in the current folder
        sys.path.insert(0, str(Path.cwd()))
    return Source(path, "other", path)
