"""Resumes from the newest checkpoint in a directory and saves the steps after it until killed."""

import sys
from pathlib import Path

from tests.checkpoint.runs import digest, open_store, snapshot_at


def main(root: Path) -> None:
    """Prints the step of every checkpoint that was committed."""
    with open_store(root) as store:
        newest = store.newest_complete().snapshot
        step = newest.step if newest else 0
        assert newest is None or digest(newest) == digest(snapshot_at(step))
        print("resumed", step, flush=True)
        while True:
            # The first save writes over the newest checkpoint once more.
            store.save(snapshot_at(max(step, 1)), best=step % 3 == 0)
            store.wait()
            for saved in store.poll():
                print("saved", saved.step, flush=True)
            step += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
