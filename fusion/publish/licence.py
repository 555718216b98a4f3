"""The licence of trained weights, from the licences of the base models that they continue."""

from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from fusion.publish.errors import PublishError
from fusion.settings import Variant


@dataclass(frozen=True)
class WeightsLicence:
    """What the weights may be published under.

    `text` is the licence's text where it is not the project's own; `attribution` is what the Notice file says, None
    where the licence asks for none; `bases` are the Hub ids of the base models, none for random weights.
    """

    id: str
    title: str
    text: str | None
    notice: str | None
    attribution: str | None
    bases: tuple[str, ...]


def weights_licence(variant: Variant) -> WeightsLicence:
    """The licence of a variant's weights: that of its base LLM, or the project's own where it starts from none.

    Raises `PublishError` for a base model without an entry, and for a publishing name that the licence does not allow.
    """
    folder = resources.files("fusion.publish")
    known = yaml.safe_load(folder.joinpath("licences.yaml").read_text(encoding="utf-8"))
    bases = tuple(part.name for part in (variant.base.llm, variant.base.tower) if part.name is not None)
    for name in bases:
        if name not in known["base_models"]:
            raise PublishError(f"the licence of base model {name} is not known: add it to fusion/publish/licences.yaml")
    entries: list[dict[str, Any]] = [known["base_models"][name] for name in bases]
    for entry in entries:
        prefix = entry.get("name_prefix")
        if prefix and not variant.publish_as.startswith(prefix):
            raise PublishError(
                f"publish_as: {variant.publish_as} must begin with `{prefix}`: {entry['title']}, for derivatives"
            )
    # The tower's licence is met by naming it; the language model's is the one that derivatives carry on.
    leading = entries[0] if variant.base.llm.name is not None else known["own"]
    text = None
    if leading["text"]:
        file = folder.joinpath("licences", leading["text"])
        if not file.is_file():
            raise PublishError(
                f"the text of the {leading['title']} must accompany the weights: save it (see {leading['source']}) as "
                f"fusion/publish/licences/{leading['text']}"
            )
        text = file.read_text(encoding="utf-8")
    notice = next((entry["notice"] for entry in entries if entry.get("notice")), None)
    attribution = next((entry["attribution"] for entry in entries if entry.get("attribution")), None)
    return WeightsLicence(leading["id"], leading["title"], text, notice, attribution, bases)
