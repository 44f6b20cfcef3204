"""Where published versions live: a local folder or any fsspec URL, each version in a folder of its name.

A reader never sees half a version: locally a finished folder is renamed into place; an object store has no rename, so
`card.json` is written last and a folder without it does not count. Versions are immutable.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec

from model import cards
from model.cards import CARD, CARD_BYTES, Card, check_name, parse_card, read_verified
from model.errors import ArtifactCorrupt, ArtifactExists, ArtifactUnsafe, CardInvalid, ModelError, StoreUnavailable
from model.file_safety import FILE_BYTES, read_regular

__all__ = ["Store"]


class Store:
    """The versions under `url` (a path, `file://…` or an fsspec URL); remote ones are kept in `cache_dir`."""

    def __init__(self, url: str, cache_dir: Path) -> None:
        """Open nothing yet. Raises StoreUnavailable for a chained URL (`::`)."""
        local = url.startswith(("/", "~", "."))
        if "::" in url and not local:
            raise StoreUnavailable(f"{url} chains protocols, which a model store may not; give one URL (CARS_MODELS)")
        self.url, self._cache = url.rstrip("/") or "/", cache_dir
        scheme, separator, rest = url.partition("://")
        self._local: Path | None = None
        if local or not separator:
            self._local = Path(url).expanduser()
        elif scheme.lower() == "file":
            self._local = Path(unquote(rest.removeprefix("localhost"))).expanduser()

    def put(self, folder: Path, name: str) -> str:
        """Store the verified artifact in `folder` as `name`; return its digest. Only what its card lists is taken.

        The same content again changes nothing, but brings back files that the store has lost. Raises ArtifactExists
        for other content under a name that is taken, the errors of `cards.verify`, and StoreUnavailable.
        """
        _check(name)
        card = cards.verify(folder)
        if card.name != name:
            raise CardInvalid(f"the card in {folder} is that of version {card.name}, not of {name}")
        digest = cards.digest(folder)
        stored = self.digest(name)
        if stored is None:
            with self._unavailable():
                self._put_local(folder, card) if self._local else self._put_remote(folder, card)
            stored = self.digest(name)
        if stored != digest:
            raise ArtifactExists(
                f"{self.url} already has a version {name} with other content; versions are never replaced: "
                "give this one another name"
            )
        with self._unavailable():
            self._repair_local(folder, card) if self._local else self._repair_remote(folder, card)
        return digest

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of the stored version's card, in hex; None if there is no such version. Raises
        StoreUnavailable.
        """
        _check(name)
        with self._unavailable():
            try:
                return hashlib.sha256(self._card_bytes(name)).hexdigest()
            except FileNotFoundError:
                return None

    def fetch(self, name: str, digest: str) -> Path:
        """Return a local folder with the version `name`, every hash verified, its card the one with this `digest`.

        Raises ArtifactCorrupt where the store holds something else or nothing, ArtifactUnsafe, and StoreUnavailable.
        """
        _check(name)
        if self._local:
            return _verified(self._local / name, digest)
        cached = self._cache / f"{name}-{digest[:16]}"
        if cached.exists():
            with suppress(ModelError):
                return _verified(cached, digest)
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=self._cache) as draft, self._unavailable():
            self._download(name, digest, Path(draft) / name)
            _keep(Path(draft) / name, cached)
        return _verified(cached, digest)

    def _card_bytes(self, name: str) -> bytes:
        if self._local:
            return read_regular(self._local / name / CARD, limit=CARD_BYTES)
        files, root = self._remote()
        url = f"{root}/{name}/{CARD}"
        _check_size(url, files.size(url), limit=CARD_BYTES)
        data: bytes = files.cat_file(url)
        return data

    def _remote(self) -> tuple[Any, str]:
        files, root = fsspec.core.url_to_fs(self.url)
        return files, root.rstrip("/")

    def _put_local(self, folder: Path, card: Card) -> None:
        root = self._local or Path()
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{card.name}-", dir=root) as draft:
            copy = Path(draft) / card.name
            for file in card.files:
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                (copy / file).write_bytes(read_verified(folder, card, file))
            (copy / CARD).write_bytes(cards.read_bytes(folder))
            try:
                copy.rename(root / card.name)
            except OSError as exc:
                if self.digest(card.name) is not None:
                    return
                if _has_only(
                    root / card.name, card
                ):  # a version that has lost its card, which says last that it is there
                    self._repair_local(folder, card)
                    (copy / CARD).replace(root / card.name / CARD)
                else:
                    raise ArtifactExists(
                        f"{root / card.name} exists and is not a model version ({exc.strerror}); move it away"
                    ) from exc

    def _repair_local(self, folder: Path, card: Card) -> None:
        stored = (self._local or Path()) / card.name
        for file in card.files:
            with suppress(ModelError, FileNotFoundError):
                read_verified(stored, card, file)
                continue
            (stored / file).parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{card.name}-", dir=self._local) as draft:
                (Path(draft) / "file").write_bytes(read_verified(folder, card, file))
                (Path(draft) / "file").replace(stored / file)

    def _repair_remote(self, folder: Path, card: Card) -> None:
        files, root = self._remote()
        for file in card.files:
            content = read_verified(folder, card, file)
            try:
                whole = files.cat_file(f"{root}/{card.name}/{file}") == content
            except FileNotFoundError:
                whole = False
            if not whole:
                files.pipe_file(f"{root}/{card.name}/{file}", content)

    def _put_remote(self, folder: Path, card: Card) -> None:
        files, root = self._remote()
        for file in card.files:
            files.pipe_file(f"{root}/{card.name}/{file}", read_verified(folder, card, file))
        files.pipe_file(f"{root}/{card.name}/{CARD}", cards.read_bytes(folder))

    def _download(self, name: str, digest: str, target: Path) -> None:
        files, root = self._remote()
        try:
            data = self._card_bytes(name)
            target.mkdir(parents=True)
            (target / CARD).write_bytes(data)
            for file in parse_card(data, f"{self.url}/{name}/{CARD}").files:
                (target / file).parent.mkdir(exist_ok=True)
                url = f"{root}/{name}/{file}"
                _check_size(url, files.size(url), limit=FILE_BYTES)
                files.get_file(url, str(target / file))
        except FileNotFoundError as exc:
            raise ArtifactCorrupt(
                f"{self.url} has no complete version {name}: {exc}; publish or import it again"
            ) from exc
        _verified(target, digest)

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Turn what drivers raise, each its own, into StoreUnavailable; a missing file is the caller's matter."""
        try:
            yield
        except (ModelError, FileNotFoundError):
            raise
        except ImportError as exc:
            raise StoreUnavailable(f"{self.url} needs a driver: {exc}; for s3:// install the extra `s3`") from exc
        except Exception as exc:
            raise StoreUnavailable(
                f"the model store {self.url} cannot be used: {exc}; check CARS_MODELS, its credentials and permissions"
            ) from exc


