"""`prepare` killed at every write it makes, and finished by a second call."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtdlm.config.errors import UserError
from rtdlm.data import read_manifest
from tests.data.corpora import content, prepare_bytes, write_stories, write_stories_and_book

# Runs `prepare` in one forked process after the other. Process n kills itself at write n: with half
# of the bytes written, with all of them under another name, or with the file in its place.
KILLED = """
import os, pathlib, signal, sys
import rtdlm.data.encode
from tests.data.corpora import prepare_bytes

text, root = map(pathlib.Path, sys.argv[1:3])
rtdlm.data.encode._BATCH_CHARACTERS = 1000
replace = pathlib.Path.replace

def run(number):
    left = number

    def die():
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(path, target):
        size = path.stat().st_size
        if left == 1:
            os.truncate(path, size // 2)
        die()
        if left == 0:
            os.truncate(path, size)
        die()
        result = replace(path, target)
        die()
        return result

    pathlib.Path.replace = counted
    prepare_bytes([text], root / str(number), shard_tokens=4000)

for number in range(1, 1000):
    child = os.fork()
    if child == 0:
        run(number)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number - 1)
        break
"""


def test_killed_anywhere_then_finished_is_the_same_bytes(tmp_path, monkeypatch) -> None:
    text = write_stories_and_book(tmp_path / "stories")
    monkeypatch.setattr("rtdlm.data.encode._BATCH_CHARACTERS", 1000)
    manifest = prepare_bytes([text], tmp_path / "whole", shard_tokens=4000)
    expected = content(tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(text), str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Three moments at each write: tokenizer, plan, the shards and a journal a chunk, manifest.
    kills, chunks = int(killed.stdout), len(manifest.of("train"))
    assert chunks == 4
    assert kills == 3 * (3 + len(manifest.shards) + chunks)
    for number in range(1, kills + 1):
        out = tmp_path / str(number)
        assert content(out) != expected or number > kills - 2
        prepare_bytes([text], out, shard_tokens=4000)
        assert content(out) == expected, f"killed at moment {number}"


def test_finished_shards_are_not_made_again(tmp_path, monkeypatch) -> None:
    text = write_stories(tmp_path / "stories", count=60)
    monkeypatch.setattr("rtdlm.data.encode._BATCH_CHARACTERS", 1000)
    events = []

    class Stop(Exception):
        pass

    def stop(event) -> None:
        events.append(event)
        if event.tokens > 12_000:
            raise Stop

    with pytest.raises(Stop):
        prepare_bytes([text], tmp_path / "out", shard_tokens=4000, progress=stop)
    first = (tmp_path / "out" / "train-00000.safetensors").stat().st_ino
    with pytest.raises(UserError, match="only partly prepared; run the same prepare command"):
        read_manifest(tmp_path / "out")
    events.clear()
    prepare_bytes([text], tmp_path / "out", shard_tokens=4000, progress=events.append)
    assert events[0].stage == "encode"  # Neither read nor trained again,
    assert events[0].tokens > 8_000  # and two chunks were there.
    assert (tmp_path / "out" / "train-00000.safetensors").stat().st_ino == first


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 100)])
def test_a_damaged_shard_of_an_unfinished_run_is_made_again(tmp_path, monkeypatch, damage) -> None:
    text = write_stories(tmp_path / "stories", count=60)
    monkeypatch.setattr("rtdlm.data.encode._BATCH_CHARACTERS", 1000)
    prepare_bytes([text], tmp_path / "whole", shard_tokens=4000)

    def stop(event) -> None:
        if event.tokens > 12_000:
            damage(tmp_path / "out" / "heldout-00001.safetensors")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_bytes([text], tmp_path / "out", shard_tokens=4000, progress=stop)
    prepare_bytes([text], tmp_path / "out", shard_tokens=4000)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
