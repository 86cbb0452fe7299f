"""The one error class of the library."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CVoiceError(ValueError):
    """A mistake that the user can mend.

    The message is one line: what was wrong, what was expected, what to do. Command lines print it and exit with
    code 2; in Python it is an ordinary ``ValueError``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def suggestion(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Names like ``name``, as the end of an error message.

    Args:
        name: What the user wrote.
        known: What could have been meant.
        limit: The most names to list.

    Returns:
        ``"; did you mean a, b?"``, or the known names if none is near, or ``""`` if there are none.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    if near:
        return f"; did you mean {', '.join(near)}?"
    if names:
        more = "" if len(names) <= 12 else f", ... ({len(names)} in all)"
        return f"; known: {', '.join(names[:12])}{more}"
    return ""
