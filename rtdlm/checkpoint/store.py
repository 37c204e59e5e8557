"""The checkpoints of one run: written in the background, atomic, and pruned.

    .writing-step_00000100/    filled, marker last, synced
    step_00000100/             the same after one rename: complete or absent
    best                       names the newest checkpoint that was the best when saved
    .replaced-*  .deleted-*    on their way out; put right at the next start after a kill

A store locks the run's directory, so hidden directories that it finds are those of a process that
died. Several processes write one directory together, each files of its own; the marker comes when
all of them said that theirs are on the disk.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from rtdlm.checkpoint.group import Alone, Group
from rtdlm.checkpoint.manifest import DamageError, Manifest, read_manifest
from rtdlm.checkpoint.reading import (
    BEST,
    CHECKPOINTS,
    NewestComplete,
    load_checkpoint,
    newest_complete,
    step_directories,
    step_name,
)
from rtdlm.checkpoint.retention import steps_to_keep
from rtdlm.checkpoint.snapshot import Snapshot, complete, write_files, write_snapshot
from rtdlm.config.errors import StorageError, UserError
from rtdlm.disk import (
    DirectoryLock,
    FileRecord,
    make_directory,
    refused,
    replace_file,
    sync_directory,
    telling,
    writing,
)

WRITING = ".writing-"
REPLACED = ".replaced-"
DELETED = ".deleted-"


class Saved(NamedTuple):
    """A checkpoint that was committed."""

    step: int
    path: Path
    best: bool


class CheckpointStore:
    """The checkpoints under `root/checkpoints`, with `root` locked against other writers.

    Args:
        root: the run's output directory; made if absent.
        keep_last: newest checkpoints that stay, at least 1.
        keep_every: multiples of this step stay for good; 0 keeps none so [steps].
        part_bytes: largest safetensors file [bytes].
        group: the processes of a run that write together into a `root` that all of them see, each
            what it holds; they call every method alike. None is one alone.

    Raises:
        UserError: another process writes to `root`, or it is no directory.
        StorageError: `root` cannot be written.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        keep_last: int,
        keep_every: int,
        part_bytes: int,
        group: Group | None = None,
    ) -> None:
        self.root = Path(root)
        self._directory = self.root / CHECKPOINTS
        self._keep_last, self._keep_every = keep_last, keep_every
        self._part_bytes = part_bytes
        self._passed_over: set[int] = set()
        self._saved: list[Saved] = []
        self._pending: Future[Saved] | None = None
        self._group = Alone() if group is None else group
        self._lock = self._open_together()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def save(self, snapshot: Snapshot, *, best: bool = False) -> None:
        """Starts writing `snapshot`; waits first for the one before it.

        To hold one snapshot in memory at a time, call `wait` before taking the next.

        Args:
            snapshot: must not change any more.
            best: its held-out loss is the lowest so far; it stays until a better one is committed.

        Raises:
            StorageError: the one before it could not be written.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, snapshot, best)

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
            StorageError: the checkpoint could not be written; older ones are intact.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._saved.append(pending.result())

    def poll(self) -> list[Saved]:
        """What was committed since the last call, without waiting; raises as `wait` does."""
        if self._pending is not None and self._pending.done():
            self.wait()
        saved, self._saved = self._saved, []
        return saved

    def close(self) -> None:
        """Waits, then releases the lock; raises as `wait` does. A second call does nothing."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first, judged by marker and file sizes."""
        return list(self._complete())

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint; None when none was saved as such."""
        return max((step for step, entry in self._complete().items() if entry.best), default=None)

    def newest_complete(self) -> NewestComplete:
        """The newest checkpoint that verifies in full, and why each newer one was passed over."""
        found = newest_complete(self._directory, self._group)
        self._passed_over |= set(found.passed_over)
        return found

    def load(self, step: int) -> Snapshot:
        """The verified snapshot of one step.

        Raises:
            UserError: there is none, or it is damaged.
        """
        directories = step_directories(self._directory)
        if step not in directories:
            known = ", ".join(map(str, directories)) or "none"
            raise UserError(
                f"{self._directory} has no checkpoint at step {step}; the steps there are: {known}"
            )
        return load_checkpoint(directories[step])

    def _open_together(self) -> DirectoryLock | None:
        """The leader holds the lock for all."""
        lock, problem = None, None
        if self._group.leads:
            try:
                lock = self._open()
            except (UserError, StorageError) as error:
                problem = (isinstance(error, StorageError), str(error))
        problem = self._group.follow("checkpoint/open", problem)
        if problem is not None:
            of_disk, sentence = problem
            raise StorageError(sentence) if of_disk else UserError(sentence)
        return lock

    def _open(self) -> DirectoryLock:
        make_directory(self._directory)
        lock = DirectoryLock(self.root)
        try:
            with writing(self._directory):
                self._tidy()
        except BaseException:
            lock.release()
            raise
        return lock

    def _complete(self) -> dict[int, Manifest]:
        entries = {}
        for step, path in step_directories(self._directory).items():
            with suppress(DamageError):  # what is damaged is named by newest_complete
                if step not in self._passed_over:
                    entries[step] = read_manifest(path)
        return entries

    def _write(self, snapshot: Snapshot, best: bool) -> Saved:
        path = self._directory / step_name(snapshot.step)
        if self._group.count > 1:
            self._commit_together(snapshot, path, best)
        else:
            self._commit(snapshot, path, best)
        if not self._group.leads:
            return Saved(snapshot.step, path, best)
        saved = f"checkpoint at step {snapshot.step} is saved"
        with telling(f"{saved}, but older ones in {self._directory} could not be tidied"):
            self._point_to_best()
            self._prune()
        return Saved(snapshot.step, path, best)

    def _commit(self, snapshot: Snapshot, path: Path, best: bool) -> None:
        temporary = self._directory / f"{WRITING}{path.name}"
        try:
            write_snapshot(snapshot, temporary, part_bytes=self._part_bytes, best=best)
            self._put_in_place(temporary, path)
            self._passed_over.discard(snapshot.step)
        except BaseException as error:
            with suppress(OSError):  # the error at hand matters; the next start tidies again
                self._tidy()
            if isinstance(error, OSError):
                raise self._failure(snapshot, error) from error
            raise

    def _commit_together(self, snapshot: Snapshot, path: Path, best: bool) -> None:
        """Every process writes what it holds; when all is on the disk the leader sets the marker.

        One that cannot write makes the save fail in all.
        """
        group, name = self._group, f"checkpoint/{snapshot.step}"
        temporary = self._directory / f"{WRITING}{path.name}"
        problem: str | None = None
        if group.leads:
            problem = self._attempt(snapshot, temporary.mkdir)
        problem = group.follow(f"{name}/made", problem)
        mine: dict[str, Any] = {"problem": problem, "files": {}}
        if problem is None:

            def write() -> None:
                files = write_files(
                    snapshot, temporary, part_bytes=self._part_bytes, process=group.process
                )
                mine["files"] = {file: record._asdict() for file, record in files.items()}

            mine["problem"] = self._attempt(snapshot, write)
        told = group.gather(f"{name}/written", mine)
        problem = next((each["problem"] for each in told if each["problem"] is not None), None)
        if group.leads and problem is None:

            def seal() -> None:
                files = {k: FileRecord(**v) for each in told for k, v in each["files"].items()}
                complete(temporary, step=snapshot.step, best=best, files=files)
                self._put_in_place(temporary, path)

            problem = self._attempt(snapshot, seal)
        problem = group.follow(f"{name}/sealed", problem)
        if problem is not None:
            if group.leads:
                with suppress(OSError):  # the next start tidies again
                    self._tidy()
            raise StorageError(problem)
        self._passed_over.discard(snapshot.step)

    def _attempt(self, snapshot: Snapshot, act: Callable[[], object]) -> str | None:
        """What went wrong on the disk, as a sentence."""
        try:
            act()
        except OSError as error:
            return str(self._failure(snapshot, error))
        return None

    def _put_in_place(self, temporary: Path, path: Path) -> None:
        replaced = self._directory / f"{REPLACED}{path.name}"
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        sync_directory(self._directory)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _point_to_best(self) -> None:
        """Brings the `best` file in line with the manifests, which are what counts."""
        best = self.best_step
        pointer, text = self._directory / BEST, f"{step_name(best)}\n" if best is not None else ""
        if best is None:
            pointer.unlink(missing_ok=True)
        elif not pointer.exists() or pointer.read_text(encoding="utf-8") != text:
            replace_file(pointer, text.encode())

    def _prune(self) -> None:
        steps = self.steps()
        keep = steps_to_keep(
            steps, best=self.best_step, keep_last=self._keep_last, keep_every=self._keep_every
        )
        for step in sorted(set(steps) - keep):
            path = self._directory / step_name(step)
            # Renamed first: a kill in between leaves no half-deleted checkpoint.
            shutil.rmtree(path.rename(self._directory / f"{DELETED}{path.name}"))

    def _tidy(self) -> None:
        """Removes what an interrupted save or deletion left, and undoes half a replacement."""
        for replaced in self._directory.glob(f"{REPLACED}*"):
            path = self._directory / replaced.name.removeprefix(REPLACED)
            if not path.exists():
                replaced.rename(path)
        for prefix in (WRITING, REPLACED, DELETED):
            for leftover in self._directory.glob(f"{prefix}*"):
                shutil.rmtree(leftover)
        self._point_to_best()

    def _failure(self, snapshot: Snapshot, error: OSError) -> StorageError:
        steps = self.steps()
        last = f"the last good checkpoint is step {steps[-1]}" if steps else "there is no older one"
        return refused(
            f"checkpoint at step {snapshot.step} could not be written to {self._directory}",
            error,
            room=f"free {max(1, -(-snapshot.nbytes // 10**6))} MB",
            left=last,
        )
