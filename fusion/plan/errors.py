"""The error of plans."""

from fusion.errors import FusionError


class PlanError(FusionError):
    """There is no such plan: an unknown GPU or base model, numbers that do not divide, or nothing that fits."""
