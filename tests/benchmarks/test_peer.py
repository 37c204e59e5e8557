import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.peer.shape import Shape
from benchmarks.shapes import our_config
from rtdlm.models import TMSModel
from tests.benchmarks.weights import to_peer

torch = pytest.importorskip("torch", reason="the peer needs PyTorch: pip install 'rtdlm[bench]'")

from benchmarks.peer.generate import draw, generate, generate_cached  # noqa: E402
from benchmarks.peer.gpt import GPT  # noqa: E402
from benchmarks.peer.llama import Llama  # noqa: E402
from benchmarks.peer.recipe import Recipe, Trainer, make_model, make_optimizer  # noqa: E402

GPT_SHAPE = Shape("gpt", 13, length=12, d_model=16, num_layers=2, d_ff=24)
LLAMA_SHAPE = Shape("llama", 13, length=12, d_model=16, num_layers=2, num_kv_heads=2, d_ff=24)
SHAPES = {"gpt": GPT_SHAPE, "llama": LLAMA_SHAPE}
IDS = np.random.default_rng(1).integers(13, size=(3, 12))
LABELS = np.random.default_rng(2).integers(13, size=(3, 12))


def scrambled(model: TMSModel) -> Any:
    """Parameters of which none is at a value that hides its use, such as a scale of one."""
    params = jax.jit(model.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    noisy = [leaf + np.float32(0.3) * rng.normal(size=leaf.shape).astype("f4") for leaf in leaves]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(params=SHAPES, scope="module")
def both(request: pytest.FixtureRequest) -> tuple[TMSModel, Any, Any]:
    """Our model, its parameters, and the peer with the same ones."""
    shape = SHAPES[request.param]
    model = TMSModel(our_config(shape))
    params, peer = scrambled(model), make_model(shape)
    weights = {k: torch.tensor(v) for k, v in to_peer(params, shape).items()}
    missing, unexpected = peer.load_state_dict(weights, strict=False)
    assert not unexpected
    assert missing == (["head.weight"] if shape.architecture == "gpt" else [])  # it is tied
    return model, params, peer


def test_the_peer_has_our_logits(both: tuple[TMSModel, Any, Any]) -> None:
    model, params, peer = both
    ours = np.asarray(jax.jit(model.logits)(params, jnp.asarray(IDS, jnp.int32)))
    theirs = peer.logits(torch.tensor(IDS)).detach().numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * np.abs(ours).max())


def test_the_peer_has_our_loss_and_gradient(both: tuple[TMSModel, Any, Any]) -> None:
    model, params, peer = both
    ids, labels = jnp.asarray(IDS, jnp.int32), jnp.asarray(LABELS, jnp.int32)

    def loss(params: Any) -> jax.Array:
        return jnp.mean(model.scores(params, ids, labels).tokens.nll)

    our_loss, our_gradient = jax.jit(jax.value_and_grad(loss))(params)
    their_loss = peer(torch.tensor(IDS), torch.tensor(LABELS))
    their_loss.backward()
    np.testing.assert_allclose(their_loss.item(), our_loss, rtol=1e-5)
    theirs = {name: weight.grad.numpy() for name, weight in peer.named_parameters()}
    ours = to_peer(our_gradient, peer.shape)
    assert theirs.keys() == ours.keys()
    for name, gradient in ours.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(theirs[name] / scale, gradient / scale, atol=1e-4, err_msg=name)


def numpy_gpt(state: dict[str, np.ndarray], ids_T: np.ndarray, shape: Shape) -> np.ndarray:
    """GPT-2's forward pass for one row, in loops and float64."""

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return scale * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    erf = np.vectorize(math.erf)
    x = state["embedding.weight"][ids_T] + state["position.weight"][: len(ids_T)]
    for layer in range(shape.num_layers):
        w = {k.removeprefix(f"blocks.{layer}."): v for k, v in state.items()}
        q, k, v = np.split(norm(x, w["attention_norm.weight"]) @ w["attention.qkv.weight"].T, 3, 1)
        read = np.zeros_like(x)
        for head in range(shape.num_heads):
            part = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
            for t in range(len(ids_T)):
                scores = k[: t + 1, part] @ q[t, part] / math.sqrt(shape.head_dim)
                weights = np.exp(scores - scores.max())
                read[t, part] = weights / weights.sum() @ v[: t + 1, part]
        x = x + read @ w["attention.output.weight"].T
        hidden = norm(x, w["feedforward_norm.weight"]) @ w["up.weight"].T
        x = x + 0.5 * hidden * (1 + erf(hidden / math.sqrt(2))) @ w["down.weight"].T
    return norm(x, state["final_norm.weight"]) @ state["embedding.weight"].T


