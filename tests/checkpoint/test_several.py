"""One checkpoint by several processes: complete for all or for none."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtdlm.checkpoint import (
    CheckpointStore,
    NewestComplete,
    Saved,
    Snapshot,
    load_model,
    manifest,
    newest_complete,
)
from rtdlm.checkpoint import store as store_module
from rtdlm.config.errors import StorageError, UserError
from rtdlm.disk import HashingFile
from tests.checkpoint.group import Member, joined, own, together
from tests.checkpoint.runs import digest, open_store, snapshot_at


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def save(store: CheckpointStore, member: Member, step: int, *, best: bool = False) -> None:
    store.save(own(snapshot_at(step), member), best=best)
    store.wait()


def saved_by(root: Path, count: int, steps: list[int], **options: Any) -> list[list[Saved]]:
    """What each of `count` processes is told after it saved those steps."""

    def act(member: Member) -> list[Saved]:
        with open_store(root, group=member, **options) as store:
            for step in steps:
                save(store, member, step, best=step == steps[0])
            return store.poll()

    return together(count, act)


def found(newest: NewestComplete) -> tuple[str | None, Any]:
    """What a process found, bit by bit."""
    snapshot = newest.snapshot
    return None if snapshot is None else digest(joined(snapshot)), newest.passed_over


@pytest.mark.parametrize("count", [2, 3, 4])
def test_what_several_save_is_what_one_would(tmp_path: Path, count: int) -> None:
    path = tmp_path / "checkpoints" / "step_00000005"
    assert saved_by(tmp_path, count, [5]) == [[Saved(5, path, True)]] * count
    expected = digest(snapshot_at(5))
    assert found(newest_complete(path.parent)) == (expected, {})
    together_found = together(count, lambda member: found(newest_complete(path.parent, member)))
    assert together_found == [(expected, {})] * count
    model = load_model(tmp_path)
    assert (model.step, model.config, model.tokenizer) == (
        5, snapshot_at(5).config, snapshot_at(5).tokenizer
    )  # fmt: skip
    assert digest(Snapshot(5, model.params, {}, {}, "")) == digest(
        Snapshot(5, snapshot_at(5).params, {}, {}, "")
    )
    with open_store(tmp_path) as store:
        assert digest(joined(store.load(5))) == expected


def test_each_has_files_of_its_own_and_the_first_those_that_all_have_alike(tmp_path: Path) -> None:
    saved_by(tmp_path, 2, [5], part_bytes=10**6)
    assert names(tmp_path) == ["best", "step_00000005"]
    assert sorted(path.name for path in (tmp_path / "checkpoints/step_00000005").iterdir()) == [
        "COMMITTED",
        "config.yaml",
        "manifest.json",
        "model.p00000.safetensors",
        "model.p00001.safetensors",
        "optimizer.p00000.safetensors",
        "optimizer.p00001.safetensors",
        "state.json",
        "tokenizer.json",
    ]


def test_a_directory_of_one_is_read_by_several_and_the_other_way_round(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(snapshot_at(1))

    def act(member: Member) -> list[Any]:
        with open_store(tmp_path, group=member) as store:
            before = found(store.newest_complete())
            save(store, member, 2)
            return [before, store.steps()]

    assert together(3, act) == [[(digest(snapshot_at(1)), {}), [1, 2]]] * 3
    with open_store(tmp_path) as store:
        assert found(store.newest_complete()) == (digest(snapshot_at(2)), {})
        store.save(snapshot_at(3))
        store.wait()
        assert store.steps() == [2, 3]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep_last": 1}, [1, 4]),
        ({"keep_last": 2}, [1, 3, 4]),
        ({"keep_last": 1, "keep_every": 2}, [1, 2, 4]),
    ],
)
def test_retention_and_the_best_are_as_for_one(
    tmp_path: Path, options: dict[str, int], kept: list[int]
) -> None:
    told = saved_by(tmp_path, 2, [1, 2, 3, 4], **options)
    assert [[saved.step for saved in each] for each in told] == [[1, 2, 3, 4]] * 2
    assert names(tmp_path) == ["best", *(f"step_{step:08d}" for step in kept)]
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_00000001\n"


def test_nothing_is_complete_before_all_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_wrote, last_may_write = threading.Barrier(3), threading.Event()
    write_files = store_module.write_files

    def write(*args: Any, process: int, **kwargs: Any) -> Any:
        if process == 2:
            assert last_may_write.wait(30)
            return write_files(*args, process=process, **kwargs)
        files = write_files(*args, process=process, **kwargs)
        others_wrote.wait(30)
        return files

    def act(member: Member) -> Any:
        with open_store(tmp_path, group=member) as store:
            store.save(own(snapshot_at(1), member))
            if member.process == 2:
                others_wrote.wait(30)
                assert names(tmp_path) == [".writing-step_00000001"]
                assert newest_complete(tmp_path / "checkpoints") == (None, {})
                assert not (tmp_path / "checkpoints/.writing-step_00000001/COMMITTED").exists()
                last_may_write.set()
            store.wait()
            return store.steps()

    monkeypatch.setattr(store_module, "write_files", write)
    assert together(3, act) == [[1]] * 3


# ----------------------------------------------------------------------------------------- one lock


def test_the_leader_holds_the_lock_for_all_and_a_second_run_is_refused(tmp_path: Path) -> None:
    def second() -> list[Any]:
        return together(3, lambda member: open_store(tmp_path, group=member))

    def act(member: Member) -> Any:
        with open_store(tmp_path, group=member) as store:
            assert (store._lock is not None) == member.leads
            refused = second() if member.leads else None
            save(store, member, 1)
            return refused

    refused, *_ = together(2, act)
    assert [type(error) for error in refused] == [UserError] * 3
    [sentence] = {str(error) for error in refused}
    assert sentence.startswith(f"{tmp_path} is being written by process {os.getpid()} on ")
    assert names(tmp_path) == ["step_00000001"], "who was refused must not touch anything"
    for store in second():
        assert isinstance(store, CheckpointStore)
        store.close()


# --------------------------------------------------------------------------- when the disk refuses


def refuse_files(
    monkeypatch: pytest.MonkeyPatch, has: Callable[[str], bool], code: int = errno.ENOSPC
) -> None:
    """Half of what goes into such files is written, then the disk is full."""
    write = HashingFile.write

    def fail(file: HashingFile, data: bytes) -> None:
        if has(file._file.name):
            write(file, data[: len(data) // 2])
            raise OSError(code, os.strerror(code))
        write(file, data)

    monkeypatch.setattr(HashingFile, "write", fail)


@pytest.mark.parametrize(
    "part",
    [
        *("/model.p00000", "/model.p00001", "/optimizer.p00002", ".safetensors"),
        *("/state.json", "/tokenizer.json", "/manifest.json", "/COMMITTED"),
    ],
)
def test_when_one_cannot_write_all_are_told_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    saved_by(tmp_path, 3, [50])
    before = names(tmp_path)
    refuse_files(monkeypatch, lambda name: "step_00000100" in name and part in name)

    def act(member: Member) -> Any:
        with open_store(tmp_path, group=member) as store:
            with pytest.raises(StorageError) as error:
                save(store, member, 100)
            if member.leads:  # the others do not wait for it to tidy up
                assert names(tmp_path) == before
            assert store.poll() == []
            intact = found(store.newest_complete())
            save(store, member, 150)
            return str(error.value), intact, store.steps()

    sentence = (
        f"checkpoint at step 100 could not be written to {tmp_path}/checkpoints: No space left on "
        "device; free 1 MB or choose another directory; the last good checkpoint is step 50"
    )
    assert together(3, act) == [(sentence, (digest(snapshot_at(50)), {}), [50, 150])] * 3
    assert names(tmp_path) == [*before, "step_00000150"]


def test_a_directory_that_the_leader_cannot_make_is_told_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name.startswith(".writing-"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    errors = saved_by(tmp_path, 3, [1])
    assert [type(error) for error in errors] == [StorageError] * 3
    assert {str(error) for error in errors} == {
        f"checkpoint at step 1 could not be written to {tmp_path}/checkpoints: Permission denied; "
        "mend that or choose another directory; there is no older one"
    }


# ------------------------------------------------------------------------------------------- damage


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("model.p00000.safetensors", "the contents of {} changed since it was saved"),
        ("optimizer.p00001.safetensors", "the contents of {} changed since it was saved"),
        ("model.p00002.safetensors", "the contents of {} changed since it was saved"),
        ("manifest.json", "the contents of {} changed since it was saved"),
        ("COMMITTED", "it has no {} marker, so it is half-written"),
        ("optimizer.p00002.safetensors", "{} is missing"),
    ],
)
def test_damage_to_one_part_is_passed_over_by_all_for_one_reason(
    tmp_path: Path, file: str, problem: str
) -> None:
    saved_by(tmp_path, 3, [1, 2], part_bytes=10**6)
    damaged = tmp_path / "checkpoints" / "step_00000002" / file
    damaged.unlink() if "contents" not in problem else flip(damaged, -1)
    reason = f"checkpoint {damaged.parent} is passed over: {problem.format(file)}"
    expected = (digest(snapshot_at(1)), {2: reason})

    def act(member: Member) -> Any:
        with open_store(tmp_path, group=member) as store:
            newest = found(store.newest_complete())
            steps = [store.steps()]
            save(store, member, 2)
            return newest, [*steps, store.steps()]

    assert found(newest_complete(damaged.parent.parent)) == expected
    assert together(3, act) == [(expected, [[1], [1, 2]])] * 3
    assert found(newest_complete(damaged.parent.parent)) == (digest(snapshot_at(2)), {})


def test_each_verifies_a_share_and_together_they_verify_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_by(tmp_path, 3, [1])
    hashed: dict[int, list[str]] = {}
    hash_file = manifest.hash_file

    def note(path: Path) -> str:
        if path.name != manifest.MANIFEST:  # which all read
            hashed.setdefault(threading.get_ident(), []).append(path.name)
        return hash_file(path)

    monkeypatch.setattr(manifest, "hash_file", note)
    together(3, lambda member: newest_complete(tmp_path / "checkpoints", member))
    files = manifest.read_manifest(tmp_path / "checkpoints" / "step_00000001").files
    assert sorted(name for names in hashed.values() for name in names) == sorted(files)
    sizes = sorted(map(len, hashed.values()))
    assert len(sizes) == 3
    assert sizes[-1] - sizes[0] <= 1


def test_what_keeps_the_leader_from_the_disk_ends_all_for_that_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(store: CheckpointStore) -> Any:
        raise StorageError("no room")

    monkeypatch.setattr(CheckpointStore, "_open", broken)
    found = together(3, lambda member: open_store(tmp_path, group=member))
    assert [(type(error), str(error)) for error in found] == [(StorageError, "no room")] * 3
