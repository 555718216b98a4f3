"""The section of params.yaml about publishing: whose repositories, which folder, and what has to be signed."""

from typing import Annotated

from pydantic import Field

from fusion.section import Section


class Signing(Section):
    """Signing of what is published.

    `required`: what is unsigned is refused. `key`: file with a private EC key in PEM, null = none; its password is in
    the environment variable FUSION_SIGNING_PASSWORD.
    """

    required: bool
    key: str | None


class Publish(Section):
    """Where `fusion publish` puts what it makes; results do not depend on it.

    `owner`: user or organisation, the first part of every repository's name; `folder`: where releases are built, in the
    Hub's layout; `private`: of repositories that are made on the Hub.
    """

    owner: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$")]
    folder: Annotated[str, Field(min_length=1)]
    private: bool
    signing: Signing
