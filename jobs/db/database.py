"""Connections and transactions, and every difference between SQLite and PostgreSQL that is not a statement's own.

SQLite runs in WAL mode; a writing transaction takes its lock at the start (`BEGIN IMMEDIATE`), so that two writers
wait for each other and neither fails half-way. Times are the database's, never the machine's.
"""

from __future__ import annotations

import errno
import math
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from jobs.db.tables import Utc
from jobs.disk import check_writable, private_file, private_folder, trouble
from jobs.errors import DatabaseUnavailable, ForeignDatabase
from jobs.redaction import redacted

if TYPE_CHECKING:
    import psycopg

__all__ = ["VERSION_TABLE", "Database", "bulk_insert", "later", "now"]

VERSION_TABLE = "cars_schema"  # Alembic's; a database with tables but without this one belongs to another program
REST_SECONDS = 0.2  # after so long without use a connection is asked whether it still lives
ROOM_BYTES = 1 << 20  # less is called a full disk
_REFUSED = ("42501", "25006")  # SQLSTATE: insufficient_privilege, read_only_sql_transaction
BUSY_SECONDS = 60  # how long a writer waits for SQLite's lock before it fails


class now(FunctionElement[datetime]):  # noqa: N801 - written like the SQL function that it is
    """The database's clock at this moment (not at the start of the transaction)."""

    type = Utc()
    inherit_cache = True


class later(FunctionElement[datetime]):  # noqa: N801
    """`later(seconds)`: the database's clock, so many seconds ahead (or back, if negative)."""

    type = Utc()
    inherit_cache = True


@compiles(now, "postgresql")
def _(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "clock_timestamp()"


@compiles(now, "sqlite")
def _(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(later, "postgresql")
def _(element: Any, compiler: Any, **kw: Any) -> str:
    return f"clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)})"


@compiles(later, "sqlite")
def _(element: Any, compiler: Any, **kw: Any) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(element.clauses, **kw)} || ' seconds')"


class Database:
    """An engine and its transactions. Safe in several threads; make a new one in a forked process."""

    def __init__(self, url: str | URL) -> None:
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = self._sqlite() if self.sqlite else self._postgres()
        self._reader = self.engine if self.sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")

    def _sqlite(self) -> Engine:
        assert self.url.database
        folder = Path(self.url.database).parent
        try:
            private_folder(folder)
        except OSError as exc:
            raise DatabaseUnavailable(
                f"the folder {folder} cannot be made: {trouble(exc, folder.parent)} (CARS_HOME)"
            ) from exc
        with suppress(OSError):  # which connecting finds, too
            private_file(Path(self.url.database))  # SQLite gives its other files the same mode
        engine = create_engine(self.url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})
        engine.dialect.statement_compiler = _HintingCompiler
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine

    def _postgres(self) -> Engine:
        engine = create_engine(
            self.url,
            pool_size=4,
            max_overflow=12,
            connect_args={"connect_timeout": 10, "application_name": "cars"},
        )
        _ping_the_rested(engine)
        event.listen(engine, "before_cursor_execute", _in_binary)
        return engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection for statements that only read; each sees its own moment (in SQLite, all see the
        first's).
        """
        with self._translated(), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a transaction that only reads: the rows of a statement are of one moment, however long they are fetched
        (in SQLite, those of all statements).
        """
        with self._translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """Yield a transaction that writes: committed at the end, rolled back on an exception.

        Not `durable`: the server may forget it if it loses power within the next moment (a lease, a heartbeat).
        """
        with self._translated(), self.engine.connect() as connection:
            connection = connection.execution_options(cars_write=True)
            with connection.begin():
                if not durable and not self.sqlite:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError) as exc:
            raise DatabaseUnavailable(self._trouble(exc.orig)) from exc
        except DBAPIError as exc:
            if getattr(exc.orig, "sqlstate", None) in _REFUSED:
                raise DatabaseUnavailable(self._trouble(exc.orig)) from exc
            if not isinstance(exc.orig, sqlite3.DatabaseError) or exc.orig.sqlite_errorname not in _NOT_OURS:
                raise
            raise ForeignDatabase(f"{self.url.database} {_NOT_OURS[exc.orig.sqlite_errorname]}") from exc
        except _lost_in_copy() as exc:
            raise DatabaseUnavailable(self._trouble(exc)) from exc

    def _trouble(self, exc: BaseException | None) -> str:
        """Return what keeps the database from serving, and what to do."""
        place = redacted(self.url)
        if self.sqlite:
            if reason := _disk_trouble(getattr(exc, "sqlite_errorname", ""), Path(self.url.database or "").parent):
                return f"the database cannot be written: {reason}"
            if "SQLITE_BUSY" in getattr(exc, "sqlite_errorname", ""):
                return (
                    f"the database at {place} is locked by another program that has been writing for {BUSY_SECONDS} s"
                )
        match getattr(exc, "sqlstate", None):
            case "53100":  # disk_full
                return f"the disk of the database server at {place} is full: make room there"
            case "42501":  # insufficient_privilege
                return f"the user of the database at {place} lacks a permission ({_first_line(exc)}): grant it"
            case "25006":  # read_only_sql_transaction
                return f"the database at {place} is read-only ({_first_line(exc)}): connect to its primary server"
        return f"the database at {place} does not answer ({_first_line(exc)}); check CARS_DATABASE_URL and that it runs"

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class _HintingCompiler(SQLiteCompiler):
    """SQLAlchemy's, which passes over hints: `INDEXED BY` is what names an index to SQLite."""

    def get_from_hint_text(self, _table: Any, text: str | None) -> str | None:
        """Return what follows the name of the table."""
        return text


