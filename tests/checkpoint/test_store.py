"""What is saved, what stays, and what happens when the disk refuses."""

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rtdlm.checkpoint import Saved, Snapshot
from rtdlm.checkpoint import store as store_module
from rtdlm.config.errors import StorageError, UserError
from rtdlm.disk import HashingFile
from tests.checkpoint.runs import digest, open_store, snapshot_at

ROOT = Path(__file__).resolve().parents[2]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def best_file(root: Path) -> str:
    return (root / "checkpoints" / "best").read_text()


def test_what_is_saved_is_loaded_bitwise(tmp_path: Path) -> None:
    ours = snapshot_at(5)
    with open_store(tmp_path) as store:
        assert store.newest_complete() == (None, {})
        assert (store.steps(), store.best_step) == ([], None)
        store.save(ours)
        store.wait()
        newest = store.newest_complete().snapshot
        assert newest is not None
        assert digest(newest) == digest(store.load(5)) == digest(ours)
        assert store.steps() == [5]
    assert sorted(path.name for path in (tmp_path / "checkpoints/step_00000005").iterdir()) == [
        "COMMITTED",
        "config.yaml",
        "manifest.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "optimizer-00001-of-00003.safetensors",
        "optimizer-00002-of-00003.safetensors",
        "optimizer-00003-of-00003.safetensors",
        "optimizer.safetensors.index.json",
        "state.json",
        "tokenizer.json",
    ]


def test_numbers_in_the_state_come_back_bitwise(tmp_path: Path) -> None:
    state = {"best": float("inf"), "loss": 0.1 + 0.2, "tiny": 5e-324, "seed": 2**63, "text": "é"}
    with open_store(tmp_path) as store:
        store.save(Snapshot(1, {}, {}, state, "name: é\n"))
        store.wait()
        loaded = store.load(1)
    assert (dict(loaded.state), loaded.config) == (state, "name: é\n")


@pytest.mark.parametrize(
    ("options", "best", "kept", "best_step"),
    [
        ({"keep_last": 1}, [], [6], None),
        ({"keep_last": 2}, [1], [1, 5, 6], 1),
        ({"keep_last": 2}, [1, 3], [3, 5, 6], 3),
        ({"keep_last": 1, "keep_every": 2}, [3], [2, 3, 4, 6], 3),
        ({"keep_last": 2}, [1, 6], [5, 6], 6),
    ],
)
def test_retention_over_six_saves(
    tmp_path: Path, options: Any, best: list[int], kept: list[int], best_step: int | None
) -> None:
    with open_store(tmp_path, **options) as store:
        for step in range(1, 7):
            store.save(snapshot_at(step), best=step in best)
        store.wait()
        assert (store.steps(), store.best_step) == (kept, best_step)
    pointer = [] if best_step is None else ["best"]
    assert names(tmp_path) == pointer + [f"step_{step:08d}" for step in kept]
    if best_step is not None:
        assert best_file(tmp_path) == f"step_{best_step:08d}\n"


def test_the_best_stays_until_a_better_one_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path, keep_last=1) as store:
        store.save(snapshot_at(1), best=True)
        store.save(snapshot_at(2))
        store.wait()
        fail_after(monkeypatch, 0)
        store.save(snapshot_at(3), best=True)
        with pytest.raises(StorageError):
            store.wait()
        monkeypatch.undo()
        assert (store.steps(), store.best_step) == ([1, 2], 1)
        store.save(snapshot_at(3), best=True)
        store.wait()
        assert (store.steps(), store.best_step) == ([3], 3)


