"""The errors of this package."""

from fusion.errors import FusionError


class PublishError(FusionError):
    """Something that a package or a report needs is missing, contradicts another part, or must not be published."""