def _lost_in_copy() -> tuple[type[Exception], ...]:
    """Return what psycopg raises itself in the midst of a COPY, which SQLAlchemy does not see. Loaded only after an
    error.
    """
    import psycopg

    return (psycopg.OperationalError,)


def _disk_trouble(code: str, folder: Path) -> str | None:
    """Return what is wrong with the disk when SQLite returns `code`; None where it is something else."""
    if not code.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return None
    if wrong := check_writable(folder):
        return wrong
    full = code == "SQLITE_FULL" or shutil.disk_usage(folder).free < ROOM_BYTES
    return trouble(errno.ENOSPC if full else errno.EIO if "IOERR" in code else errno.EACCES, folder)


_NOT_OURS = {
    "SQLITE_NOTADB": "is not an SQLite database; set CARS_DATABASE_URL",
    "SQLITE_CORRUPT": "is damaged; restore it from a backup, or move it away to begin anew",
}


def _first_line(exc: BaseException | None) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def _ping_the_rested(engine: Engine) -> None:
    """Ask a pooled connection whether it lives before it is used again, unless it was used a moment ago: a batch of
    tiny files takes less time than four such questions are worth.
    """

    def rest(_connection: Any, record: Any) -> None:
        record.info["rested_since"] = time.monotonic()

    def ping(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("rested_since", math.inf) < REST_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as exc:
            raise InvalidatePoolError from exc  # the pool then opens new ones

    event.listen(engine, "checkin", rest)
    event.listen(engine, "checkout", ping)


def _in_binary(_connection: Any, cursor: Any, _sql: Any, _values: Any, context: Any, _many: Any) -> None:
    """Have PostgreSQL send values as it stores them, where `cars_binary` is asked for: bytes take half the room."""
    if context.execution_options.get("cars_binary"):
        cursor.format = 1  # psycopg.pq.Format.BINARY; psycopg is not loaded where only SQLite is used


def _sqlite_connect(connection: sqlite3.Connection, _record: Any) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables or VERSION_TABLE in tables:  # else another program's file, which stays as it is
        connection.execute("PRAGMA journal_mode=WAL").close()
    for pragma in (
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-32000",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _sqlite_begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("cars_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def bulk_insert(connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert many rows at once: COPY in PostgreSQL, executemany in SQLite. The values are the driver's own types."""
    if connection.dialect.name == "sqlite":
        placeholders = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({placeholders})"  # noqa: S608 - names of our own tables
        if values := [tuple(row) for row in rows]:
            connection.exec_driver_sql(sql, values)
        return
    raw: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    with raw.cursor() as cursor, cursor.copy(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
