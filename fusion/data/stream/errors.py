"""What can go wrong between a manifest and a batch."""

from fusion.errors import FusionError


class LoaderError(FusionError):
    """A manifest or shard cannot be read, or does not hold what the manifest says."""


class UnreadableSample(LoaderError):
    """The bytes of one sample are not those of a sample: `reason` is a code, `evidence` what was found."""

    def __init__(self, reason: str, evidence: str) -> None:
        super().__init__(f"{reason}: {evidence}")
        self.reason = reason
        self.evidence = evidence

    def __reduce__(self) -> tuple[type["UnreadableSample"], tuple[str, str]]:
        return UnreadableSample, (self.reason, self.evidence)
