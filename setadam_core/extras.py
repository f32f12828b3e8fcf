"""What to install, where a library that is not required of everyone is missing: for error messages."""

from importlib import metadata


def pip_install(extra: str) -> str:
    """The command that installs the libraries of an extra.

    It names these libraries and their lower bounds, from the metadata of the installed distribution, and not
    ``setadam[extra]``: so it works wherever setadam itself came from, and before it is on a package index. Without
    metadata, as in a mere copy of the source, it is that of a checkout.
    """
    try:
        required = metadata.requires("setadam") or []
    except metadata.PackageNotFoundError:
        required = []
    parts = (line.partition(";") for line in required)
    names = [name.strip() for name, _, marker in parts if marker.replace('"', "'").strip() == f"extra == '{extra}'"]
    return " ".join(["pip install", *(f'"{name}"' for name in names or [f".[{extra}]"])])
