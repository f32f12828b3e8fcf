"""Reports of a run: tables in the terminal, JSON, one HTML page, JUnit XML, and the difference between two runs. They
read `running.results` and decide nothing.
"""

from setadam_conformance.reporting.diff import diff, print_diff
from setadam_conformance.reporting.terminal import print_tables
from setadam_conformance.reporting.to_html import write_html
from setadam_conformance.reporting.to_json import from_json, to_json, write_json
from setadam_conformance.reporting.to_junit import write_junit

__all__ = ["diff", "from_json", "print_diff", "print_tables", "to_json", "write_html", "write_json", "write_junit"]
