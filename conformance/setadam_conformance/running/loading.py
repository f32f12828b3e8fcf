"""Which backends are being loaded in this process: a backend must not start a run from its own import."""

from collections.abc import Iterator
from contextlib import contextmanager

_LOADING: list[str] = []


@contextmanager
def loading(name: str) -> Iterator[None]:
    """While this backend is loaded."""
    _LOADING.append(name)
    try:
        yield
    finally:
        _LOADING.pop()


def check_not_loading() -> None:
    """Raise RuntimeError while a backend is loaded: a run that it starts would load it, which starts a run, …"""
    if _LOADING:
        raise RuntimeError(
            f"{_LOADING[-1]} runs setadam_conformance when it is imported: put that under `if __name__ == '__main__':`"
        )
