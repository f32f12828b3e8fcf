import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for tables that programs of their own read too

torch = pytest.importorskip("torch")
torch.set_num_threads(2)
hypothesis.settings.register_profile("torch", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.load_profile("torch")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def in_process_group(monkeypatch) -> None:
    """As seen by what asks whether there is one: wrappers that flatten parameters need it."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
