import hashlib
import io
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model.errors import ImageError
from model.pipeline import Item, Limits, Outcome, classify, threads
from model.pipeline.threads import WeightedSemaphore
from model.preprocess import decode

SIZE = 8
NOTHING: Callable[[set[bytes]], set[bytes]] = lambda _: set()  # noqa: E731


def _png(number: int, side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (number & 255, number >> 8 & 255, 77)).save(file, "PNG")
    return file.getvalue()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class ColourEngine:
    """Logits are the mean colour, so that each image's outcome can be told from every other's."""

    input_size = SIZE
    classes: Sequence[str] = ("red", "green", "blue")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (SIZE, SIZE, 3)
        self.batches.append(len(images))
        colours: NDArray[np.float32] = images.mean(axis=(1, 2), dtype=np.float32)
        return colours

    def unload(self) -> None:
        pass


class Unavailable(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


def _items(paths: Sequence[str]) -> list[Item]:
    return [Item(key, path) for key, path in enumerate(paths)]


def _logits(outcome: Outcome) -> NDArray[np.float32]:
    assert outcome.logits is not None
    return outcome.logits


def _by_key(outcomes: Iterator[Outcome]) -> dict[int, Outcome]:
    found = list(outcomes)
    assert len(found) == len({outcome.key for outcome in found})
    return {outcome.key: outcome for outcome in found}


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_call() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cars-")] == []


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 300])
def test_each_image_gets_the_logits_of_its_own_picture(count: int) -> None:
    files = {str(number): _png(number) for number in range(count)}
    engine = ColourEngine()
    outcomes = _by_key(classify(_items(list(files)), read=files.__getitem__, engine=engine, known=NOTHING))
    assert sorted(outcomes) == list(range(count))
    for key, outcome in outcomes.items():
        data = files[str(key)]
        assert outcome.error is None
        assert outcome.content_hash == _digest(data)
        assert outcome.logits is not None
        assert np.allclose(outcome.logits, decode(data, SIZE).mean(axis=(0, 1)))
    assert sum(engine.batches) == count
    assert max(engine.batches, default=0) <= 16


def test_one_bad_image_fails_alone() -> None:
    files = {str(number): _png(number) for number in range(40)}
    files["7"], files["20"] = b"no picture", _png(20, 64)[:80]
    outcomes = _by_key(classify(_items(list(files)), read=files.__getitem__, engine=ColourEngine(), known=NOTHING))
    codes = {key: outcome.error[0] for key, outcome in outcomes.items() if outcome.error}
    assert codes == {7: "undecodable", 20: "truncated"}
    assert outcomes[7].content_hash == _digest(b"no picture")
    assert sum(outcome.logits is not None for outcome in outcomes.values()) == 38


def test_an_image_above_the_limit_is_too_large() -> None:
    files = {"small": _png(1), "large": _png(2, 11)}
    limits = Limits(max_pixels=120)
    outcomes = _by_key(
        classify(_items(list(files)), read=files.__getitem__, engine=ColourEngine(), known=NOTHING, limits=limits)
    )
    assert outcomes[0].error is None
    assert outcomes[1].error is not None
    assert outcomes[1].error[0] == "too_large"


def test_what_cannot_be_read_fails_alone_with_its_own_code() -> None:
    def read(path: str) -> bytes:
        if path == "3":
            raise Unavailable("vanished", "it was there before")
        return _png(int(path))

    outcomes = _by_key(classify(_items([str(n) for n in range(20)]), read=read, engine=ColourEngine(), known=NOTHING))
    assert outcomes[3] == Outcome(3, None, None, ("vanished", "it was there before"))
    assert all(outcome.logits is not None for key, outcome in outcomes.items() if key != 3)


def test_known_contents_are_not_decoded_nor_inferred() -> None:
    # Known by their hash alone: what is not a picture is not even opened.
    files = {str(number): _png(number) if number % 3 else b"known %d" % number for number in range(100)}
    old = {_digest(files[str(number)]) for number in range(0, 100, 3)}
    engine, asked = ColourEngine(), []

    def known(hashes: set[bytes]) -> set[bytes]:
        asked.append(hashes)
        assert threading.current_thread() is threading.main_thread()
        return hashes & old

    outcomes = _by_key(classify(_items(list(files)), read=files.__getitem__, engine=engine, known=known))
    assert {key for key, outcome in outcomes.items() if outcome.logits is None} == set(range(0, 100, 3))
    assert all(outcome.error is None and outcome.content_hash for outcome in outcomes.values())
    assert sum(engine.batches) == 66
    assert set.union(*asked) == {_digest(data) for data in files.values()}
    assert sum(map(len, asked)) == 100
    assert len(asked) <= 6


