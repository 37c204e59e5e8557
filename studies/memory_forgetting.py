"""`python -m studies memory_forgetting`: which slots of a full episodic store should give way.

A stream offers segments of tokens, half of them noise that never comes again, half mentions of
facts, each with a key of its own that a mention or a question meets with a little noise. Facts are
mentioned and asked for by a popularity that falls like 1 / rank; there are many times more facts
than slots. A question is right if what is read has the fact's value for its larger part. Told are
the questions in the second half of the stream, about facts that were mentioned before.

    steady    the popularity stays
    drift     pairs of facts exchange their popularity all the time
    recent    questions are about the last mentions, popular or not
    changes   steady, but a mention now and then gives the fact a new value, which is then right

`best` is what the slots could answer if they always held the most popular facts and nothing else.
The formula of `adaptive`, its constants and its half-life were chosen on streams of other seeds.

Axes: N segments, B seeds, S tokens of a segment, Q questions, F facts, H heads, E head features.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from functools import partial
from statistics import stdev
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.runner import tell
from rtdlm.evaluation.results import Bar, Result
from rtdlm.modules.memory import Reading, Store, mark_used, read_store, write_store
from rtdlm.parallel import keep_compiled_programs

DESCRIPTION = "what a full episodic memory should forget: by age, use, surprise, or all of them"
SEEDS = 16
STREAMS = ("steady", "drift", "recent", "changes")
FIRST_SEED = 1000
"""Seeds below were for choosing."""


class Size(NamedTuple):
    """A stream and the store that it meets."""

    facts: int
    slots: int
    segments: int
    tokens: int
    """Of a segment; so many questions are asked before it, too."""
    swaps: int
    """Pairs of facts that exchange popularity in each segment of `drift`."""
    heads: int = 2
    features: int = 32


WHOLE = Size(facts=1024, slots=128, segments=512, tokens=16, swaps=8)
SMOKE = Size(facts=64, slots=16, segments=16, tokens=8, swaps=1)
NOISE_SHARE, CHANGE_SHARE = 0.5, 0.1
KEY_NOISE = 0.3
"""Length of what is added to a key, itself of length 1, each time that it is met."""
SCALE, NULL, TOP_K = 20.0, 8.0, 8


class Policy(NamedTuple):
    """One way to forget."""

    forget: str
    half_life: float | None = None
    """Of use [stores full of offered tokens]; None is `write_store`'s own."""
    by_error: bool = False
    """Whether surprise is how far what is read is from the token's value, instead of novelty."""


POLICIES = {
    "age": Policy("age"),
    "use": Policy("use"),
    "use, half-life 0.5": Policy("use", 0.5),
    "use, half-life 2": Policy("use", 2.0),
    "surprise": Policy("surprise"),
    "adaptive": Policy("adaptive"),
    "adaptive, half-life 2": Policy("adaptive", 2.0),
    "adaptive, surprise by error": Policy("adaptive", by_error=True),
}


class Stream(NamedTuple):
    """What happens; facts are numbers below F, noise has numbers from F on, values their own."""

    mention_NBS: np.ndarray
    value_NBS: np.ndarray
    asked_NBQ: np.ndarray
    right_NBQ: np.ndarray
    """The value that is right."""
    popular_NBQ: np.ndarray
    """Whether the fact is among the most popular that the slots could hold."""


