"""Files that are whole or absent, one writer a directory, and the disk's refusals as sentences.

    make_directory(out)
    with DirectoryLock(out):
        record = replace_file(out / "page.md", text)    # size and SHA-256 of what was written

Everything that a run leaves behind is written through this room. It loads no JAX.
"""

from rtdlm.disk.files import (
    FileRecord,
    HashingFile,
    hash_bytes,
    hash_file,
    make_directory,
    replace_file,
    replace_with,
    require_room,
    sync_directory,
    write_file,
)
from rtdlm.disk.lock import LOCK_FILE, DirectoryLock
from rtdlm.disk.refusal import refused, telling, writing

__all__ = [
    "LOCK_FILE",
    "DirectoryLock",
    "FileRecord",
    "HashingFile",
    "hash_bytes",
    "hash_file",
    "make_directory",
    "refused",
    "replace_file",
    "replace_with",
    "require_room",
    "sync_directory",
    "telling",
    "write_file",
    "writing",
]
