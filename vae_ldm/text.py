"""Words for the screen: numbers of things in plain English, and text that a terminal takes."""


def counted(number: int, thing: str) -> str:
    """A number and its thing, such as 1 photo, 0 photos, 1,234 photos, 2 classes; the last of several words ends so."""
    ending = "es" if thing.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{number:,} {thing}{'' if number == 1 else ending}"


def duration(seconds: float) -> str:
    """`seconds` as "45 s", "5 min 3 s" or "2 h 7 min"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def shown(text: str) -> str:
    r"""The text in one line that a terminal takes: what cannot be printed is escaped, a line feed as `\n`.

    A byte of a path that is no UTF-8, which Python reads as `\udce9`, is shown as `\xe9`, as `data.names` has it.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
