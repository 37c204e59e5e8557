"""`python -m benchmarks speculative`: tokens/s with a draft, beside plain cached decoding.

A target and a much smaller draft are trained briefly on the same text by the training command.
Then the target continues a prompt of that text's kind: alone, with the draft, and with its own
first layers as the draft (which nothing has trained to be one). How often a draft is right depends
on how well either model knows the text, so tokens a call are told beside the speed.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from benchmarks.runner import Case, Plan, interleave, ratios, samples, tell, threads_named
from benchmarks.text import add_text_flag
from benchmarks.training import run_training
from rtdlm.data import prepare
from rtdlm.evaluation.results import Result

DESCRIPTION = "tokens/s of speculative decoding, and tokens a call of the model"
REPEATS = 3
PLAIN = "plain"
DRAFTED = 4
TOKENS, STEPS = 192, 200
TEMPERATURES = {"greedy": 0.0, "drawn": 1.0}
COMMON = ("max_seq_len=256", "batch_size=4", "evaluation.num_batches=2")
TARGET = ("d_model=384", "num_layers=6", "num_heads=6", "num_kv_heads=2", "d_ff=1024")
DRAFT = ("d_model=96", "num_layers=1", "num_heads=2", "num_kv_heads=1", "d_ff=256")
LAYERS = 2
SMOKE = ("d_model=16", "num_layers=2", "num_heads=2", "num_kv_heads=1", "d_ff=16",
         "max_seq_len=32", "batch_size=8", "optimizer.warmup_steps=1")  # fmt: skip


def add_flags(parser: ArgumentParser) -> None:
    """Adds `--text`."""
    add_text_flag(parser)


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of both ways to sample, for every number of threads."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="rtdlm-benchmark-") as directory:
        target, draft = _train(Path(directory), flags.text, smoke=plan.smoke)
        for threads in plan.threads:
            for name, temperature in TEMPERATURES.items():
                common = {
                    "checkpoint": str(target), "temperature": temperature,
                    "tokens": 16 if plan.smoke else TOKENS, "tries": 1 if plan.smoke else 3,
                }  # fmt: skip
                results += _measured(
                    f"{name}, {threads_named(threads)}", common, draft, plan, threads
                )
    return results


def _measured(
    title: str, common: dict[str, Any], draft: Path, plan: Plan, threads: int
) -> list[Result]:
    layers = 1 if plan.smoke else LAYERS
    drafts: dict[str, dict[str, Any]] = {
        PLAIN: {},
        f"draft model, {DRAFTED} tokens": {"draft": str(draft), "drafted": DRAFTED},
        f"first {layers} layers, {DRAFTED} tokens": {"layers": layers, "drafted": DRAFTED},
    }
    module = "benchmarks.sides.our_speculative"
    cases = {
        f"{title}/{name}": Case(module, {**common, **own}, threads) for name, own in drafts.items()
    }
    answers = interleave(cases, repeats=plan.repeats)
    plain = samples(answers[f"{title}/{PLAIN}"], "speed")
    results = []
    for name, found in answers.items():
        speed = samples(found, "speed")
        results.append(Result.median(f"{name}/speed", speed, "tokens/s"))
        results.append(Result.median(f"{name}/tokens a call", samples(found, "a_call"), "tokens"))
        if not name.endswith(PLAIN):
            results.append(Result.median(f"{name}/over plain", ratios(speed, plain), "x"))
    return results


def _train(directory: Path, text: Path, *, smoke: bool) -> tuple[Path, Path]:
    """Runs of the target and of the draft."""
    shards = directory / "shards"
    documents = directory / "text"
    documents.mkdir()
    # The held-out share is one of documents, of which a text file is one.
    for number, scene in enumerate(_pieces(text.read_text(encoding="utf-8"))):
        (documents / f"{number:03}.txt").write_text(scene, encoding="utf-8")
    prepare([str(documents)], shards, tokenizer="byte", vocab_size=257, held_out_fraction=0.05)
    for name, fields in (("target", TARGET), ("draft", DRAFT)):
        tell(f"training the {name}")
        own = SMOKE if smoke else (*COMMON, *fields)
        run_training(shards, directory / name, steps=4 if smoke else STEPS, seed=0, fields=own)
    return directory / "target", directory / "draft"


def _pieces(text: str) -> list[str]:
    size = max(len(text) // 100, 1)
    return [text[start : start + size] for start in range(0, len(text), size)]
