"""The errors of this package."""

from fusion.errors import FusionError


class StorageError(FusionError):
    """Data of a commit cannot be brought back or does not verify, or nobody can say what may be removed."""
