"""One way from a path to text: ids and classes that any file, page or database takes, and names that a screen shows."""

import os
import re

_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")
_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


def as_text(path: str | os.PathLike[str]) -> str:
    r"""The path as valid Unicode text: itself where its bytes are UTF-8, else with the other bytes as `\xe9`.

    Different paths give different texts: where a text could be read as escaped, each of its own backslashes is doubled.
    Raises UnicodeEncodeError for what no path can be, such as "\ud800" from a JSON file.
    """
    name = os.fspath(path)
    if name.isascii() and "\\" not in name:
        return name
    raw = os.fsencode(name)
    text = raw.decode("utf-8", "backslashreplace")
    return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace") if _ESCAPED.search(text) else text


def as_bytes(text: str) -> bytes:
    """The bytes of the path that `as_text` made this text from."""
    raw = os.fsencode(text)
    if not _ESCAPED.search(text):
        return raw
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()) if match[1] else b"\\", raw)
