"""Dies before each operation that a save makes on the disk in turn, and looks at what is left.

Run as a program without JAX, so that it may fork. Prints the number of operations.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtdlm.checkpoint import newest_complete
from tests.checkpoint.runs import digest, open_store, snapshot_at

OPERATIONS = [
    (os, "rmdir"),
    (os, "unlink"),
    (Path, "mkdir"),
    (Path, "open"),
    (Path, "rename"),
    (Path, "replace"),
]


def die_before(number: int) -> None:
    """Ends this process, as kill -9 does, when it comes to operation `number`."""
    count = itertools.count()

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if next(count) == number:
                os._exit(9)
            return original(*args, **kwargs)

        return operation

    for owner, name in OPERATIONS:
        setattr(owner, name, wrap(getattr(owner, name)))
    # It guards against a loss of power, which cannot be had here; to do without saves time.
    os.fsync = wrap(lambda descriptor: None)


def save_two(root: Path) -> None:
    """Writes over the newest checkpoint, adds a better one and so deletes two old ones."""
    with open_store(root) as store:
        store.save(snapshot_at(3))
        store.save(snapshot_at(4), best=True)


def check(root: Path, *, allowed: set[int]) -> None:
    """The newest checkpoint is one of `allowed`, bit for bit, before and after tidying up."""
    before = newest_complete(root / "checkpoints")
    assert before.passed_over == {}
    with open_store(root) as store:
        after = store.newest_complete()
        assert after.snapshot is not None
        assert after.snapshot.step in allowed
        assert before.snapshot is None or before.snapshot.step <= after.snapshot.step
        found = sorted(path.name for path in root.glob("checkpoints/step_*"))
        assert found == [f"step_{step:08d}" for step in store.steps()]
        for step in store.steps():
            assert digest(store.load(step)) == digest(snapshot_at(step))
        best = (root / "checkpoints" / "best").read_text()
        assert best == f"step_{store.best_step:08d}\n"
        assert [path.name for path in root.glob("checkpoints/.*")] == []


def main(scratch: Path) -> None:
    """Tries every operation until a save gets through alive."""
    start = scratch / "start"
    with open_store(start, keep_last=3) as store:
        for step in (1, 2, 3):
            store.save(snapshot_at(step), best=step == 1)
    for number in itertools.count():
        root = scratch / f"crash_{number}"
        shutil.copytree(start, root)
        child = os.fork()
        if child == 0:
            die_before(number)
            save_two(root)
            os._exit(0)
        survived = os.waitpid(child, 0)[1] == 0
        check(root, allowed={4} if survived else {3, 4})
        shutil.rmtree(root)
        if survived:
            break
    print(number)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
