"""Judges published Adams, and measures what each of their claims is needed for."""

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from setadam_conformance.judging.bench import Bench, NonconformingError
from setadam_conformance.protocol import Adapter, Capabilities, ProtocolError
from setadam_conformance.reporting import from_json
from setadam_conformance.running.backends import Source
from setadam_conformance.running.examples import examples, quietly
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.results import Run

HERE = Path(__file__).parent

# What each claim that widens a bound or changes a formula is without.
PLAIN: dict[str, Any] = {
    "corrections": "accurate",
    "epsilon": "given",
    "float32_scalars": (),
    "corrected_moments": False,
    "recomputes_moments": False,
}


@dataclass
class Judged:
    """One framework's run, and the worst error/bound of `one-step` without each claim, by backend, claim and dtype."""

    name: str
    run: Run
    without: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


def judge(backend: str, name: str, profile: str, folder: Path) -> Judged:
    """The verdict of the command on a framework or a program. Its report stays in the folder, under the name."""
    report = folder / name.replace(" ", "-")
    command = [sys.executable, "-m", "setadam_conformance", "run", "--backend", backend, "--profile", profile]
    expect = ["--expect", str(HERE / "expectations.toml")]
    subprocess.run([*command, *expect, "--report", str(report), "--summary"], check=False)
    return Judged(name, from_json(json.loads((report / "report.json").read_text(encoding="utf-8"))))


def without_claims(source: Source) -> dict[str, dict[str, float]]:
    """The worst error/bound of `one-step` in the quick profile, by claim and dtype, if one claim is not made."""
    adapter = source.make("cpu")
    own = adapter.capabilities
    made = [claim for claim, plain in PLAIN.items() if getattr(own, claim) != plain]
    return {claim: _worst(adapter, source, replace(own, **{claim: PLAIN[claim]})) for claim in made}


def _worst(adapter: Adapter, source: Source, claims: Capabilities) -> dict[str, float]:
    worst: dict[str, float] = {}
    for cell in plan({source: claims}, profile=PROFILES["quick"], properties=("one-step",)):
        bench = Bench(_Claiming(adapter, claims), cell.dtype)
        with quietly(), np.errstate(all="ignore"):
            for case in examples(cell, claims):
                try:
                    bench.conform(case)
                except (NonconformingError, ProtocolError):
                    continue
        worst[cell.dtype] = max(score.ratio for score in bench.score.values())
    return worst


class _Claiming:
    """An adapter that makes other claims."""

    def __init__(self, adapter: Adapter, claims: Capabilities) -> None:
        self._adapter, self.capabilities = adapter, claims

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)
