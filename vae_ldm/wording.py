"""Numbers of things in plain English."""


def counted(number: int, thing: str) -> str:
    """Such as 1 photo, 0 photos, 1,234 photos; of several words the last one takes the s."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
