"""The errors of this package."""

from fusion.errors import FusionError


class AdoptError(FusionError):
    """A checkpoint cannot be found, fetched, verified or put where it was asked for."""
