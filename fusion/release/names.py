"""The names of a release's repositories, as the model zoo names its own: NAME, NAME-Stage1, NAME-Stage1.5."""

from __future__ import annotations

from dataclasses import dataclass

from fusion.publish.errors import PublishError
from fusion.settings import Settings

ENDINGS = {"stage1": "-Stage1", "stage1_5": "-Stage1.5", "stage2": ""}


@dataclass(frozen=True)
class Names:
    """`stages`: stage -> repository of its checkpoint, the last one is the model; `datasets`: name -> repository."""

    stages: dict[str, str]
    datasets: dict[str, str]
    collection: str

    @property
    def model(self) -> str:
        """The repository of the finished model."""
        return self.stages["stage2"]


def names_of(settings: Settings, variant: str) -> Names:
    """All names; raises `PublishError` for one that the Hub does not allow."""
    chosen, owner, name = settings.variant(variant), settings.publish.owner, settings.published_name(variant)
    datasets = dict.fromkeys(getattr(chosen.data, stage) for stage in chosen.stage_names)
    names = Names(
        {stage: f"{owner}/{name}{ENDINGS[stage]}" for stage in chosen.stage_names},
        {dataset: f"{owner}/{dataset}" for dataset in datasets},
        name,
    )
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    for repo in (*names.stages.values(), *names.datasets.values()):
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise PublishError(
                f"{repo} cannot be the name of a repository ({error}): change variants.{variant}.publish_as in "
                "params.yaml, or the data set's name"
            ) from error
    return names
