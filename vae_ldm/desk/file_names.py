"""File names that are made from the names of photos: different for different photos, and never too long for a disk."""

import hashlib
import os
from pathlib import PurePosixPath

LONGEST_NAME = 255
"""Bytes of a file's name on the usual disks."""


def lengthened(name: str, suffix: str = "") -> str:
    """`name` with `suffix` after it, as a file name of at most 255 bytes.

    A longer one is cut, and a hash of the whole name takes the place of what is lost, so that two names stay two.
    """
    whole = name + suffix
    if len(os.fsencode(whole)) <= LONGEST_NAME:
        return whole
    mark = f"~{hashlib.blake2b(os.fsencode(name), digest_size=6).hexdigest()}"
    ending = suffix or PurePosixPath(name).suffix[:16]
    room = LONGEST_NAME - len(os.fsencode(mark + ending))
    return os.fsencode(name)[:room].decode("utf-8", "ignore") + mark + ending
