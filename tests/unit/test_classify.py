import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from jobs.states import ImageErrorCode
from model import errors
from workers.classification.probabilities import to_float16


@given(arrays(np.float32, (3, 7), elements=st.floats(0, 1, width=32, allow_subnormal=True)))
def test_probabilities_areto_float16_as_numpy_halves_them(probabilities: NDArray[np.float32]) -> None:
    assert to_float16(probabilities).tobytes() == probabilities.astype("<f2").tobytes()


def test_every_half_and_what_lies_between_two() -> None:
    halves = np.arange(0x3C01, dtype="<u2").view("<f2").astype(np.float32)  # 0 to 1
    between: NDArray[np.float32] = (halves[:-1] + halves[1:]) / np.float32(2)
    above: NDArray[np.float32] = np.nextafter(between, np.float32(1))
    below: NDArray[np.float32] = np.nextafter(between, np.float32(0))
    for numbers in (halves, between, above, below):
        assert to_float16(numbers).tobytes() == numbers.astype("<f2").tobytes()


def test_every_code_of_the_model_is_one_of_the_database() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper()}
    assert codes
    assert codes <= set(ImageErrorCode)
