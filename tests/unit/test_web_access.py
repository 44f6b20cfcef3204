"""Who may come into the console: hosts, tokens, cookies, forms."""

from __future__ import annotations

import pytest

from jobs.errors import SettingsInvalid
from jobs.web.access import Access, Guesses

TOKEN = "a secret of many characters"


def on_loopback() -> Access:
    return Access(host="127.0.0.1", token=None, hosts=())


def with_token(**changes: object) -> Access:
    return Access(**{"host": "0.0.0.0", "token": TOKEN, "hosts": ("cars.example",), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "cars.example"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(SettingsInvalid, match="set CARS_WEB_TOKEN to a secret of 16 characters or more"):
        Access(host=host, token=None, hosts=())
    assert with_token(host=host).signs_in


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert not Access(host=host, token=None, hosts=()).signs_in


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("192.0.2.7:8000", True),  # an address cannot be rebound
        ("cars.example", True),
        ("Cars.Example:443", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("cars.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        (":8000", False),
        ("cars.example:80:80", False),
    ],
)
def test_hosts(header: str, known: bool) -> None:
    assert with_token().knows_host(header) is known


def test_a_session_is_known_by_its_signature() -> None:
    access = with_token()
    session = access.new_session()
    assert access.is_session(session)
    assert with_token().is_session(session), "it outlives a restart"
    assert not with_token(token="another secret of many characters").is_session(session)
    assert not on_loopback().is_session(session)
    expires, nonce, signature = session.split(".")
    for forged in (None, "", "..", f"{int(expires) + 9}.{nonce}.{signature}", f"{expires}.{nonce}.", session + "0"):
        assert not access.is_session(forged)


def test_an_old_session_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    access = with_token()
    session = access.new_session()
    now = int(session.split(".")[0])
    monkeypatch.setattr("time.time", lambda: now + 1.0)
    assert not access.is_session(session)


def test_a_form_is_of_one_session() -> None:
    access = with_token()
    mine, other = access.new_session(), access.new_session()
    assert access.is_form_token(access.form_token(mine), mine)
    assert not access.is_form_token(access.form_token(other), mine)
    assert not access.is_form_token(mine.rpartition(".")[2], mine), "the signature of the cookie itself"
    assert not access.is_form_token("", mine)


def test_tokens() -> None:
    assert with_token().is_token(TOKEN)
    assert not with_token().is_token(TOKEN[:-1])
    assert not with_token().is_token("ä")
    assert not on_loopback().is_token("")


def test_wrong_tokens_are_limited_by_address_and_altogether() -> None:
    now = [0.0]
    guesses = Guesses(each=3, altogether=5, seconds=60, clock=lambda: now[0])
    for _ in range(3):
        assert guesses.allowed("192.0.2.1")
        guesses.wrong("192.0.2.1")
    assert not guesses.allowed("192.0.2.1")
    assert guesses.allowed("192.0.2.2")
    for number in (2, 3):
        guesses.wrong(f"192.0.2.{number}")
    assert not guesses.allowed("192.0.2.9"), "all together"
    now[0] = 61.0
    assert guesses.allowed("192.0.2.1")