def test_the_gpt_is_gpt_2_without_biases() -> None:
    torch.manual_seed(0)
    model = GPT(GPT_SHAPE)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    state = {name: weight.detach().double().numpy() for name, weight in model.named_parameters()}
    found = model.logits(torch.tensor(IDS[:1])).detach().numpy()[0]
    np.testing.assert_allclose(found, numpy_gpt(state, IDS[0], GPT_SHAPE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_writes_into_the_stream_starts_smaller(shape: Shape) -> None:
    torch.manual_seed(0)
    wide = Shape(shape.architecture, 64, d_model=64, num_layers=8, num_heads=4, d_ff=128)
    for name, weight in make_model(wide).named_parameters():
        if weight.dim() == 1:
            assert bool((weight == 1).all()), name
            continue
        writes = name.endswith(("output.weight", "down.weight"))
        expected = 0.02 / 4 if writes else 0.02
        assert weight.std().item() == pytest.approx(expected, rel=0.06), name


def test_both_generation_loops_write_the_same() -> None:
    torch.manual_seed(0)
    model = Llama(LLAMA_SHAPE)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    prompt = torch.tensor(IDS[:, :4])
    greedy = generate(model, prompt, 8, temperature=0.0, top_k=5)
    assert greedy.shape == (3, 12)
    assert len(set(greedy[0].tolist())) > 2  # not one token over and over
    assert torch.equal(generate_cached(model, prompt, 8, temperature=0.0, top_k=5), greedy)


def test_drawing_keeps_the_likeliest() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, 4)
    share = draw(logits, temperature=0.5, top_k=2).flatten().bincount(minlength=4) / 4000
    assert share[:2].tolist() == [0.0, 0.0]
    assert share[3].item() == pytest.approx(1 / (1 + math.exp(-2)), abs=0.02)


def test_rates_are_warm_up_and_cosine() -> None:
    recipe = Recipe(steps=10, warmup_steps=2, learning_rate=9.0, final_learning_rate=1.0)
    cosine = [1 + 4 * (1 + math.cos(math.pi * k / 8)) for k in range(9)]
    expected = [3.0, 6.0, *cosine]
    assert [recipe.rate(step) for step in range(11)] == pytest.approx(expected)
    linear = Recipe(
        steps=4, warmup_steps=0, learning_rate=4.0, final_learning_rate=0.0, schedule="linear"
    )
    assert [linear.rate(step) for step in range(5)] == [4.0, 3.0, 2.0, 1.0, 0.0]


def test_only_matrices_decay() -> None:
    model = GPT(GPT_SHAPE)
    decays = {
        id(weight): group["weight_decay"]
        for group in make_optimizer(model, Recipe()).param_groups
        for weight in group["params"]
    }
    found = {name: decays[id(weight)] for name, weight in model.named_parameters()}
    assert set(found.values()) == {0.0, 0.1}
    assert {name for name, decay in found.items() if decay == 0.0} == {
        name for name in found if "norm" in name
    }


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_step_learns_a_batch(bfloat16: bool) -> None:
    torch.manual_seed(0)
    recipe = Recipe(steps=60, warmup_steps=2, learning_rate=1e-2)
    trainer = Trainer(make_model(LLAMA_SHAPE), recipe, bfloat16=bfloat16)
    ids, labels = torch.tensor(IDS), torch.tensor(LABELS)
    losses = [trainer.step(ids, labels).item() for _ in range(60)]
    assert losses[0] == pytest.approx(math.log(13), rel=0.05)
    assert losses[-1] < 0.5 * losses[0]
