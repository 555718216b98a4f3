"""The base of all errors that a user can act on.

The command line prints such an error as a message without a traceback; everything else is a fault of ours.
"""


class FusionError(Exception):
    """An error whose message says what is wrong, where, and what to do."""

    exit_code = 1
