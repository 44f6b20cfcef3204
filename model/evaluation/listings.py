"""Listings made of labelled images: fitting how they are pooled, and what verdicts on them are worth.

There are no real listings at hand. Sets of different cars of a class vary more than the images of one car do, shots of
one image vary less: a rule fitted on the first alone is too sure of the second. So a listing is made of both, and of
what sellers mix up: images of two makes, and images that show no car.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.cards import CardDraft, ListingRule
from model.data.decoding import Images, decode_files
from model.decision import Decision, decide_all, make_table, softmax
from model.evaluation.calibration import expected_calibration_error
from model.evaluation.results import ListingsEvaluation, MixEvaluation, SetEvaluation
from model.verdicts import DEFAULT_RULE, Evidence, ListingPart, Pooling, Verdict

__all__ = ["Said", "evaluate_listings", "fit_listing_rule", "second_shots"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

SIZES = (2, 3, 4)  # images of a set
FEWEST_SETS = 100  # of two, below which nothing is fitted
CONFLICTING = 0.02  # of the sets, none of which shows two cars, that may be in conflict
EXPONENTS = np.linspace(0, 1, 101)
CROP = (0.02, 0.10)  # of a side, on each side, that a second shot lacks
BRIGHTNESS = (0.75, 1.25)
MIXES = 1_000
WITH_SAMPLES = 2_000
SAMPLES = 4  # of the images that show no car, in one listing
SEED = 20_261_201
_TOGETHER = 256  # images decoded at once


@dataclass(frozen=True, kw_only=True)
class Said:
    """What is stored of images: float16 probabilities (N, C) and decisions."""

    probabilities: npt.NDArray[np.float16]
    decisions: Sequence[Decision]

    @classmethod
    def of(cls, logits: Floats, card: CardDraft) -> Said:
        """Return what would be stored of logits (N, C)."""
        stored = softmax(logits, temperature=card.temperature).astype(np.float16)
        return cls(probabilities=stored, decisions=decide_all(stored, card, logits).decision)

    def pick(self, picks: Sequence[int] | npt.NDArray[np.integer]) -> ListingPart:
        """Return the images at these places."""
        keys = [int(pick) for pick in picks]
        return ListingPart(keys, self.probabilities[keys], [self.decisions[key] for key in keys])


class _Set(NamedTuple):
    """A listing of images of one class, by place, and whether a second shot of each belongs to it."""

    size: int
    second_shots: bool
    picks: npt.NDArray[np.integer]
    label: int


def fit_listing_rule(card: CardDraft, first: Floats, second: Floats, labels: Labels) -> ListingRule | None:
    """Return the rule fitted on logits (N, C) of `calibration` images and of second shots of them, with labels (N,).

    The exponent is the one of the least negative log-likelihood on disjoint sets of 2, 3 and 4 images of a class, with
    and without their second shots, each kind counting the same; the conflict is what 2 % of them reach. None where
    there are fewer than 100 sets of two.
    """
    sets = list(_sets(labels, np.random.default_rng(SEED)))
    if sum(each.size == SIZES[0] and not each.second_shots for each in sets) < FEWEST_SETS:
        return None
    shots = Said.of(first, card), Said.of(second, card)
    pooling = Pooling(card)
    found = [(each, pooling.evidence(_shown(each, shots))) for each in sets]
    found = [(each, sums) for each, sums in found if sums.weight]
    kinds = sorted({(each.size, each.second_shots) for each, _ in found})
    losses = [np.mean([np.mean(_losses(found, kind, exponent)) for kind in kinds]) for exponent in EXPONENTS.tolist()]
    exponent = float(EXPONENTS[int(np.argmin(losses))])
    conflicts = np.array([sums.conflict(exponent) for _, sums in found])
    limit = float(np.quantile(conflicts, 1 - CONFLICTING, method="higher"))
    return ListingRule(exponent=exponent, conflict=max(limit, float(np.finfo(np.float32).eps)))


def _losses(found: Sequence[tuple[_Set, Evidence]], kind: tuple[int, bool], exponent: float) -> list[float]:
    of_kind = [(each.label, sums) for each, sums in found if (each.size, each.second_shots) == kind]
    return [-float(np.log(max(sums.pooled(exponent)[label], 1e-30))) for label, sums in of_kind]


def evaluate_listings(
    card: CardDraft, first: Floats, second: Floats, labels: Labels, *, samples: Floats | None
) -> ListingsEvaluation:
    """Return what verdicts are worth on logits (N, C) of images and of second shots of them, with labels (N,).

    `samples` (M, C) are of images that show no car of the classes. All sets are drawn with one seed.
    """
    random = np.random.default_rng(SEED)
    shots = Said.of(first, card), Said.of(second, card)
    pooling = Pooling(card)
    sets = list(_sets(labels, random))
    kinds = sorted({(each.size, each.second_shots) for each in sets}, key=lambda kind: (kind[1], kind[0]))
    table = [_evaluate_sets([s for s in sets if (s.size, s.second_shots) == kind], shots, pooling) for kind in kinds]
    rule = card.thresholds.listing or DEFAULT_RULE
    pairs = [each for each in sets if each.size == SIZES[0] and not each.second_shots]
    shown = None if samples is None or len(samples) < SAMPLES else Said.of(samples, card)
    return {
        "exponent": rule.exponent,
        "conflict": rule.conflict,
        "fitted": card.thresholds.listing is not None,
        "sets": table,
        "two_makes": _two_makes(pairs, shots[0], pooling, make_of=make_table(card)[1], random=random),
        "with_samples": _with_samples(pairs, shots[0], shown, pooling=pooling, random=random),
        "samples_alone": _with_samples([], shots[0], shown, pooling=pooling, random=random),
    }


def _sets(labels: Labels, random: np.random.Generator) -> Iterator[_Set]:
    """Yield disjoint sets of each size, drawn per class, once as they are and once with second shots."""
    for size in SIZES:
        for label in np.unique(labels).tolist():
            own = random.permutation(np.flatnonzero(labels == label))
            for start in range(0, len(own) - size + 1, size):
                picks = own[start : start + size]
                yield _Set(size, False, picks, label)
                yield _Set(size, True, picks, label)


def _shown(each: _Set, shots: tuple[Said, Said]) -> list[ListingPart]:
    return [said.pick(each.picks) for said in (shots if each.second_shots else shots[:1])]


def _evaluate_sets(sets: Sequence[_Set], shots: tuple[Said, Said], pooling: Pooling) -> SetEvaluation:
    found = [pooling.verdict(_shown(each, shots)) for each in sets]
    hit = np.array([one.top == each.label for one, each in zip(found, sets, strict=True)])
    sure = np.array([one.decision == "model" for one in found])
    best = np.array([0.0 if one.probabilities is None else float(one.probabilities.max()) for one in found])
    given = [
        0.0 if one.probabilities is None else float(one.probabilities[each.label])
        for one, each in zip(found, sets, strict=True)
    ]
    return {
        "images": sets[0].size,
        "second_shots": sets[0].second_shots,
        "sets": len(sets),
        "top1": float(hit.mean()),
        "nll": float(-np.log(np.maximum(given, 1e-30)).mean()),
        "ece": expected_calibration_error(best, hit),
        "model_coverage": float(sure.mean()),
        "model_precision": float(hit[sure].mean()) if sure.any() else None,
        "conflict": float(np.mean([one.conflict for one in found])),
    }


def _two_makes(
    pairs: Sequence[_Set], said: Said, pooling: Pooling, *, make_of: Labels, random: np.random.Generator
) -> MixEvaluation | None:
    """Evaluate listings of two images of one class and two of a class of another make."""
    if len({int(make_of[pair.label]) for pair in pairs}) < 2:
        return None
    found: list[tuple[Verdict, int | None]] = []
    while len(found) < MIXES:
        one, other = (pairs[index] for index in random.integers(len(pairs), size=2).tolist())
        if make_of[one.label] != make_of[other.label]:
            found.append((pooling.verdict([said.pick(one.picks), said.pick(other.picks)]), None))
    return _mix(found)


def _with_samples(
    pairs: Sequence[_Set], said: Said, samples: Said | None, *, pooling: Pooling, random: np.random.Generator
) -> MixEvaluation | None:
    """Evaluate listings of two images of a class (none where there are no pairs) and four images that show no car."""
    if samples is None:
        return None
    found: list[tuple[Verdict, int | None]] = []
    for _ in range(WITH_SAMPLES):
        parts = [samples.pick(random.permutation(len(samples.decisions))[:SAMPLES])]
        pair = pairs[int(random.integers(len(pairs)))] if pairs else None
        if pair is not None:
            parts.insert(0, said.pick(pair.picks))
        found.append((pooling.verdict(parts), None if pair is None else pair.label))
    return _mix(found)


def _mix(found: Sequence[tuple[Verdict, int | None]]) -> MixEvaluation:
    sure = [one.decision == "model" for one, _ in found]
    return {
        "sets": len(found),
        "conflict": float(np.mean([one.conflict for one, _ in found])),
        "model": float(np.mean(sure)),
        "wrong_model": float(np.mean([one.decision == "model" and one.top != label for one, label in found])),
    }


def second_shots(files: Sequence[Path], size: int, *, seed: int = SEED) -> Iterator[Images]:
    """Yield a second shot of each image, as uint8 (n, size, size, 3) a part at a time.

    It lacks 2 to 10 % on each side and is up to a quarter darker or brighter, by `seed` and the image's position alone.
    """
    larger = round(size * 1.25)
    for start in range(0, len(files), _TOGETHER):
        images = decode_files(files[start : start + _TOGETHER], larger)
        part = np.empty((len(images), size, size, 3), dtype=np.uint8)
        for index, image in enumerate(images):
            part[index] = _second_shot(image, size, np.random.default_rng([seed, start + index]))
        yield part


def _second_shot(image: npt.NDArray[np.uint8], size: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    side = image.shape[0]
    left, top, right, bottom = (random.uniform(*CROP, size=4) * side).tolist()
    cut = (left, top, side - right, side - bottom)
    other = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=cut)
    brighter = np.asarray(other, dtype=np.float32) * random.uniform(*BRIGHTNESS)
    return brighter.round().clip(0, 255).astype(np.uint8)
