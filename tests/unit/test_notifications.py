"""Which URLs may be told of the ends of jobs, and what signs the requests."""

from __future__ import annotations

import pytest

from jobs import settings as configuration
from jobs.errors import SettingsInvalid
from jobs.notifications import check
from jobs.settings import load
from tests.support.receivers import SECRET

HOSTS = "hooks.example.com, other.example.com:8443\n127.0.0.1:8080,[::1]:8080"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://hooks.example.com/x?a=b", ("https", "hooks.example.com", 443)),
        ("https://HOOKS.example.com:443/x", ("https", "hooks.example.com", 443)),
        ("https://other.example.com:8443", ("https", "other.example.com", 8443)),
        ("http://other.example.com:8443/", ("http", "other.example.com", 8443)),
        ("http://127.0.0.1:8080/x", ("http", "127.0.0.1", 8080)),
        ("http://[::1]:8080/x", ("http", "::1", 8080)),
    ],
)
def test_hosts_that_are_listed(url: str, target: tuple[str, str, int]) -> None:
    assert check(load(notify_hosts=HOSTS), url) == target


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/x",  # without TLS, its port must be listed
        "https://hooks.example.com:8443/x",
        "https://other.example.com/x",
        "https://sub.hooks.example.com/x",
        "https://hooks.example.com.evil.com/x",
        "https://hooks.example.com./x",
        "https://127.0.0.1/x",
        "http://127.0.0.1:8081/x",
        "http://localhost:8080/x",
        "http://2130706433:8080/x",
        "https://user@hooks.example.com/x",
        "https://hooks.example.com@evil.com/x",
        "https://evil.com\\@hooks.example.com/x",
        "https://evil.com#@hooks.example.com/x",
        "https://hooks.example.com /x",
        "https://hooks.example.com\n/x",
        "ftp://hooks.example.com/x",
        "file:///etc/passwd",
        "hooks.example.com/x",
        "https:///x",
        "https://hooks.example.com:99999/x",
        "https://[::1/x",
        "",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="notify"):
        check(load(notify_hosts=HOSTS), url)


def test_by_default_no_host_is_listed() -> None:
    with pytest.raises(SettingsInvalid, match=r"CARS_NOTIFY_HOSTS must have hooks.example.com:443|hooks.example.com"):
        check(load(), "https://hooks.example.com/x")


def test_what_the_url_carries_is_not_shown() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        check(load(), "https://user:pass@hooks.example.com/x?token=hidden")
    assert "hidden" not in str(caught.value)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize("hosts", ["https://hooks.example.com", "*.example.com", "hooks.example.com/x", "a:b"])
def test_hosts_that_cannot_be(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARS_NOTIFY_HOSTS", hosts)
    with pytest.raises(SettingsInvalid, match="CARS_NOTIFY_HOSTS must be hosts such as"):
        load()


@pytest.mark.parametrize(
    "secret", ["password-of-mine", "whsec_short", "whsec_c2hvcnQ=", "c2VjcmV0IGJ5dGVzIGZvciB0aGUg"]
)
def test_secrets_that_cannot_be_are_not_shown(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARS_NOTIFY_SECRET", secret)
    with pytest.raises(SettingsInvalid, match="CARS_NOTIFY_SECRET must be whsec_") as caught:
        load()
    assert secret not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__cause__}"


def test_a_secret_is_never_printed_and_reaches_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARS_NOTIFY_SECRET", SECRET)
    settings = load(notify_hosts="hooks.example.com,other:1")
    assert SECRET[6:] not in f"{settings} {settings!r}"
    for name, value in configuration.environment(settings).items():
        monkeypatch.setenv(name, value)
    again = load()
    assert again.notify_secret == settings.notify_secret
    assert again.notify_hosts == ("hooks.example.com", "other:1")
