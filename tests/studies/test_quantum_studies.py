"""The studies of quantum circuits in models: their sides by hand, and each once at a tiny size."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig
from rtdlm.evaluation.results import read_results
from rtdlm.models.cost import count_parameters
from studies import quantum_digits, quantum_text
from studies.__main__ import main
from studies.kinds import SIZES
from studies.quantum_digits import FROZEN, SMOKE, WHOLE, Digits

EXAMPLES = Digits(jnp.linspace(0.0, 1.0, 128).reshape(2, 64), jnp.array([3, 7]))


@pytest.mark.parametrize("size", [WHOLE, SMOKE], ids=["whole", "smoke"])
def test_the_dense_layers_have_the_parameters_of_the_circuit(size: quantum_digits.Size) -> None:
    def parameters(name: str) -> int:
        net = quantum_digits.net(quantum_digits.middles(size)[name], size)
        shapes = jax.eval_shape(net.init, jax.random.key(0), EXAMPLES)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert parameters("dense") == parameters("quantum") > parameters("tanh")


def test_a_frozen_circuit_gets_no_gradient_and_the_rest_does() -> None:
    net = quantum_digits.net(quantum_digits.middles(SMOKE)[FROZEN], SMOKE)
    params = jax.jit(net.init)(jax.random.key(0), EXAMPLES)

    def slopes(frozen: bool) -> dict[str, float]:
        loss = partial(quantum_digits.loss, net, frozen=frozen)
        grads = jax.jit(jax.grad(loss))(params, EXAMPLES)
        return {
            path: float(np.abs(own.get("w", own.get("angles"))).max())
            for path, own in grads.items()
        }

    assert slopes(True)["circuit"] == 0.0 < slopes(False)["circuit"]
    assert slopes(True)["first"] == slopes(False)["first"] > 0.0


def test_sides_of_the_text_have_equal_parameters() -> None:
    base = {**SIZES["small"].config, "vocab_size": 65}
    found = {v.name: AGIConfig.from_dict({**base, **v.change}) for v in quantum_text.variants(base)}
    sizes = {name: count_parameters(config).total for name, config in found.items()}
    assert sizes["quantum: a circuit"] == sizes["quantum: a circuit, frozen"]
    for ours, wide in (
        ("quantum: a circuit", "no circuit"),
        ("quantum: overlap of states", "no overlap"),
    ):
        ratio = sizes[f"{wide}: as many parameters"] / sizes[ours]
        assert 0.995 < ratio < 1.005


def test_halves_of_the_digits_are_apart() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits")
    train, test = quantum_digits.digits()
    rows = {row.tobytes() for row in np.asarray(train.pixels_BP)}
    assert len(train.class_B) + len(test.class_B) == 1797
    assert sum(row.tobytes() in rows for row in np.asarray(test.pixels_BP)) <= 2
    assert float(train.pixels_BP.max()) == 1.0 and set(np.asarray(test.class_B)) == set(range(10))


def test_digits_run(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits")
    out = tmp_path / "found.json"
    assert main(["quantum_digits", "--smoke", "--out", str(out)]) == 0
    names = [result.name for result in read_results(out).results]
    assert "quantum/right" in names and f"{FROZEN}/right" in names


def test_text_runs(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert main(["quantum_text", "--smoke", "--only", "frozen", "--out", str(out)]) == 0
    assert any("frozen" in result.name for result in read_results(out).results)