def test_poll_tells_what_was_committed_once(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.poll() == []
        store.save(snapshot_at(1), best=True)
        store.save(snapshot_at(2))
        store.wait()
        assert store.poll() == [
            Saved(1, tmp_path / "checkpoints" / "step_00000001", True),
            Saved(2, tmp_path / "checkpoints" / "step_00000002", False),
        ]
        assert store.poll() == []


def test_saving_returns_while_the_disk_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, started = threading.Event(), threading.Event()
    write_snapshot = store_module.write_snapshot

    def wait_and_write(*args: Any, **kwargs: Any) -> None:
        started.set()
        assert allowed.wait(60)
        write_snapshot(*args, **kwargs)

    monkeypatch.setattr(store_module, "write_snapshot", wait_and_write)
    with open_store(tmp_path) as store:
        store.save(snapshot_at(1))
        assert started.wait(60)
        assert (store.poll(), store.steps()) == ([], [])
        allowed.set()
        store.wait()
        assert store.steps() == [1]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(snapshot_at(1))
        store.save(Snapshot(1, {}, {}, {"again": True}, "", None), best=True)
        store.wait()
        assert store.load(1).state == {"again": True}
        assert store.best_step == 1
    assert names(tmp_path) == ["best", "step_00000001"]


def test_a_missing_step_is_one_sentence(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for step in (3, 7):
            store.save(snapshot_at(step))
        store.wait()
        with pytest.raises(UserError) as error:
            store.load(5)
    assert str(error.value) == (
        f"{tmp_path}/checkpoints has no checkpoint at step 5; the steps there are: 3, 7"
    )


def test_a_damaged_checkpoint_neither_counts_nor_disappears(tmp_path: Path) -> None:
    with open_store(tmp_path, keep_last=1) as store:
        store.save(snapshot_at(1), best=True)
    with open_store(tmp_path, keep_last=2) as store:
        store.save(snapshot_at(2))
        store.save(snapshot_at(9), best=True)
    damaged = tmp_path / "checkpoints" / "step_00000009" / "state.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"9", b"8"))
    with open_store(tmp_path, keep_last=1) as store:
        found = store.newest_complete()
        assert found.snapshot is not None
        assert (found.snapshot.step, list(found.passed_over)) == (2, [9])
        assert store.steps() == [2]
        store.save(snapshot_at(3))
        store.wait()
        assert store.steps() == [3]
        assert (damaged.parent).exists()
        store.save(snapshot_at(9))
        store.wait()
        assert store.steps() == [9]
    assert names(tmp_path) == ["step_00000009"]


def test_two_stores_cannot_share_a_directory(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        leftover = tmp_path / "checkpoints" / ".writing-step_00000001"
        leftover.mkdir()
        with pytest.raises(UserError, match=r"is being written by process \d+ on "):
            open_store(tmp_path)
        assert leftover.exists(), "a second store must not touch what the first is writing"
        leftover.rmdir()
        store.save(snapshot_at(1))
    store.close()
    open_store(tmp_path).close()


def test_the_next_start_tidies_up_after_a_kill(tmp_path: Path) -> None:
    with open_store(tmp_path, keep_last=3) as store:
        for step in (1, 2, 3):
            store.save(snapshot_at(step), best=step == 2)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / ".writing-step_00000004").mkdir()
    (checkpoints / "step_00000001").rename(checkpoints / ".deleted-step_00000001")
    (checkpoints / "step_00000003").rename(checkpoints / ".replaced-step_00000003")
    (checkpoints / "best").write_text("step_00000001\n")
    with open_store(tmp_path) as store:
        assert store.steps() == [2, 3]
        assert digest(store.load(3)) == digest(snapshot_at(3))
    assert names(tmp_path) == ["best", "step_00000002", "step_00000003"]
    assert best_file(tmp_path) == "step_00000002\n"


# --------------------------------------------------------------------------- when the disk refuses


def fail_after(monkeypatch: pytest.MonkeyPatch, writes: int, code: int = errno.ENOSPC) -> None:
    """Lets `writes` writes through, then fails each further one."""
    write, done = HashingFile.write, iter(range(writes))

    def fail(file: HashingFile, data: bytes) -> None:
        if next(done, None) is None:
            write(file, data[: len(data) // 2])
            raise OSError(code, os.strerror(code))
        write(file, data)

    monkeypatch.setattr(HashingFile, "write", fail)


@pytest.mark.parametrize("writes", range(0, 20, 3))
def test_a_full_disk_leaves_older_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    with open_store(tmp_path) as store:
        store.save(snapshot_at(50))
        store.wait()
        before = names(tmp_path)
        fail_after(monkeypatch, writes)
        store.save(snapshot_at(100))
        with pytest.raises(StorageError) as error:
            store.wait()
        assert str(error.value) == (
            f"checkpoint at step 100 could not be written to {tmp_path}/checkpoints: No space "
            "left on device; free 1 MB or choose another directory; the last good checkpoint is "
            "step 50"
        )
        monkeypatch.undo()
        assert names(tmp_path) == before
        assert digest(store.load(50)) == digest(snapshot_at(50))
        store.wait()  # the error was told once
        store.save(snapshot_at(100))
        store.wait()
        assert store.steps() == [50, 100]


@pytest.mark.parametrize("moment", ["save", "poll", "close"])
def test_the_next_call_tells_of_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store = open_store(tmp_path)
    fail_after(monkeypatch, 0)
    store.save(snapshot_at(1))
    assert store._pending is not None
    store._pending.exception(60)
    calls = {"save": lambda: store.save(snapshot_at(2)), "poll": store.poll, "close": store.close}
    with pytest.raises(StorageError, match=r"; there is no older one$"):
        calls[moment]()
    store.close()
    open_store(tmp_path).close()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EDQUOT, "Disk quota exceeded; free 1 MB or choose another directory"),
        (
            errno.EFBIG,
            "File too large; raise the file size limit (ulimit -f) or choose another directory",
        ),
        (errno.EIO, "Input/output error; mend that or choose another directory"),
    ],
)
def test_the_advice_fits_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    with open_store(tmp_path) as store:
        fail_after(monkeypatch, 2, code)
        store.save(snapshot_at(1))
        with pytest.raises(StorageError, match=re.escape(advice)):
            store.wait()


def test_a_mistake_in_the_program_is_no_storage_error(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(Snapshot(1, {}, {}, {"not": {1, 2}}, ""))
        with pytest.raises(TypeError, match="set is not JSON serializable"):
            store.wait()
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        open_store(tmp_path / "file")
    assert str(error.value) == (
        f"{tmp_path}/file is not a directory; choose another place to write to"
    )


def refuse(*_: object) -> None:
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_start_that_cannot_tidy_up_is_told_and_frees_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints" / ".writing-step_00000001").mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(StorageError) as error:
        open_store(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/checkpoints could not be written: Permission denied; mend that or choose "
        "another directory; what was written before is intact"
    )
    monkeypatch.undo()
    open_store(tmp_path).close()
    assert names(tmp_path) == []


def test_a_save_that_cannot_tidy_up_says_that_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path, keep_last=1) as store:
        store.save(snapshot_at(1))
        store.wait()
        monkeypatch.setattr("shutil.rmtree", refuse)
        store.save(snapshot_at(2))
        with pytest.raises(StorageError) as error:
            store.wait()
        assert store.steps() == [2]
    assert str(error.value) == (
        f"checkpoint at step 2 is saved, but older ones in {tmp_path}/checkpoints could not be "
        "tidied: Permission denied; mend that or choose another directory; what was written "
        "before is intact"
    )


def test_a_best_file_that_is_refused_is_named_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        monkeypatch.setattr(Path, "replace", refuse)
        store.save(snapshot_at(1), best=True)
        with pytest.raises(StorageError) as error:
            store.wait()
        assert (store.steps(), store.best_step) == ([1], 1)
    assert str(error.value) == (
        f"{tmp_path}/checkpoints/best could not be written: Permission denied; mend that or "
        "choose another directory; what was written before is intact"
    )


LIMITED = """
import resource, sys
from pathlib import Path
from rtdlm.config.errors import StorageError
from tests.checkpoint.runs import digest, open_store, snapshot_at

root = Path(sys.argv[1])
with open_store(root) as store:
    store.save(snapshot_at(1))
    store.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    store.save(snapshot_at(2))
    try:
        store.wait()
    except StorageError as error:
        print(error)
    assert digest(store.newest_complete().snapshot) == digest(snapshot_at(1))
print(sorted(path.name for path in (root / "checkpoints").iterdir()))
"""


def test_a_limit_of_the_operating_system(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == (
        f"checkpoint at step 2 could not be written to {tmp_path}/checkpoints: File too large; "
        "raise the file size limit (ulimit -f) or choose another directory; "
        "the last good checkpoint is step 1\n['step_00000001']\n"
    ), result.stderr
