"""The corrected images, stored by the hash of their bytes, so that a later training run can read them.

They lie beside the model versions (CARS_MODELS), where every client and every training worker can reach them. The
folder starts with a dot, as no version's name can.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import unquote

from jobs.disk import private_folder, replacing, trouble
from jobs.errors import ImageNotFound, NotPossible, OutputError

__all__ = ["CorrectionPhotoStore", "local_folder"]

FOLDER = ".corrections"


def local_folder(model_store: str) -> Path | None:
    """Return the folder that a path or a `file://` URL of a model store names; None for another URL."""
    scheme, separator, rest = model_store.partition("://")
    if not separator or model_store.startswith(("/", "~", ".")):
        return Path(model_store).expanduser()
    return Path(unquote(rest.removeprefix("localhost"))).expanduser() if scheme.lower() == "file" else None


class CorrectionPhotoStore:
    """The corrected images of a model store (a local folder or an fsspec URL)."""

    def __init__(self, model_store: str) -> None:
        folder = local_folder(model_store)
        self._local = None if folder is None else folder / FOLDER
        self._url = f"{model_store.rstrip('/')}/{FOLDER}"

    def store(self, content: bytes) -> bytes:
        """Store an image, whole or not at all; return its SHA-256. Raises OutputError or NotPossible where nothing can
        be written.
        """
        content_hash = hashlib.sha256(content).digest()
        try:
            if self._local is not None:
                private_folder(self._local)
                with replacing(self._local / content_hash.hex(), private=True) as stream:
                    stream.write(content)
            else:
                self._write_remote(content_hash.hex(), content)
        except OSError as exc:
            folder = self._local or self._url
            raise OutputError(f"the image cannot be stored: {trouble(exc, folder)} (CARS_MODELS)") from exc
        except Exception as exc:  # every driver raises its own
            raise NotPossible(f"the image cannot be stored in {self._url}: {exc}; check CARS_MODELS") from exc
        return content_hash

    def read(self, content_hash: bytes) -> bytes:
        """Return an image, its hash verified. Raises ImageNotFound when it is missing or damaged."""
        name = content_hash.hex()
        try:
            content = (self._local / name).read_bytes() if self._local is not None else self._read_remote(name)
        except Exception as exc:  # every driver raises its own
            raise ImageNotFound(f"the corrected image {name} is not in {self._url}: {exc}") from exc
        if hashlib.sha256(content).digest() != content_hash:
            raise ImageNotFound(f"the corrected image {name} in {self._url} is damaged: label it again")
        return content

    def _write_remote(self, name: str, content: bytes) -> None:
        import fsspec

        files, root = fsspec.core.url_to_fs(self._url)
        files.pipe_file(f"{root.rstrip('/')}/{name}", content)

    def _read_remote(self, name: str) -> bytes:
        import fsspec

        files, root = fsspec.core.url_to_fs(self._url)
        content: bytes = files.cat_file(f"{root.rstrip('/')}/{name}")
        return content
