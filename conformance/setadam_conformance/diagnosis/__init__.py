"""What is wrong with a backend that fails: the stage that parts, the classes that matter, and the line that it may be.

In this folder: what explains failures that `running` has found. Not in it: verdicts. `failures` brings the parts
together: `trying` runs a step, `contrast` says under which classes it is wrong, and `places` where to look; `numbers`
and `moments` say which number or weights would explain it, `suspects` which seeded fault gives the same answers.
`simplest` looks for an example that can be read, and `tracing` shows it, formula beside answer.
"""

from setadam_conformance.diagnosis.failures import cause_of, diagnose
from setadam_conformance.diagnosis.tracing import trace_of

__all__ = ["cause_of", "diagnose", "trace_of"]