def _has_only(folder: Path, card: Card) -> bool:
    """Return whether a folder has files, and none but those of the card."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    return bool(names) and set(names) <= set(card.files)


def _keep(sound: Path, cached: Path) -> None:
    """Put a verified copy in its place. One that is there is repaired file by file: others may be reading it."""
    try:
        sound.rename(cached)
    except OSError:
        if not cached.is_dir():
            raise
        for file in [path for path in cached.rglob("*") if not path.is_dir() or path.is_symlink()]:
            if not (sound / file.relative_to(cached)).is_file():
                file.unlink(missing_ok=True)
        for file in [path for path in sound.rglob("*") if path.is_file()]:
            target = cached / file.relative_to(sound)
            target.parent.mkdir(exist_ok=True)
            file.replace(target)


def _check_size(url: str, size: int | None, *, limit: int) -> None:
    if size is not None and size > limit:
        raise ArtifactUnsafe(f"{url} has {size:,} bytes; at most {limit:,} are read")


def _check(name: str) -> None:
    try:
        check_name(name)
    except ValueError as exc:
        raise CardInvalid(str(exc)) from exc


def _verified(folder: Path, digest: str) -> Path:
    if not (folder / CARD).is_file():
        raise ArtifactCorrupt(f"{folder} has no {CARD}: the version is not there; import it again")
    found = cards.digest(folder)
    if found != digest:
        raise ArtifactCorrupt(f"{folder / CARD} is not the card that was registered: SHA-256 {found}, not {digest}")
    cards.verify(folder)
    return folder
