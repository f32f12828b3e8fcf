"""A failing example as a complete program, which prints the results of the formula and of the backend."""

import json

from setadam_conformance.cases.case import Case, case_to_json
from setadam_conformance.running.backends import Source


def snippet(case: Case, source: Source, prop: str) -> str:
    """Python code that repeats the step on the backend and on the specification, bit for bit."""
    data = json.dumps(case_to_json(case), indent=1)
    return f'''# {prop} on {source.name}, {case.dtype}
import json
from setadam_conformance.running.backends import select
from setadam_conformance.judging.bench import Bench
from setadam_conformance.cases.case import case_from_json
from setadam_conformance.judging.exact import exact_step
from setadam_conformance.judging.judge import judge

case = case_from_json(json.loads("""{data}"""))
(source,) = select([{source.name!r}])
adapter = source.make("cpu")
answer = Bench(adapter, case.dtype).step(case)
for layer, param in zip(case.layers, answer.params):
    print("formula:", [float(x) for x in exact_step(case, layer).theta][:8])
    print("backend:", param.ravel()[:8])
print(judge(case, answer.params, answer.states, adapter.capabilities))
'''
