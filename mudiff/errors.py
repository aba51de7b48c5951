"""The one exception that a user's input can cause."""


class MudiffError(Exception):
    """An error that its reader can mend.

    The message is one clear sentence: which file or value, what was expected, what to do. The command
    line prints it without a traceback and exits with code 2.
    """
