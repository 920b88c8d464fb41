"""The one exception that a user is meant to see."""


class ScrflowError(Exception):
    """A mistake in input, config or files that the user can mend.

    The message names the file or key, what was expected, and what to do. Command line and workflow scripts print it as
    one line without a traceback; every other exception is a bug and keeps its traceback.
    """
