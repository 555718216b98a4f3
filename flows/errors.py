"""The errors of the flows; each message says in its first line what happened."""


class FlowError(Exception):
    """A flow cannot start, or cannot go on."""
