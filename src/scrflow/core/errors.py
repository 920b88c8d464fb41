"""The one exception that a user is meant to see."""

_LONGEST = 2000  # characters; a name out of a crafted file may have as many as it likes
_HEAD, _TAIL = 1400, 500


class ScrflowError(Exception):
    """A mistake in input, config or files that the user can mend.

    The message names the file or key, what was expected, and what to do. Command line and workflow scripts print it as
    one line without a traceback; every other exception is a bug and keeps its traceback. What a message quotes of a
    file cannot command a terminal: signs that are not printable are shown as their codes.
    """

    def __init__(self, message: str = "") -> None:
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))
        super().__init__(text if len(text) <= _LONGEST else f"{text[:_HEAD]} ... {text[-_TAIL:]}")
