"""Paths as text: reversible for any bytes, valid UTF-8 always."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.sources import canonical, decode, encode
from jobs.sources.paths import is_dotted

raw_paths = st.binary(max_size=40) | st.text(alphabet="a\\x0f/é\x00\n🚗", max_size=20).map(str.encode)


@given(raw_paths)
def test_any_bytes_come_back(raw: bytes) -> None:
    assert decode(encode(raw)) == raw


@given(raw_paths, raw_paths)
def test_different_bytes_have_different_texts(one: bytes, other: bytes) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@given(raw_paths)
def test_the_text_is_valid_for_databases_and_json(raw: bytes) -> None:
    text = encode(raw)
    assert text.encode("utf-8").decode("utf-8") == text
    assert "\0" not in text
    assert json.loads(json.dumps(text)) == text


@given(st.lists(raw_paths.filter(lambda raw: b"/" not in raw), min_size=1, max_size=4))
def test_a_path_is_written_as_its_parts_are(parts: list[bytes]) -> None:
    assert encode(b"/".join(parts)) == "/".join(map(encode, parts))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain/photo.jpg", "plain/photo.jpg"),
        ("Škoda/é 🚗.jpg".encode(), "Škoda/é 🚗.jpg"),
        (b"\xff\xfe.jpg", r"\xff\xfe.jpg"),
        (rb"a\b.jpg", r"a\\b.jpg"),
        (rb"\xff.jpg", r"\\xff.jpg"),
        (b"two\nlines\t.jpg", "two\nlines\t.jpg"),
        (b"nul\0", r"nul\x00"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
)
def test_how_it_is_written(raw: bytes, text: str) -> None:
    assert encode(raw) == text


@pytest.mark.parametrize("text", ["\\", r"a\b", r"\xFF", r"\x41", r"\xf", "\ud800"])
def test_a_text_that_encode_never_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"backslash|surrogates"):
        decode(text)


@given(st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw and b"/" not in raw))
def test_canonical_names_the_same_folder(name: bytes) -> None:
    given_text = "/photos/" + name.decode("utf-8", "surrogateescape") + "/x"
    if b".." not in name and name != b".":
        assert decode(canonical(given_text)) == b"/photos/" + name + b"/x"


@pytest.mark.parametrize("path", [b".a", b".a/b", b"a/.b", b"a/.b/c", b"a/...", b"...", b"a/..b"])
def test_dotfiles(path: bytes) -> None:
    assert is_dotted(path)


@pytest.mark.parametrize(
    "path", [b"a", b"a.b/c.d", b"a./b", b".", b"..", b"./a", b"../a", b"a/./b", b"a/../b", b"a/.."]
)
def test_steps_are_not_dotfiles(path: bytes) -> None:
    assert not is_dotted(path)
