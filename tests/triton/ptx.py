"""What compiled kernels say of themselves, in PTX, without a GPU."""

import re

ARCHITECTURES = (75, 80, 90, 100, 120)


def loads_after(what: str, ptx: str) -> list[str]:
    """Loads that follow an instruction without a branch's target in between: they are issued after it."""
    late = []
    for block in re.split(r"^\$L__BB\w+:", ptx, flags=re.MULTILINE):
        begun = re.search(rf"\b{what}", block)
        late += re.findall(r"\bld\.global\S*", block[begun.start() :]) if begun else []
    return late


ROOT = r"(sqrt|div)\.rn\.f"
