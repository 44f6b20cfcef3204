"""The model card: what a version is, how it is fed, how good it is, and the hash of every file beside it.

An artifact is a folder with `card.json` and the files that the card lists. Nothing in it is ever unpickled.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from model.errors import ArtifactCorrupt, ArtifactUnsafe, CardInvalid
from model.file_safety import check_kinds, read_regular
from model.inspection import inspect, refuse_pickle
from model.labels import FIRST_YEAR, LAST_YEAR, LONGEST_NAME, Label, joined, parse
from model.old_formats import CARD_FORMAT, current_card

__all__ = [
    "CARD",
    "CARD_BYTES",
    "CARD_FORMAT",
    "ONNX",
    "WEIGHTS",
    "Card",
    "CardDraft",
    "ClassParts",
    "Confusable",
    "DataOrigin",
    "EngineFile",
    "EngineSpec",
    "ListingRule",
    "Metrics",
    "OodThreshold",
    "Preprocessing",
    "Recipe",
    "Score",
    "Thresholds",
    "check_name",
    "class_parts",
    "digest",
    "parse_card",
    "read",
    "read_bytes",
    "read_verified",
    "verify",
    "write",
]

CARD: Final = "card.json"
WEIGHTS: Final = "weights.safetensors"
ONNX: Final = "model.onnx"
_ENDINGS = {"onnx": ".onnx", "torch": ".safetensors"}
CARD_BYTES = 8 << 20
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-])){0,63}")
_FILE = re.compile(rf"{_NAME.pattern}(?:/{_NAME.pattern})?")
_TAKEN = frozenset({"production", "imagenet", "scratch", "current"})  # what commands take in place of a name
_DOS_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")

Fraction = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(ge=0, le=2, description="above 1: never reached")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]
Score = Literal["max_softmax", "max_logit", "energy", "centered_logit", "logit_margin"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _OpenPart(_Part):
    """A part whose named fields are required and which may say more, in plain JSON."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class ClassParts(_Part):
    """The parts of a class as the data named them. Its name is these, joined by blanks."""

    make: Name
    model: Name
    body: Name | None
    year: Annotated[int, Field(ge=FIRST_YEAR, le=LAST_YEAR)] | None

    @property
    def label(self) -> Label:
        """The same with the class's name."""
        return joined(self.make, self.model, self.body, self.year)


class Preprocessing(_Part):
    """How bytes become the network's input; `mean` and `std` are RGB on the scale 0 to 1."""

    resize: Literal["squish"]
    resample: Literal["bicubic"]
    mean: Triple
    std: Annotated[Triple, Field(description="all above 0")]

    @model_validator(mode="after")
    def _positive_std(self) -> "Preprocessing":
        if min(self.std) <= 0:
            raise ValueError("std must be above 0 in every channel")
        return self


class OodThreshold(_Part):
    """The value of `score` below which an image is out of distribution: it shows no car of the classes."""

    score: Score
    threshold: float


class Confusable(_Part):
    """Pairs of classes that are taken for each other, worst first, and the probability that `model` needs in them."""

    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1, max_length=1000)]
    model: Threshold


class ListingRule(_Part):
    """How the images of a listing are pooled, and from which value on they are in conflict; see `model.verdicts`."""

    exponent: Fraction
    conflict: Annotated[float, Field(gt=0, le=1000)]


class Thresholds(_Part):
    """The calibrated probabilities that the decisions `model` and `make` need, fitted to `target_precision`.

    `ood` is checked first: an image that lies below it is `unknown`; without it, as on cards written before there was
    such a part, nothing is. Below `ood_for_model` an image is not decided `model`. An answer that is one of the
    `confusable` classes needs the probability that is written there. `listing` pools the images of one.
    """

    model: Threshold
    make: Threshold
    target_precision: Fraction
    ood: OodThreshold | None = None
    ood_for_model: OodThreshold | None = None
    confusable: Confusable | None = None
    listing: ListingRule | None = None


class Metrics(_OpenPart):
    """Accuracy of the serving path on so many `images` of `split`, as fractions. `coverage`: the fraction decided
    `model`.
    """

    split: str
    images: Annotated[int, Field(ge=0)]
    top1: Fraction
    top5: Fraction
    make: Fraction
    ece: Fraction
    coverage: Fraction


class Recipe(_OpenPart):
    """How it was trained; `name` is the recipe's."""

    name: str


