"""Classes that are taken for each other: often one car in two model years, or under two names of its body."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PAIRS", "confusable_pairs", "members"]

PAIRS = 20  # how many of the worst are named and have a threshold of their own

Pairs = tuple[tuple[int, int], ...]


def confusable_pairs(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], *, most: int = PAIRS
) -> Pairs:
    """Return the worst pairs of class positions, worst first, each (smaller, larger).

    A pair's weight is what the images of both classes lose to each other: the number of images taken for the other
    class, and the probability that went there where numbers are equal. Pairs without a mistake are left out.
    """
    classes = probabilities.shape[1]
    lost = np.zeros((classes, classes))
    np.add.at(lost, labels, probabilities)
    mistakes = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(mistakes, (labels, probabilities.argmax(axis=1)), 1)
    lost, mistakes = lost + lost.T, mistakes + mistakes.T
    first, second = np.triu_indices(classes, k=1)
    found = mistakes[first, second] > 0
    first, second = first[found], second[found]
    worst = np.lexsort((second, first, -lost[first, second], -mistakes[first, second]))[:most]
    return tuple((int(first[i]), int(second[i])) for i in worst)


def members(pairs: Pairs, classes: int) -> npt.NDArray[np.bool_]:
    """Return for each class (C,) whether it is in one of the pairs."""
    inside = np.zeros(classes, dtype=np.bool_)
    inside[[index for pair in pairs for index in pair]] = True
    return inside
