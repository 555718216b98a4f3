"""Errors of the data stages."""

from fusion.errors import FusionError


class DataError(FusionError):
    """A data stage cannot go on; the message names the file and what to do."""


class CatalogError(DataError):
    """data/catalog/ is missing, is not YAML, or has a key that is unknown, missing, of the wrong type or range."""


class IngestError(DataError):
    """A source cannot be read."""


class NoSpaceError(DataError):
    """A folder has no space left."""
