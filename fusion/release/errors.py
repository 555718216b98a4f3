"""The errors of publishing."""

from fusion.publish.errors import PublishError


class RefusedError(PublishError):
    """Something stands against publishing; nothing was written or sent."""


class HubError(PublishError):
    """The Hub refused something; trying again does not help."""


class BrokenOffError(PublishError):
    """The connection or the server failed. What had arrived stays; the same command continues."""

    exit_code = 75