def add_flags(parser: ArgumentParser) -> None:
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "memory_forgetting"


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every stream."""
    keep_compiled_programs()
    size = SMOKE if flags.smoke else WHOLE
    seeds = flags.seeds or (2 if flags.smoke else SEEDS)
    found: list[Result] = []
    for kind in STREAMS:
        streams = draw(size, kind, range(FIRST_SEED, FIRST_SEED + seeds))
        right = {name: run(size, streams, policy) for name, policy in POLICIES.items()}
        found += results(kind, right, streams)
        shares = ", ".join(f"{name} {np.mean(share):.1%}" for name, share in right.items())
        tell(f"{kind}: {shares}")
        yield found


def results(kind: str, right: Mapping[str, np.ndarray], streams: Stream) -> list[Result]:
    """What is told of one kind of stream; shares of right answers are `[B]`."""
    found = []
    for name, share_B in right.items():
        found.append(Result.mean(f"{kind}, {name}/right", (100 * share_B).tolist(), "%"))
        if name == "age":
            continue
        gain_B = 100 * (share_B - right["age"])
        error = 2 * stdev(gain_B.tolist()) / len(gain_B) ** 0.5 if len(gain_B) > 1 else 0.0
        bar: Bar | None = None
        if name == "adaptive" and kind in ("steady", "drift"):
            bar = (">=", error)
        case = f"{kind}, {name}"
        found.append(Result.mean(f"{case}/over age", gain_B.tolist(), "points", bar=bar))
        found.append(Result(f"{case}/twice its standard error", error, "points"))
    half = len(streams.popular_NBQ) // 2
    best_B = 100 * np.mean(streams.popular_NBQ[half:], axis=(0, 2))
    return [*found, Result.mean(f"{kind}, best/right", best_B.tolist(), "%")]


def draw(size: Size, kind: str, seeds: range) -> Stream:
    """One stream a seed."""
    one = [_draw(size, kind, np.random.default_rng([seed, STREAMS.index(kind)])) for seed in seeds]
    return Stream(*(np.stack(field, axis=1) for field in zip(*one, strict=True)))


def _draw(size: Size, kind: str, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    chance_F = 1 / np.arange(1, size.facts + 1)
    rank_F = np.arange(size.facts)
    value_F = np.full(size.facts, -1)
    noise, fresh = size.facts, size.facts
    recent: list[int] = []
    told = []
    for _ in range(size.segments):
        if kind == "drift":
            for one, other in random.integers(size.facts, size=(size.swaps, 2)):
                rank_F[[one, other]] = rank_F[[other, one]]
        weight_F = chance_F[rank_F]
        # Nothing is asked before anything was mentioned: -1 is right for the first segment.
        known_F = weight_F * (value_F >= 0)
        asked_Q = np.zeros(size.tokens, int)
        if recent:
            known_F = known_F / known_F.sum()
            asked_Q = random.choice(size.facts, size=size.tokens, p=known_F)
            if kind == "recent":
                asked_Q = random.choice(recent, size=size.tokens)
        right_Q = value_F[asked_Q]
        mention_S = random.choice(size.facts, size=size.tokens, p=weight_F / weight_F.sum())
        noisy_S = random.random(size.tokens) < NOISE_SHARE
        value_S = np.empty(size.tokens, int)
        for place, fact in enumerate(mention_S):
            if noisy_S[place]:
                mention_S[place] = noise
                noise, value_S[place], fresh = noise + 1, fresh, fresh + 1
                continue
            changes = kind == "changes" and random.random() < CHANGE_SHARE
            if changes or value_F[fact] < 0:
                value_F[fact], fresh = fresh, fresh + 1
            value_S[place] = value_F[fact]
            recent = [*recent, int(fact)][-size.slots // 4 :]
        told.append((mention_S, value_S, asked_Q, right_Q, rank_F[asked_Q] < size.slots))
    return tuple(np.stack(field) for field in zip(*told, strict=True))


def run(size: Size, streams: Stream, policy: Policy) -> np.ndarray:
    """`[B]`: share of right answers in the second half of each stream."""
    right_NBQ = np.asarray(_run(size, policy, jax.tree.map(jnp.asarray, streams)))
    return right_NBQ[len(right_NBQ) // 2 :].mean(axis=(0, 2))


@partial(jax.jit, static_argnums=(0, 1))
def _run(size: Size, policy: Policy, streams: Stream) -> jax.Array:
    """`[N, B, Q]` bool."""
    seeds = streams.mention_NBS.shape[1]
    ones = jnp.ones(streams.mention_NBS.shape[1:], jnp.int32)
    half_life = None if policy.half_life is None else policy.half_life * size.slots

    def meet(store: Store, given: tuple[Stream, jax.Array]) -> tuple[Store, jax.Array]:
        segment, number = given
        mention, value, asked, right = (jnp.asarray(numbers) for numbers in segment[:4])
        for_mentions, for_questions = jax.random.split(
            jax.random.fold_in(jax.random.key(1), number)
        )
        question = _noisy(_vectors(size, 0, asked), for_questions)
        likeness, reading = _answer(size, store, question, right)
        store = mark_used(store, reading.used_BM)
        key = _noisy(_vectors(size, 0, mention), for_mentions)
        surprise = None
        if policy.by_error:
            expected, _ = _answer(size, store, key, value)
            surprise = jnp.clip(1.0 - expected, 0.0, 1.0)
        store = write_store(
            store,
            key,
            _vectors(size, 1, value),
            ones,
            mention,
            surprise_BS=surprise,
            forget=policy.forget,
            half_life=half_life,
        )
        return store, likeness > 0.5

    empty = Store.empty(seeds, size.slots, size.heads, size.features)
    numbers = jnp.arange(len(streams.mention_NBS))
    return jax.lax.scan(meet, empty, (streams, numbers))[1]


def _answer(
    size: Size, store: Store, query_BQHE: jax.Array, value_BQ: jax.Array
) -> tuple[jax.Array, Reading]:
    """How much of a value `[B, Q]` is in what is read."""
    reading = read_store(
        query_BQHE,
        store,
        jnp.ones_like(value_BQ),
        top_k=TOP_K,
        scale_H=jnp.full(size.heads, SCALE),
        null_H=jnp.full(size.heads, NULL),
        any_label=False,
    )
    wanted_BQHE = _vectors(size, 1, value_BQ)
    return jnp.mean(jnp.sum(reading.read_BTHE * wanted_BQHE, axis=-1), axis=-1), reading


def _vectors(size: Size, kind: int, number_BS: jax.Array) -> jax.Array:
    """`[B, S, H, E]`: the unit vector, one a head, that belongs to each number."""
    root = jax.random.fold_in(jax.random.key(0), kind)

    def one(number: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(root, number), (size.heads, size.features))

    return _unit(jax.vmap(jax.vmap(one))(number_BS))


def _noisy(key_BSHE: jax.Array, random: jax.Array) -> jax.Array:
    noise = _unit(jax.random.normal(random, key_BSHE.shape))
    return _unit(key_BSHE + KEY_NOISE * noise)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
