"""A generator out of a checkpoint."""

from pathlib import Path

import numpy as np
import pytest

from rtdlm.checkpoint import CheckpointStore, Snapshot
from rtdlm.checkpoint.tree import flatten_tree
from rtdlm.config import to_yaml
from rtdlm.config.errors import UserError
from rtdlm.data import byte_tokenizer
from rtdlm.inference import load_generator
from tests.inference.writers import GREEDY, PROMPTS, letters_generator, letters_model


def save(run: Path, *, tokenizer: bytes | None) -> Path:
    """A run with one checkpoint of the letters model; returns the checkpoint."""
    model, params = letters_model()
    snapshot = Snapshot(
        step=7,
        params=flatten_tree(params),
        optimizer={"count": np.zeros((), np.int32)},
        state={},
        config=to_yaml(model.config),
        tokenizer=tokenizer,
    )
    with CheckpointStore(run, keep_last=1, keep_every=0, part_bytes=10**9) as store:
        store.save(snapshot, best=True)
    return run / "checkpoints" / "step_00000007"


def test_a_checkpoint_writes_what_its_model_writes(tmp_path: Path) -> None:
    step = save(tmp_path, tokenizer=byte_tokenizer().definition)
    expected = letters_generator().generate(PROMPTS, GREEDY)
    for path in (tmp_path, step.parent, step):
        assert load_generator(path).generate(PROMPTS, GREEDY) == expected


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path) -> None:
    step = save(tmp_path, tokenizer=None)
    with pytest.raises(UserError) as raised:
        load_generator(tmp_path)
    assert str(raised.value) == (
        f"checkpoint {step} brings no tokenizer, so it can neither read nor write text; train on "
        "shards with a tokenizer.json beside them"
    )
