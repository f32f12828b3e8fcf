"""A run as JUnit XML: a suite for each backend, a test case for each cell."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from setadam_conformance.running.results import Cell, Run

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(run: Run, path: Path) -> None:
    """Write the file. A cell that does not conform is a failure; a backend that broke or is missing is an error."""
    root = ET.Element("testsuites", name="setadam-conformance", time=f"{run.seconds:.3f}")
    suites = {backend.name: [cell for cell in run.cells if cell.backend == backend.name] for backend in run.backends}
    for backend in run.backends:
        if backend.missing:
            suites[backend.name].append(Cell("loads", backend.name, "any", status="skip", reason=backend.missing))
    rest = [cell for cell in run.cells if cell.backend not in suites]  # of expectations that match nothing
    if not run.complete:
        rest.append(Cell("complete", "run", "any", status="error", reason="the run was interrupted"))
    for name, cells in (suites | ({"run": rest} if rest else {})).items():
        suite = ET.SubElement(root, "testsuite", name=_legal(name), timestamp=run.started)
        for cell in cells:
            _case(suite, cell)
        for kind, tag in (("tests", "testcase"), ("failures", "*/failure"), ("errors", "*/error")):
            suite.set(kind, str(len(suite.findall(tag))))
        suite.set("skipped", str(len(suite.findall("*/skipped"))))
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _case(suite: ET.Element, cell: Cell) -> None:
    name = f"{cell.property}[{cell.dtype}]"
    case = ET.SubElement(
        suite, "testcase", classname=_legal(cell.backend), name=_legal(name), time=f"{cell.seconds:.3f}"
    )
    said = [cell.reason, cell.failure.message if cell.failure else ""]
    text = "\n".join(filter(None, said))
    tag = {"pass": None, "skip": "skipped", "xfail": "skipped", "error": "error"}.get(cell.status, "failure")
    if tag:
        entry = ET.SubElement(case, tag, message=_legal(text or cell.status))
        entry.text = _legal(cell.failure.snippet if cell.failure else text)


def _legal(text: str) -> str:
    """The text with U+FFFD in the place of each character that XML 1.0 does not allow."""
    return _ILLEGAL.sub("\ufffd", text)
