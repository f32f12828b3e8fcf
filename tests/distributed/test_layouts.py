"""See checks_layouts."""

import pytest

pytest.importorskip("torch")
import launch

ANY = [
    "every_layout_for_50_steps",
    "every_dtype",
    "layers_within_a_parameter",
    "bad_shards_spoil_their_layer_alone",
    "gradients_placed_otherwise",
    "statistics_are_those_of_one_process",
    "capturable_steps_read_nothing",
    "what_does_not_fit_is_refused",
]
FOUR = ["meshes_of_two_dimensions", "several_meshes", "three_dimensions"]
CASES = [(2, check) for check in ANY] + [(4, check) for check in (*ANY, *FOUR)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    both = {n: launch.run("checks_layouts", n, folder / str(n), [c for m, c in CASES if m == n])[0] for n in (2, 4)}
    return {(n, check): said for n, of in both.items() for check, said in of.items()}


@pytest.mark.parametrize(("world", "check"), CASES)
def test_sharded_steps(results, world, check):
    assert results[world, check] is None, results[world, check]
