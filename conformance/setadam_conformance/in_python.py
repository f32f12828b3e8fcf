"""The kit as a function: `check_conformance(adapter)` judges an adapter in this process, for any test runner."""

import io
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from rich.console import Console

from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Adapter, ProtocolError
from setadam_conformance.reporting import print_tables
from setadam_conformance.reporting.failures import print_failures
from setadam_conformance.running import backends
from setadam_conformance.running.backends import Source
from setadam_conformance.running.plan import PROFILES
from setadam_conformance.running.plan import plan as plan_cells
from setadam_conformance.running.results import Run
from setadam_conformance.running.runner import adapter_of
from setadam_conformance.running.workers import Workers
from setadam_conformance.verdicts import BACKEND, CONFORMING, KIT, concluded, explain

# An adapter object, its class or another function of a device that makes it, or a name as for `--backend`.
AdapterLike = Adapter | Callable[[str], Adapter] | str


class ConformanceError(AssertionError):
    """An adapter does not conform, or too little ran to tell.

    The message is what the command prints. `run` has all results; `run.exit_code` is 1, 4 or 6, as for the command.
    """

    def __init__(self, message: str, run: Run) -> None:
        super().__init__(message)
        self.run = run


def check_conformance(
    adapter: AdapterLike,
    *,
    device: str = "cpu",
    profile: str = "quick",
    dtypes: Collection[str] = (),
    properties: Collection[str] = (),
    about: str | None = None,
    seed: int = 0,
) -> Run:
    """Judge an adapter in this process, and return the results if it conforms.

    Parameters
    ----------
    adapter : Adapter, class, function or str
        An object or a class with the attributes of `protocol.Adapter`, or a function that takes a device and returns
        such an object; or a name as for `setadam-conformance run --backend`: a registered backend or a framework,
        "module:Class", or "cmd:program args".
    device : str
        "cpu" or "cuda:0": what a class or a function is called with. An object is used as it is.
    profile : str
        "quick", "default" or "deep": how many examples are tried.
    dtypes : collection of str
        Dtypes of parameters; empty: all that the adapter claims.
    properties : collection of str
        Names as in `setadam-conformance list`; empty: all that concern the adapter.
    about : str or None
        "arithmetic": only the properties of the step's numbers; "interface": only those of what the step may write,
        must keep and must refuse; None: both.
    seed : int
        A different seed draws different examples.

    Returns
    -------
    Run
        The results as plain data (`running.results`): `cells` has one for each property and dtype.

    Raises
    ------
    ConformanceError
        An AssertionError: it does not conform, or the verdict is vacuous: nothing, or fewer examples of a property
        than its minimum, ran. The message is what the command prints, the diagnosis first.
    ProtocolError
        The adapter broke the protocol: there is no verdict on the arithmetic behind it.
    ImportError, RuntimeError
        The adapter raised it when it was made, because a library or a device is missing; or the kit itself is at fault.
    BackendError
        There is no backend of this name.
    ValueError
        Another argument is not one of the values above.

    Notes
    -----
    The adapter runs in this process, without a time limit; only programs have one. If it ends the process, it ends the
    caller's.
    """
    started = time.perf_counter()
    check_arguments(profile=profile, dtypes=dtypes, properties=properties, about=about)
    sources = sources_of(adapter)
    with Workers(1) as workers:
        claims = {source: adapter_of(source, device).capabilities for source in sources}
        planned = plan_cells(
            claims,
            profile=PROFILES[profile],
            seed=seed,
            device=device,
            dtypes=tuple(dtypes),
            properties=tuple(properties),
            about=about,
        )
        done = list(workers.run(planned))
        explain(done, sources, workers, device)
    run = concluded(claims, planned, done, profile=profile, seed=seed, device=device, started=started)
    if run.exit_code == CONFORMING:
        return run
    text = text_of(run)
    if run.exit_code == BACKEND:
        raise ProtocolError(text)
    if run.exit_code == KIT:
        raise RuntimeError(text)
    raise ConformanceError(text, run)


def check_arguments(*, profile: str, dtypes: Collection[str], properties: Collection[str], about: str | None) -> None:
    """Check the arguments of `check_conformance`. Raises ValueError."""
    _check("profile", [profile], PROFILES)
    _check("about", [about] if about is not None else [], ("arithmetic", "interface"))
    for name, given, known in (("dtypes", dtypes, FORMATS), ("properties", properties, PROPERTIES)):
        if isinstance(given, str):
            raise ValueError(f"{name} must be a list or tuple of names, got {given!r}")
        _check(name, given, known)


def _check(argument: str, given: Iterable[Any], known: Iterable[str]) -> None:
    if unknown := [x for x in given if x not in known]:
        raise ValueError(f"{argument}: {unknown[0]!r} is none of {', '.join(known)}")


def sources_of(adapter: AdapterLike) -> list[Source]:
    """The backends that are meant. Nothing is made or imported yet. Raises BackendError for a name of nothing."""
    return backends.select([adapter]) if isinstance(adapter, str) else [backends.given(adapter)]


def text_of(run: Run, failures_only: bool = False) -> str:
    """What the command prints of a run: the failures with their diagnosis, and then the summary and the verdict."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, emoji=False, color_system=None, force_terminal=False)
    if failures_only:
        print_failures(run, console)
    else:
        print_tables(run, console, full=False)
    return stream.getvalue().strip("\n")
