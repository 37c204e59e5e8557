"""What a user can mend: a mistake, or a disk that refuses."""


class UserError(ValueError):
    """A mistake of the user's: one sentence with what was found, what was expected, what to do.

    Commands print the sentence and exit with status 2; no traceback is shown.
    """


class StorageError(OSError):
    """The disk refused a write: one sentence with what could not be written and what to do.

    Commands print the sentence and exit with status 1; what was saved before is intact.
    """


class Unfinished(Exception):
    """A signal ended a command in good order before its work was done: it saved and said so.

    Commands exit with status 75, which tells a scheduler to start the same command again.
    """
