"""What `--from` finds and reads: which model, tokenizer and origin; and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from rtdlm.checkpoint import CheckpointStore, Snapshot
from rtdlm.checkpoint.group import Alone
from rtdlm.checkpoint.tree import flatten_tree
from rtdlm.config import AGIConfig, UserError, to_yaml
from rtdlm.data import Tokenizer, byte_tokenizer
from rtdlm.interop import write_pretrained, write_quantized_model
from rtdlm.interop.quantize import quantize_params
from rtdlm.models import TMSModel
from rtdlm.training.corpus import open_corpus
from rtdlm.training.source import Source, find_source, told
from rtdlm.training.state import state_of
from tests.checkpoint.group import Member, own, together
from tests.models.small import assert_trees_equal, random_params, small_config
from tests.training.runs import Run, flat

BYTES = byte_tokenizer()
CONFIG = small_config(vocab_size=384, qk_norm=False)
MODEL = TMSModel(CONFIG)
PARAMS = jax.tree.map(np.asarray, random_params(MODEL))


def save(out: Path, step: int, *, origin: Any = None, config: AGIConfig = CONFIG) -> Path:
    """A checkpoint of `PARAMS`; returns its directory."""
    snapshot = Snapshot(
        step=step,
        params=flatten_tree(PARAMS),
        optimizer={},
        state={"position": {}, "origin": origin},
        config=to_yaml(config),
        tokenizer=BYTES.definition,
    )
    with CheckpointStore(out, keep_last=2, keep_every=0, part_bytes=10_000) as store:
        store.save(snapshot)
    return out / "checkpoints" / f"step_{step:08d}"


def find(folder: Path, *, out: Path | None = None, resume: bool = False) -> Source:
    return find_source(folder, out=folder / "none" if out is None else out, resume=resume)


def test_a_run_of_ours(tmp_path: Path) -> None:
    earlier = {"folder": "elsewhere", "step": None, "sha256": "ab", "origin": None}
    save(tmp_path, 3)
    newest = save(tmp_path, 7, origin=earlier)
    source = find(tmp_path)
    assert source.config.replace(data={"tokenizer": "bpe"}) == CONFIG.replace(num_steps=None)
    assert source.config.data.tokenizer == str(newest / "tokenizer.json")
    assert source.tokenizer is not None and source.tokenizer.hash == BYTES.hash
    params, origin = source.read(MODEL, Alone())
    assert_trees_equal(params, PARAMS)
    committed = (newest / "COMMITTED").read_text().strip()
    assert origin == {
        "folder": str(tmp_path), "step": 7, "sha256": committed, "origin": earlier
    }  # fmt: skip
    assert told(origin) == f"{tmp_path} at step 7"
    assert find(tmp_path / "checkpoints" / "step_00000003").read(MODEL, Alone())[1]["step"] == 3


def test_a_folder_of_hugging_face_s_form(tmp_path: Path) -> None:
    write_pretrained(tmp_path, CONFIG, PARAMS, tokenizer=BYTES)
    source = find(tmp_path)
    assert (source.config.d_model, source.config.vocab_size) == (16, 384)
    assert source.config.data.tokenizer == str(tmp_path / "tokenizer.json")
    assert source.tokenizer is not None and source.tokenizer.hash == BYTES.hash
    params, origin = source.read(TMSModel(source.config), Alone())
    assert_trees_equal(params, PARAMS)
    assert (origin["folder"], origin["step"], origin["origin"]) == (str(tmp_path), None, None)
    assert told(origin) == str(tmp_path)
    changed = jax.tree.map(lambda leaf: leaf + 1, PARAMS)
    write_pretrained(tmp_path, CONFIG, changed, tokenizer=BYTES)
    assert find(tmp_path).read(MODEL, Alone())[1]["sha256"] != origin["sha256"]


def test_several_hosts_read_a_share_each_and_only_the_parts_that_they_place(
    tmp_path: Path,
) -> None:
    """A checkpoint that three processes wrote, read by two, and placed on eight devices."""
    whole = Snapshot(4, flatten_tree(PARAMS), {}, {}, to_yaml(CONFIG), BYTES.definition)

    def act(member: Member) -> None:
        with CheckpointStore(
            tmp_path, keep_last=1, keep_every=0, part_bytes=10**9, group=member
        ) as store:
            store.save(own(whole, member))

    assert together(3, act) == [None] * 3
    source = find(tmp_path)
    for params, origin in together(2, lambda member: source.read(MODEL, member)):
        assert origin["step"] == 4
        table = params["decoder"]["embedding"]
        assert not isinstance(table, np.ndarray), "no whole array is made"
        np.testing.assert_array_equal(table[:, 3:5], PARAMS["decoder"]["embedding"][:, 3:5])
        assert_trees_equal(jax.tree.map(np.asarray, params), PARAMS)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def refused(act: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as caught:
        act(*arguments, **named)
    return str(caught.value)


def test_weights_that_are_damaged_or_do_not_fit_are_told_when_they_are_read(tmp_path: Path) -> None:
    newest = save(tmp_path, 2)
    other = TMSModel(CONFIG.replace(d_ff=48))
    assert "of another shape or type (" in refused(find(tmp_path).read, other, Alone())
    source = find(tmp_path)
    part = next(newest.glob("model-00001*"))
    flip(part)
    sentence = f"checkpoint {newest} cannot be used: the contents of {part.name} changed since it"
    assert refused(source.read, MODEL, Alone()).startswith(sentence)
    found = together(2, lambda member: source.read(MODEL, member))
    assert all(str(error).startswith(sentence) for error in found), "both, whoever read it"


def test_weights_in_few_bits_are_refused(tmp_path: Path) -> None:
    few, theirs = tmp_path / "few", tmp_path / "theirs"
    write_quantized_model(few, CONFIG, quantize_params(PARAMS, "int8"))
    assert refused(find, few) == (
        f"{few} holds weights in few bits, from which no run can start; name the checkpoint that "
        "it was made of"
    )
    write_pretrained(theirs, CONFIG, PARAMS)
    tree = json.loads((theirs / "config.json").read_text())
    tree["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (theirs / "config.json").write_text(json.dumps(tree))
    assert "holds weights in few bits (quantization_config), and only" in refused(find, theirs)


def test_a_run_that_goes_on_needs_the_folder_no_more(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    origin = {"folder": str(base), "step": 2, "sha256": "ab", "origin": None}
    ours = CONFIG.replace(num_steps=9, data={"tokenizer": "base/tokenizer.json"})
    save(out, 5, origin=origin, config=ours)
    source = find(base, out=out, resume=True)
    assert (source.origin, source.config.data.tokenizer) == (origin, "base/tokenizer.json")
    assert source.tokenizer is not None and source.tokenizer.hash == BYTES.hash
    assert refused(find, tmp_path / "other", out=out, resume=True) == (
        f"the run in {out} started from {base}, not from {tmp_path}/other; name that to go on with "
        "it, or choose another --out"
    )
    save(out, 6)
    save(base, 3)
    assert find(base, out=out).read(MODEL, Alone())[1]["step"] == 3, "only --resume goes on"
    shutil.rmtree(base)
    assert refused(find, base, out=out, resume=True) == (
        f"the run in {out} did not start from another model, so that --from {base} has no effect; "
        "remove it, or choose another --out"
    )
    shutil.rmtree(out / "checkpoints")
    assert "does not exist" in refused(find, base, out=out, resume=True)


def given(tokenizer: Tokenizer | None) -> Source:
    return Source(Path("base"), CONFIG, tokenizer, None)


def test_text_needs_a_tokenizer_whose_tokens_the_model_knows(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text\n" * 90)
    config = CONFIG.replace(data={"text": [str(tmp_path / "text.txt")], "tokenizer": "t.json"})
    out = tmp_path / "out"
    assert refused(open_corpus, config, out, source=given(None)) == (
        "base brings no tokenizer.json, so that no text can be prepared for its model; put it "
        "there, or give shards to --data-dir"
    )
    large = given(BYTES)._replace(config=CONFIG.replace(vocab_size=256))
    assert refused(open_corpus, config, out, source=large) == (
        "the tokenizer in base has 257 tokens, the last being '<|document|>', and its model 256; "
        "remove from tokenizer.json what the model does not know, and name there a special token "
        "that ends texts"
    )
    assert not out.exists()
    corpus = open_corpus(config, out, source=given(BYTES))
    assert corpus.config.vocab_size == CONFIG.vocab_size, "the table keeps its rows"
    again = open_corpus(config, out, source=given(BYTES))
    assert again.loader.fingerprint == corpus.loader.fingerprint


def test_whose_tokenizer_goes_into_checkpoints_where_only_one_is_known(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 200, size=(64, 13), dtype=np.int32)
    save_file({"input_ids": rows}, tmp_path / "rows.safetensors")
    config = CONFIG.replace(data={"shards": [str(tmp_path)]})

    def kept(tokenizer: Tokenizer | None) -> bytes | None:
        return open_corpus(config, tmp_path, source=given(tokenizer)).tokenizer_file

    assert (kept(BYTES), kept(None)) == (BYTES.definition, None)
    BYTES.save(tmp_path)
    assert (kept(BYTES), kept(None)) == (BYTES.definition, BYTES.definition)


def test_parameters_of_a_source_lie_where_the_rules_say(tmp_path: Path) -> None:
    save(tmp_path, 1)
    run = Run(CONFIG.replace(optimizer={"name": "adamw"}), (1, 8, 1))
    params, _ = find(tmp_path).read(run.model, Alone())
    state = state_of(params, run.model, run.optimizer, run.mesh)
    assert_trees_equal(flat(state.params), flat(PARAMS))
    table = state.params["decoder"]["embedding"]
    assert {shard.data.shape for shard in table.addressable_shards} == {(384, 2)}
