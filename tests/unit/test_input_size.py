from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from model.publishing.input_size import choose_size


@pytest.mark.parametrize(
    ("right", "chosen"),
    [({128: 800, 160: 810, 192: 814}, 160), ({128: 809, 160: 810, 192: 814}, 128), ({128: 800, 160: 820}, 160)],
)
def test_the_smallest_size_within_half_a_point_is_served(right: Mapping[int, int], chosen: int) -> None:
    labels = np.zeros(1000, dtype=np.int64)
    logits = {size: np.eye(2)[(np.arange(1000) >= count).astype(int)] for size, count in right.items()}
    images = np.zeros((1000, 4, 4, 3), dtype=np.uint8)
    size, tried = choose_size(
        {}, [*right, 128], lambda _size: images, labels, network=lambda _weights, size: lambda _images: logits[size]
    )
    assert size == chosen
    assert [(t.size, t.top1_calibration) for t in tried] == [(s, n / 1000) for s, n in right.items()]
    assert all(t.images_per_second > 0 for t in tried)