class DataOrigin(_OpenPart):
    """What it was trained on. `holdout`: content hashes of the images it was only ever evaluated on."""

    fingerprint: str
    images: Annotated[int, Field(ge=0)]
    split_seed: int | None
    holdout: tuple[Sha256, ...]


class EngineSpec(_OpenPart):
    """The file that an engine loads."""

    file: str
    precision: Literal["float32", "float16", "int8"]


class EngineFile(EngineSpec):
    """The same, measured: `top1_delta` is its top-1 less that of the float32 network on the same images."""

    top1_delta: Annotated[float, Field(ge=-1, le=1)]


class CardDraft(_Part):
    """A version before it is measured: enough to open its engines, and to decide once its thresholds are fitted.

    `class_parts`: the parts of those classes that the data named in parts; they are read from the others' names.
    """

    format: Literal[3]
    name: str
    architecture: Literal["resnet34"]
    classes: tuple[Name, ...]
    class_parts: dict[str, ClassParts] = {}
    image_size: Annotated[int, Field(ge=4, le=1024)]
    preprocessing: Preprocessing
    temperature: Annotated[float, Field(gt=0, le=1000)]
    thresholds: Thresholds
    engines: Mapping[Literal["onnx", "torch"], EngineSpec]
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_name(self.name)
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must be at least two, all different")
        confusable = self.thresholds.confusable
        unlisted = {name for pair in confusable.pairs for name in pair} - set(self.classes) if confusable else set()
        if unlisted:
            raise ValueError(f"thresholds.confusable names {min(unlisted)!r}, which is not one of the classes")
        self._check_class_parts()
        for file in self.files:
            if file == CARD or not _FILE.fullmatch(file) or any(map(_DOS_DEVICES.fullmatch, file.split("/"))):
                raise ValueError(f"files: {file!r} is not a file name an artifact may have")
        if not self.engines:
            raise ValueError("engines must not be empty")
        for name, engine in self.engines.items():
            if engine.file not in self.files:
                raise ValueError(f"engines: {name} loads {engine.file!r}, which is not among the files")
            if not engine.file.endswith(_ENDINGS[name]):  # by which it is known what to look for in it
                raise ValueError(f"engines: {name} loads a file that ends in {_ENDINGS[name]}, not {engine.file!r}")
        return self

    def _check_class_parts(self) -> None:
        for name, parts in self.class_parts.items():
            if name not in self.classes:
                raise ValueError(f"class_parts: {name!r} is not among the classes")
            if parts.label.name != name:
                raise ValueError(f"class_parts: the parts of {name!r}, joined by blanks, are {parts.label.name!r}")

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes with their parts, in their order."""
        return tuple(self.class_parts[name].label if name in self.class_parts else parse(name) for name in self.classes)

    def with_thresholds(self, **fields: Threshold | OodThreshold | Confusable | ListingRule | None) -> Self:
        """Return a copy in which these thresholds have other values."""
        return self.model_copy(update={"thresholds": self.thresholds.model_copy(update=fields)})


class Card(CardDraft):
    """One model version. Frozen; `thresholds.ood` and `class_parts` may be absent, and no other field is accepted.

    Cards of the formats 1 and 2 come with the fields of today, see `model.old_formats`; a release before format 3 says
    that it cannot read it.
    """

    engines: Mapping[Literal["onnx", "torch"], EngineFile]
    metrics: Metrics
    recipe: Recipe
    data: DataOrigin
    created_at: AwareDatetime

    @model_serializer(mode="wrap")
    def _without_absent_parts(self, dump: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        fields: dict[str, JsonValue] = dump(self)
        thresholds = fields["thresholds"]
        assert isinstance(thresholds, dict)
        if not self.class_parts:
            del fields["class_parts"]
        for later in ("confusable", "ood_for_model", "listing"):
            if getattr(self.thresholds, later) is None:
                del thresholds[later]
        return fields

    def to_bytes(self) -> bytes:
        """Return the bytes of `card.json`: the same card always gives the same bytes."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, allow_nan=False, indent=1)
        return text.encode() + b"\n"


def class_parts(classes: Sequence[str], parts: Mapping[str, Label]) -> dict[str, ClassParts]:
    """Return the parts that a card has for these classes, of which `parts` has some taken apart."""
    return {
        name: ClassParts(make=label.make, model=label.model, body=label.body, year=label.year)
        for name, label in parts.items()
        if name in classes
    }


