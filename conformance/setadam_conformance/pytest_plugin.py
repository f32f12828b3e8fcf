"""The kit in pytest: `pytest --adapter module:Class`, and `@conformance(Adapter)` on a test function.

Where setadam is installed, pytest imports this module in every run. So it imports nothing of the kit until it is used.
"""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from setadam_conformance.libraries import needing_libraries

if TYPE_CHECKING:
    from setadam_conformance.in_pytest import ConformanceCell
    from setadam_conformance.in_python import AdapterLike

__all__ = ["conformance"]


def conformance(
    adapter: "AdapterLike",
    *,
    device: str = "cpu",
    profile: str = "quick",
    dtypes: Collection[str] = (),
    properties: Collection[str] = (),
    about: str | None = None,
    seed: int = 0,
) -> pytest.MarkDecorator:
    """Parametrize a test function over the cells of an adapter: one test for each property and dtype.

    The function gets a `cell`, and calls `cell.check()`. The ids are `one-step-float32` and so on. The arguments are
    those of `check_conformance`. The adapter is made when tests are collected. If it cannot run here, there is one
    test, `loading`, that is skipped with the reason.

    Raises
    ------
    ValueError
        An argument is not one of its values, or there is nothing to judge.
    BackendError
        There is no backend of this name.
    """
    made = needing_libraries("in_pytest").cells_of(
        adapter, device=device, profile=profile, dtypes=dtypes, properties=properties, about=about, seed=seed
    )
    return pytest.mark.parametrize("cell", made, ids=[cell.id for cell in made])


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("setadam-conformance", "conformance of an optimizer's step (setadam-conformance)")
    group.addoption(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME",
        help="judge this adapter, a test for each property and dtype: package.module:Adapter, a registered backend, a "
        "framework, or cmd:'program args'; may be repeated. Without paths, nothing else is collected",
    )
    group.addoption(
        "--conformance-profile",
        default="quick",
        choices=["quick", "default", "deep"],
        help="how many examples --adapter tries (default: quick)",
    )
    group.addoption(
        "--conformance-device", default="cpu", metavar="DEVICE", help="of --adapter: cpu (default) or cuda:0"
    )
    group.addoption(
        "--conformance-seed", type=int, default=0, metavar="N", help="a different seed draws different examples"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect nothing else if no paths are given."""
    if config.getoption("adapter") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def pytest_report_header(config: pytest.Config) -> str | None:
    """What the verdicts depend on."""
    names, profile, seed = (config.getoption(x) for x in ("adapter", "conformance_profile", "conformance_seed"))
    return f"conformance: {', '.join(names)}; profile {profile}, seed {seed}" if names else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the cells of `--adapter`, before any are deselected."""
    for name in config.getoption("adapter"):
        items.extend(session.genitems(_Collector.from_parent(session, name=name, nodeid=name)))


def pytest_unconfigure() -> None:
    """Stop the programs that were judged."""
    if runner := sys.modules.get("setadam_conformance.running.runner"):
        runner.close_adapters()


class _Collector(pytest.Collector):
    """The cells of one `--adapter`."""

    def collect(self) -> "list[_Item]":
        option = self.config.getoption
        made = needing_libraries("in_pytest").cells_of(
            self.name,
            device=option("conformance_device"),
            profile=option("conformance_profile"),
            seed=option("conformance_seed"),
        )
        return [_Item.from_parent(self, name=cell.id, cell=cell) for cell in made]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """An error of the command line or of the backend, without a traceback."""
        return f"{type(excinfo.value).__name__}: {excinfo.value}"


class _Item(pytest.Item):
    """A cell as a test that is in no file."""

    def __init__(self, *, cell: "ConformanceCell", **others: Any) -> None:
        super().__init__(**others)
        self.cell = cell

    def runtest(self) -> None:
        self.cell.check()

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.nodeid
