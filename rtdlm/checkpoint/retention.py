"""Which checkpoints stay: a pure function of their steps."""

from collections.abc import Collection


def steps_to_keep(
    steps: Collection[int], *, best: int | None, keep_last: int, keep_every: int
) -> set[int]:
    """The steps among `steps` that stay: the newest, the best and every n-th.

    Args:
        steps: steps of the complete checkpoints.
        best: step of the one with the lowest held-out loss; None when none was evaluated.
        keep_last: how many of the newest stay, at least 1.
        keep_every: multiples of this stay for good; 0 keeps none so.
    """
    newest = set(sorted(steps)[-keep_last:])
    milestones = {step for step in steps if keep_every and step % keep_every == 0}
    return newest | milestones | {step for step in steps if step == best}