def check_name(name: str) -> str:
    """Return `name` if it can name a version, which becomes a folder; raise ValueError otherwise."""
    if not _NAME.fullmatch(name) or _DOS_DEVICES.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a version: use 1 to 64 letters, digits, '.', '_' and '-', starting with a letter or "
            "digit, without two dots in a row or one at the end"
        )
    if name.lower() in _TAKEN:
        raise ValueError(
            f"{name!r} cannot name a version: the word means something else in commands; take another name"
        )
    return name


def parse_card(data: bytes, origin: object = CARD) -> Card:
    """Return the card in the bytes of a `card.json`; raise CardInvalid naming `origin` and each field that is wrong."""
    if len(data) > CARD_BYTES:
        raise CardInvalid(f"{origin} has {len(data)} bytes; a card has at most {CARD_BYTES}")
    try:
        document = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated_keys)
        _refuse_newer(document, origin)
        return Card.model_validate_json(json.dumps(current_card(document), allow_nan=False))
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'card'}: {_plain(e)}" for e in exc.errors()[:5])
        raise CardInvalid(f"{origin} is not a valid model card: {wrong}") from exc
    except (ValueError, RecursionError) as exc:
        raise CardInvalid(f"{origin} is not a valid model card: {exc}") from exc


def _plain(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a field, without the words that only a programmer reads."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "string_pattern_mismatch":
        return f"{error['input']!r} is not written as it must be"
    if error["type"] == "extra_forbidden":
        return "this release of car-classifier knows no such field; a newer one may"
    return str(error["msg"])


def read(folder: Path) -> Card:
    """Return the card of the artifact in `folder`, without looking at the other files. Raises CardInvalid."""
    return parse_card(read_bytes(folder), folder / CARD)


def read_bytes(folder: Path) -> bytes:
    """Return the bytes of `card.json`. Raises CardInvalid where they cannot be read, ArtifactUnsafe where they must
    not.
    """
    try:
        return read_regular(folder / CARD, limit=CARD_BYTES)
    except OSError as exc:
        raise CardInvalid(
            f"{folder} is not a model version: {CARD} cannot be read ({exc.strerror}); give a version's folder"
        ) from exc


def write(folder: Path, card: Card) -> Path:
    """Write `card.json` into `folder` in one step, durably, and return its path."""
    path, draft = folder / CARD, folder / f".{CARD}.draft"
    with draft.open("wb") as file:
        file.write(card.to_bytes())
        file.flush()
        os.fsync(file.fileno())
    return draft.replace(path)


def digest(folder: Path) -> str:
    """Return the SHA-256 of `card.json` in hex, which names all content: the card has each file's hash."""
    data = read_bytes(folder)
    parse_card(data, folder / CARD)
    return hashlib.sha256(data).hexdigest()


def read_verified(folder: Path, card: CardDraft, file: str) -> bytes:
    """Return the bytes of one listed file, hashed and inspected: what is loaded must be exactly these bytes.

    Raises ArtifactCorrupt if the file is missing or its hash differs, ArtifactUnsafe if it is of a kind never loaded.
    """
    expected, path = card.files.get(file), folder / file
    if expected is None:
        raise ArtifactCorrupt(f"version {card.name} has no file {file}; its card lists {', '.join(card.files)}")
    refuse_pickle(path)
    if path.parent != folder and path.parent.is_symlink():
        raise ArtifactUnsafe(f"{path} is a link; an artifact holds only its own files")
    try:
        data = read_regular(path)
    except OSError as exc:
        raise ArtifactCorrupt(f"{path} cannot be read ({exc.strerror}); import version {card.name} again") from exc
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ArtifactCorrupt(
            f"{path} is damaged or was replaced: its SHA-256 is {found}, the card says {expected}; "
            "import the version again"
        )
    inspect(path, data)
    return data


def verify(folder: Path) -> Card:
    """Return the card, after every listed file was hashed and inspected and no pickle was found in the folder.

    Raises CardInvalid, ArtifactCorrupt or ArtifactUnsafe.
    """
    if folder.is_file():  # somebody's learner, perhaps
        refuse_pickle(folder)
    card = read(folder)
    for path in check_kinds(folder):
        refuse_pickle(path)
    for file in card.files:
        read_verified(folder, card, file)
    return card


def _refuse_newer(document: JsonValue, origin: object) -> None:
    found = document.get("format") if isinstance(document, dict) else None
    if isinstance(found, int) and found > CARD_FORMAT:
        raise CardInvalid(
            f"{origin} has format {found}, which a newer release of car-classifier has written; this one reads "
            f"formats 1 to {CARD_FORMAT}; install the newer release to use this version"
        )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _refuse_repeated_keys(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found