def test_the_same_bytes_are_inferred_once() -> None:
    files = {str(number): _png(number % 5) for number in range(200)} | {"200": b"bad", "201": b"bad"}
    engine = ColourEngine()
    outcomes = _by_key(classify(_items(list(files)), read=files.__getitem__, engine=engine, known=NOTHING))
    assert sum(engine.batches) == 5
    for number in range(200):
        assert np.array_equal(_logits(outcomes[number]), _logits(outcomes[number % 5]))
    assert outcomes[200].error == outcomes[201].error is not None


@pytest.mark.parametrize("stage", ["read", "known", "logits", "items"])
def test_a_failure_of_the_surroundings_ends_the_call_with_its_threads(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError(f"{stage} broke")

    engine = ColourEngine()
    items: Iterator[Item] = iter(_items([str(n) for n in range(100)]))
    read: Callable[[str], bytes] = lambda path: _png(int(path))  # noqa: E731
    known = NOTHING
    if stage == "read":
        read = fail
    elif stage == "known":
        known = fail
    elif stage == "logits":
        monkeypatch.setattr(engine, "logits", fail)
    else:
        items = itertools.chain(items, map(fail, range(1)))
    with pytest.raises(RuntimeError, match=f"{stage} broke"):
        list(classify(items, read=read, engine=engine, known=known))


def test_an_engine_of_the_wrong_shape_is_told_so() -> None:
    engine = ColourEngine()
    engine.classes = ("only", "two")
    with pytest.raises(Exception, match="shape"):
        list(classify(_items(["1"]), read=lambda path: _png(int(path)), engine=engine, known=NOTHING))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_picture_that_the_engine_has_no_numbers_for_fails_alone(number: float) -> None:
    class Overflowing(ColourEngine):
        def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            logits = super().logits(images)
            logits[images[:, 0, 0, 0] == 7, 1] = number
            return logits

    files = {str(number): _png(number) for number in range(20)}
    outcomes = _by_key(classify(_items(list(files)), read=files.__getitem__, engine=Overflowing(), known=NOTHING))
    assert [key for key, outcome in sorted(outcomes.items()) if outcome.error] == [7]
    assert outcomes[7].error is not None
    assert outcomes[7].error[0] == "unsupported"
    assert outcomes[7].content_hash == _digest(files["7"])
    assert outcomes[7].logits is None


def test_closing_early_stops_reading() -> None:
    read = Counter[str]()

    def reading(path: str) -> bytes:
        read[path] += 1
        return _png(int(path))

    outcomes = classify(
        (Item(n, str(n)) for n in itertools.count()), read=reading, engine=ColourEngine(), known=NOTHING
    )
    first = [next(outcomes) for _ in range(40)]
    assert isinstance(outcomes, Generator)
    outcomes.close()
    stopped_at = sum(read.values())
    assert len(first) == 40
    # An endless source is read ahead by no more than the bound, and each file once.
    assert stopped_at <= 40 + 16 + Limits().ahead + 16
    assert max(read.values()) == 1


def test_reading_ahead_is_bounded_in_images() -> None:
    limits = Limits(ahead=24, lookup=8, read_threads=3, decode_threads=2)
    lock, counts = threading.Lock(), Counter[str]()
    most = 0

    class Counting(ColourEngine):
        preferred_batch = 4

        def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            nonlocal most
            # Give a reader that knows no bound the time to show it.
            _await(lambda: counts["read"] - counts["inferred"] > 60, seconds=0.02)
            with lock:
                most = max(most, counts["read"] - counts["inferred"])
                counts["inferred"] += len(images)
            return super().logits(images)

    def read(path: str) -> bytes:
        with lock:
            counts["read"] += 1
        return _png(int(path))

    list(classify(_items([str(n) for n in range(200)]), read=read, engine=Counting(), known=NOTHING, limits=limits))
    assert counts == {"read": 200, "inferred": 200}
    assert most <= limits.ahead + 4


def test_reading_ahead_is_bounded_in_bytes() -> None:
    megabyte, counts, lock = bytes(1 << 20), Counter[str](), threading.Lock()
    limits = Limits(ahead_bytes=16 << 20, read_threads=2, lookup=1000, ahead=1000)
    most = 0

    def read(path: str) -> bytes:
        with lock:
            counts["read"] += 1
        return megabyte + path.encode()

    def known(hashes: set[bytes]) -> set[bytes]:
        nonlocal most
        _await(lambda: counts["read"] - counts["known"] > 40, seconds=0.2 if not counts["known"] else 0)
        with lock:
            most = max(most, counts["read"] - counts["known"])
        counts["known"] += len(hashes)
        return hashes

    outcomes = list(
        classify(_items([str(n) for n in range(100)]), read=read, engine=ColourEngine(), known=known, limits=limits)
    )
    assert len(outcomes) == 100
    assert 4 <= most <= 16 + 2


def _await(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        threading.Event().wait(0.001)


def test_progress_is_told_for_every_step() -> None:
    lock, told = threading.Lock(), Counter[str]()

    def progress() -> None:
        with lock:
            told["told"] += 1

    files = {str(number): _png(number) for number in range(32)}
    engine = ColourEngine()
    list(classify(_items(list(files)), read=files.__getitem__, engine=engine, known=NOTHING, on_progress=progress))
    assert told["told"] == 32 + 32 + len(engine.batches)


def test_an_engine_says_how_many_it_wants_at_once() -> None:
    class Large(ColourEngine):
        preferred_batch = 50

    files, engine = {str(number): _png(number) for number in range(120)}, Large()
    list(classify(_items(list(files)), read=files.__getitem__, engine=engine, known=NOTHING))
    assert engine.batches == [50, 50, 20]


def test_two_huge_images_are_never_in_the_semaphore_together() -> None:
    semaphore, inside, most = WeightedSemaphore(50_000_000), Counter[str](), Counter[str]()
    lock = threading.Lock()

    def visit(weight: int) -> None:
        for _ in range(50):
            semaphore.acquire(weight)
            with lock:
                inside["pixels"] += weight
                most["pixels"] = max(most["pixels"], inside["pixels"])
            with lock:
                inside["pixels"] -= weight
            semaphore.release(weight)

    visitors = [threading.Thread(target=visit, args=(w,)) for w in (48_000_000, 48_000_000, 12_000_000, 30_000_000)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(timeout=60)
    assert inside["pixels"] == 0
    assert most["pixels"] <= 50_000_000


@pytest.mark.parametrize(("failures", "code"), [(1, None), (2, "too_large")])
def test_a_picture_that_finds_no_memory_is_decoded_once_more_alone(
    failures: int, code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory may have been another picture's; a picture that fails by itself is the one at fault."""
    left = [failures]

    class Scarce:
        pixels = 2 << 20

        def decode(self) -> np.ndarray:
            if left[0]:
                left[0] -= 1
                raise ImageError("too_large", "no memory")
            return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(threads, "open_image", lambda *_args, **_options: Scarce())
    decoder = threads.Decoder(size=4, max_pixels=50_000_000, on_progress=lambda: None)
    (decoded,) = decoder([threads.File(1, b"x", b"digest")], threading.Event())
    assert (decoded.error and decoded.error[0]) == code
    assert left == [0]


def test_what_is_larger_than_the_semaphore_enters_alone() -> None:
    semaphore = WeightedSemaphore(2_000_000)
    semaphore.acquire(9_000_000)
    entered = threading.Event()

    def enter() -> None:
        semaphore.acquire(1_500_000)
        entered.set()

    other = threading.Thread(target=enter)
    other.start()
    assert not entered.wait(0.05)
    semaphore.release(9_000_000)
    assert entered.wait(10)
    other.join()


contents = st.sampled_from([*(_png(number) for number in range(12)), b"bad", b"", b"worse", None])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(contents, max_size=80),
    st.builds(
        Limits,
        decode_threads=st.integers(1, 3),
        read_threads=st.integers(0, 3),
        lookup=st.integers(1, 40),
        ahead=st.integers(1, 60),
        ahead_bytes=st.integers(1, 4000),
    ),
    st.integers(0, 3),
)
def test_every_item_has_exactly_one_true_outcome_within_any_limits(
    files: list[bytes | None], limits: Limits, modulus: int
) -> None:
    def read(path: str) -> bytes:
        data = files[int(path)]
        if data is None:
            raise Unavailable("unreadable", "permission denied")
        return data

    def is_known(digest: bytes) -> bool:
        return modulus > 0 and digest[0] % (modulus + 1) == 0

    engine = ColourEngine()
    outcomes = _by_key(
        classify(
            _items([str(n) for n in range(len(files))]),
            read=read,
            engine=engine,
            known=lambda hashes: {digest for digest in hashes if is_known(digest)},
            limits=limits,
        )
    )
    assert sorted(outcomes) == list(range(len(files)))
    for key, data in enumerate(files):
        outcome = outcomes[key]
        if data is None:
            assert outcome == Outcome(key, None, None, ("unreadable", "permission denied"))
            continue
        assert outcome.content_hash == _digest(data)
        if is_known(_digest(data)):
            assert outcome.logits is None
            assert outcome.error is None
        elif data.startswith(b"\x89PNG"):
            assert np.allclose(_logits(outcome), decode(data, SIZE).mean(axis=(0, 1)))
        else:
            assert outcome.error is not None
            assert outcome.logits is None
