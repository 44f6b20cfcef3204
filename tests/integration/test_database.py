"""What a pooled connection does when the server has cut it off meanwhile."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from jobs import Client
from jobs.db import database
from jobs.errors import DatabaseUnavailable

pytestmark = pytest.mark.parametrize("backend", ["server"], indirect=True)


def _cut_off(url: str) -> None:
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as admin:
        cut = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cut.rowcount


def _url(client: Client) -> str:
    return client.database.url.render_as_string(hide_password=False)


def test_a_rested_connection_is_replaced_unnoticed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "REST_SECONDS", 0.0)
    client.models()
    _cut_off(_url(client))
    assert client.models()


def test_one_that_was_used_a_moment_ago_fails_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "REST_SECONDS", 1e9)
    client.models()
    _cut_off(_url(client))
    with pytest.raises(DatabaseUnavailable):
        client.models()
    assert client.models()


def test_a_standby_server_is_called_read_only(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    client.models()
    with psycopg.connect(_url(client).replace("+psycopg", ""), autocommit=True) as admin:
        row = admin.execute("SELECT current_database()").fetchone()
        assert row is not None
        admin.execute(f'ALTER DATABASE "{row[0]}" SET default_transaction_read_only = on')
    with Client() as other, pytest.raises(DatabaseUnavailable, match=r"is read-only .* connect to its primary"):
        other.submit(str(tmp_path))
