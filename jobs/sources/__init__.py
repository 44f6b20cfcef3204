"""The images of a source: which there are, in what order, and their bytes. The only place that touches user paths.

text = canonical("photos/")                      # what a job's row keeps: done once, where the user's folder is
with open_source(text, roots=None, max_file_bytes=64_000_000) as source:
    for entry in source.scan():                  # streamed, sorted, resumable with after=entry.path
        if entry.error is None:
            source.read(entry.path)
"""

from collections.abc import Sequence
from contextlib import closing

from jobs.sources.addresses import canonical, local_root, parse, permitted_folder, permitted_url
from jobs.sources.base import Entry, Source
from jobs.sources.files import Listed, listed
from jobs.sources.kinds import NO_SUFFIX
from jobs.sources.local import LocalSource
from jobs.sources.manifest import LARGEST_DEPTH, ManifestInvalid, listing_of, manifest_path, read_manifest
from jobs.sources.paths import decode, encode

__all__ = [
    "LARGEST_DEPTH",
    "Entry",
    "Listed",
    "ManifestInvalid",
    "Source",
    "canonical",
    "check_listable",
    "decode",
    "encode",
    "has_images",
    "listed",
    "listing_of",
    "manifest_path",
    "open_source",
    "read_manifest",
    "what_it_has",
]


def open_source(source: str, *, roots: Sequence[str] | None, max_file_bytes: int) -> Source:
    """Open what `canonical` returned (never a user's text itself: a backslash means something else there).

    `roots`: the absolute folders and URL prefixes that may be read; None allows every local folder and supported
    URL. A local source is checked by its real path, after links. `max_file_bytes`: no larger file is ever read.

    Raises `SourceNotAllowed` (outside the roots, a protocol that is not listed, a chained URL), `SourceMissing` (no
    such folder) and `SourceError` (a package for the protocol is not installed). A remote source is not contacted
    before its first scan or read.
    """
    address = parse(source)
    if address.protocol:
        from jobs.sources.remote import open_remote  # fsspec is slow to load

        permitted_url(address, roots)
        return open_remote(address, max_file_bytes=max_file_bytes)
    real = permitted_folder(address, roots)
    return LocalSource(local_root(address, real), paths=(real, address.folder), max_file_bytes=max_file_bytes)


def has_images(source: Source) -> bool:
    """Return whether a scan would give any row, be it one with an error; looks no further than the first."""
    with closing(source.scan()) as entries:
        return next(entries, None) is not None


def check_listable(source: str, *, roots: Sequence[str] | None, max_file_bytes: int) -> None:
    """Open the source anew and list the beginning of its root; raises what `open_source` and a scan raise.

    What a file that is missing says depends on it: a folder that was moved, or a disk that is away, lacks all of them.
    """
    with open_source(source, roots=roots, max_file_bytes=max_file_bytes) as opened:
        has_images(opened)


def what_it_has(source: Source) -> str:
    """Return what the last scan of a source without images met instead, in words: which suffixes, and how often."""
    if not source.left_out:
        return "it is empty (files whose names start with a dot do not count)"
    frequent = source.left_out.most_common(8)
    names = [f"{files:,} {'without a suffix' if suffix == NO_SUFFIX else suffix}" for suffix, files in frequent]
    more = [f"{len(source.left_out) - len(frequent)} more suffixes"] if len(source.left_out) > len(frequent) else []
    return f"its files are others ({', '.join([*names, *more])})"
