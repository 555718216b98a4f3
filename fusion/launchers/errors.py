"""What the launchers raise."""

from fusion.errors import FusionError


class LaunchError(FusionError):
    """The ranks cannot be started like that; with what to change."""
