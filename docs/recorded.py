"""Write docs/_static/play/recorded.js, the layers of docs/play.md: make figures

Five coordinates from `setadam_core.show.demo`, and the second moments of 2304 weights while a network learns
(`run` in docs/figures.py). These are kept as bfloat16, in base64: three digits, in 4608 bytes a step.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import figures
import numpy as np
import torch

from setadam_core.show import demo

TARGET = Path(__file__).parent / "_static/play/recorded.js"
HEAD = """/* Made by docs/recorded.py: the layers that docs/play.md shows.
 *
 * FIVE: as in setadam_core.show.demo, before its tenth step.
 * WEIGHTS: of a convolution of docs/figures.py, v after these steps, as bfloat16 in base64, little-endian.
 */
"""


def packed(v: Any) -> str:
    """float32 to bfloat16, to nearest, in base64."""
    bits = v.to(torch.bfloat16).flatten().view(torch.uint16).numpy()
    return base64.b64encode(bits.astype("<u2").tobytes()).decode()


def unpacked(text: str) -> Any:
    """As the page reads it: float64."""
    bits = np.frombuffer(base64.b64decode(text), "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).astype(np.float64)


def source(seconds: Mapping[int, Any]) -> str:
    """The module, given v after each step that is shown."""
    arrays = {"param": demo.PARAM, "grad": demo.GRAD, "m": demo.STATE.m, "v": demo.STATE.v}
    five = {name: x.tolist() for name, x in arrays.items()} | {"t": demo.STATE.t}
    weights = "".join(f"  {t}: {json.dumps(packed(v))},\n" for t, v in seconds.items())
    return f"{HEAD}\nexport const FIVE = {json.dumps(five)};\n\nexport const WEIGHTS = {{\n{weights}}};\n"


def main() -> None:
    torch.set_num_threads(1)  # so that sums have one order
    TARGET.write_text(source(figures.run("SET-Adam").seconds), encoding="utf-8")
    print(TARGET)


if __name__ == "__main__":
    main()
