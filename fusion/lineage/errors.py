"""The errors of this package."""

from fusion.errors import FusionError


class LineageError(FusionError):
    """A stage, a record or a file that the ancestry needs is missing, unreadable or contradicts another."""
