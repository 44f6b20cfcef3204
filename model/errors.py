"""Every error of the model package.

ModelError
├── CardInvalid         card.json is missing, unreadable, or does not follow the schema
├── ArtifactCorrupt     a file is missing or its hash differs from the card's
├── ArtifactUnsafe      a file that could run code or reach outside the artifact
├── ArtifactExists      a version of this name with other content is already stored
├── DeviceUnavailable   the engine or device asked for is not on this machine
├── StoreUnavailable    the model store cannot be reached
└── DatasetError        a labelled data set cannot be used
ImageError              one image cannot be decoded; it fails alone and never the batch
"""

from typing import Final

__all__ = [
    "DAMAGED",
    "TOO_LARGE",
    "TRUNCATED",
    "UNDECODABLE",
    "UNSUPPORTED",
    "ArtifactCorrupt",
    "ArtifactExists",
    "ArtifactUnsafe",
    "CardInvalid",
    "DatasetError",
    "DeviceUnavailable",
    "ImageError",
    "ModelError",
    "StoreUnavailable",
]

# The codes of images that cannot be decoded; what cannot be read has its code from whoever reads it.
UNDECODABLE: Final = "undecodable"
TRUNCATED: Final = "truncated"
DAMAGED: Final = "damaged"
TOO_LARGE: Final = "too_large"
UNSUPPORTED: Final = "unsupported"


class ModelError(Exception):
    """The root of what a user can meet about a model version or a data set."""


class CardInvalid(ModelError):
    """The card is missing, is not JSON, or breaks the schema; the text names the field."""


class ArtifactCorrupt(ModelError):
    """A file of the artifact is missing, or its bytes are not those that were published."""


class ArtifactUnsafe(ModelError):
    """A file of the artifact is of a kind that is never loaded: a pickle, external data, an oversized header."""


class ArtifactExists(ModelError):
    """The store already holds other content under this name; versions are immutable."""


class DeviceUnavailable(ModelError):
    """The engine or the device asked for is not available here; the text says what would be."""


class StoreUnavailable(ModelError):
    """The model store does not answer or refuses; the text says which and why."""


class DatasetError(ModelError):
    """A data set cannot be used; the text says which part and what to do."""


class ImageError(Exception):
    """One image cannot be classified.

    `code`, one of those above, goes into the image's row with `message`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Keep both arguments across a process boundary, which `Exception` would not."""
        return (type(self), (self.code, self.message))
