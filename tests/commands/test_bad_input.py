"""Bad input ends with one sentence and status 2 (1 for a full disk), and nothing is lost."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rtdlm import evaluate, generate, prepare, train
from rtdlm.checkpoint import newest_complete
from tests.commands.conftest import arguments


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("error: ")
    return error.removeprefix("error: ").rstrip()


def missing(path: Path) -> None:
    del path


def empty(path: Path) -> None:
    path.write_bytes(b"")


def junk(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def latin(path: Path) -> None:
    path.write_bytes(b"a line of plain text\n" * 50 + b"caf\xe9\n" + b"more\n" * 50)


@pytest.mark.parametrize("command", [train.main, prepare.main])
@pytest.mark.parametrize(
    ("write", "part"),
    [
        (missing, "does not exist"),
        (empty, "is empty"),
        (junk, "binary"),
        (latin, "UTF-8"),
    ],
)
def test_unusable_text_is_named(
    command: Callable[[list[str]], int],
    write: Callable[[Path], None],
    part: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "given.txt"
    write(path)
    assert command(["--text", str(path), "--out", str(tmp_path / "out")]) == 2
    sentence = told(capsys)
    assert str(path) in sentence
    assert part in sentence


@pytest.fixture
def shards(trained: Path, tmp_path: Path) -> Path:
    """A copy of the small run's shards, to be damaged."""
    return Path(shutil.copytree(trained / "data", tmp_path / "shards"))


def truncate(shards: Path) -> None:
    shard = shards / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def replace_ids(shards: Path) -> None:
    """A shard of the right size with an id beyond the vocabulary, at odds with its checksum."""
    shard = shards / "train-00000.safetensors"
    ids = load_file(shard)["input_ids"]
    ids[7] = 60_000
    save_file({"input_ids": ids}, shard)


def edit_manifest(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][0]["tokens"] += 1
    (shards / "manifest.json").write_text(json.dumps(manifest))


def swap_tokenizer(shards: Path) -> None:
    tokenizer = shards / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|document|>", "<|other|>"))


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (truncate, ("train-00000.safetensors",)),
        (replace_ids, ("train-00000.safetensors", "60000")),
        (edit_manifest, ("train-00000.safetensors", "its manifest says")),
        (swap_tokenizer, ("tokenizer.json",)),
    ],
)
def test_damaged_shards_are_named(
    damage: Callable[[Path], None],
    parts: tuple[str, ...],
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(shards)
    given = ["--data-dir", str(shards), "--out", str(tmp_path / "out"), "--steps", "5"]
    assert train.main([*given, "--set", "d_model=32", "num_layers=1", "d_ff=32"]) == 2
    sentence = told(capsys).replace("60,000", "60000")
    for part in parts:
        assert part in sentence


def test_a_foreign_shard_with_an_id_beyond_the_vocabulary_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "rows"
    directory.mkdir()
    ids = np.random.default_rng(0).integers(0, 50, size=(64, 33), dtype=np.int32)
    ids[13, 5] = 999
    save_file({"input_ids": ids}, directory / "rows.safetensors")
    fields = ("vocab_size=50", "max_seq_len=32", "d_model=32", "num_layers=1", "d_ff=32")
    given = ["--data-dir", str(directory), "--out", str(tmp_path / "out"), "--steps", "30"]
    assert train.main([*given, "--set", *fields]) == 2
    sentence = told(capsys)
    assert "999" in sentence
    assert "50" in sentence


@pytest.mark.parametrize("command", [evaluate.main, generate.main])
def test_a_missing_checkpoint_is_named(
    command: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ["--prompt", "a"] if command is generate.main else []
    assert command(["--checkpoint", str(tmp_path / "none"), *prompt]) == 2
    assert str(tmp_path / "none") in told(capsys)


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
from rtdlm.train import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_while_saving_leaves_the_last_good_checkpoint(
    text: Path, tmp_path: Path
) -> None:
    # A file-size limit between the parameters' file and the moments' stands in for the full disk.
    out = tmp_path / "out"
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert train.main(arguments(text, out, "--steps", "5", fields=("mesh.data=8",))) == 0
    fields = ("mesh.data=1", "precision.compute=float32")
    command = arguments(text, out, "--steps", "20", "--resume", fields=fields)
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *command],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert "checkpoint at step 10 could not be written" in ended.stderr
    assert "the last good checkpoint is step 5" in ended.stderr
    assert "Traceback" not in ended.stderr
    found = newest_complete(out / "checkpoints")
    assert found.snapshot is not None
    assert (found.snapshot.step, found.passed_over) == (5, {})
