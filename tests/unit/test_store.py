import io
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from model import cards
from model.errors import ArtifactCorrupt, ArtifactExists, ArtifactUnsafe, CardInvalid, StoreUnavailable
from model.store import Store
from tests.support.artifacts import graph, write_artifact

_numbers = itertools.count()


class _Objects(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's memory, where each reader has a position of its own, as in an object store; fsspec's readers share one,
    and of two at once one gets nothing.
    """

    protocol = "objects"
    store: ClassVar[dict[str, object]] = {}

    def _open(self, path: str, mode: str = "rb", **options: object) -> object:
        opened = super()._open(path, mode, **options)
        return io.BytesIO(opened.getvalue()) if mode == "rb" else opened


fsspec.register_implementation("objects", _Objects, clobber=True)


@pytest.fixture(name="url", params=["path", "file", "objects"])
def _url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind; one of objects has no rename that counts."""
    return {
        "path": str(tmp_path / "models"),
        "file": f"file://{tmp_path}/models",
        "objects": f"objects://store-{next(_numbers)}/models",
    }[str(request.param)]


@pytest.fixture(name="store")
def _store(url: str, tmp_path: Path) -> Store:
    return Store(url, tmp_path / "cache")


def _overwrite(url: str, file: str, data: bytes) -> None:
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/{file}", data)


def _remove(url: str, file: str) -> None:
    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/{file}")


def test_what_was_put_is_fetched(store: Store, tmp_path: Path) -> None:
    card = write_artifact(tmp_path / "v1", {"model.onnx": graph().SerializeToString(), "plots/a.png": b"\x89PNG"},
                          engines={"onnx": {"file": "model.onnx", "precision": "int8", "top1_delta": 0.0}})  # fmt: skip
    (tmp_path / "v1" / "notes.txt").write_text("not listed")
    digest = store.put(tmp_path / "v1", "v1")
    assert digest == cards.digest(tmp_path / "v1") == store.digest("v1")
    folder = store.fetch("v1", digest)
    assert cards.verify(folder) == card
    assert (folder / "plots" / "a.png").read_bytes() == b"\x89PNG"
    assert not (folder / "notes.txt").exists()
    assert store.fetch("v1", digest) == folder


def test_the_card_is_kept_byte_for_byte(store: Store, tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    text = (tmp_path / "v1" / "card.json").read_bytes().replace(b'"format"', b'  "format"')
    (tmp_path / "v1" / "card.json").write_bytes(text)
    folder = store.fetch("v1", store.put(tmp_path / "v1", "v1"))
    assert (folder / "card.json").read_bytes() == text


def test_the_same_again_changes_nothing_and_other_content_is_refused(store: Store, tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    write_artifact(tmp_path / "other", temperature=2.0)
    digest = store.put(tmp_path / "v1", "v1")
    assert store.put(tmp_path / "v1", "v1") == digest
    with pytest.raises(ArtifactExists, match="v1"):
        store.put(tmp_path / "other", "v1")
    assert store.digest("v1") == digest
    assert cards.read(store.fetch("v1", digest)).temperature == 1.5


def test_files_that_were_lost_are_restored_by_the_same_again(store: Store, url: str, tmp_path: Path) -> None:
    files = {"model.onnx": graph().SerializeToString(), "plots/a.png": b"\x89PNG", "plots/b.png": b"\x89PNG"}
    engine = {"file": "model.onnx", "precision": "int8", "top1_delta": 0.0}
    write_artifact(tmp_path / "v1", files, engines={"onnx": engine})
    digest = store.put(tmp_path / "v1", "v1")
    _remove(url, "v1/plots/a.png")
    _overwrite(url, "v1/plots/b.png", b"half")
    with pytest.raises(ArtifactCorrupt):
        Store(url, tmp_path / "new").fetch("v1", digest)
    assert store.put(tmp_path / "v1", "v1") == digest
    assert (Store(url, tmp_path / "newer").fetch("v1", digest) / "plots" / "a.png").read_bytes() == b"\x89PNG"


@pytest.mark.parametrize("name", ["production", "Production", "imagenet", "scratch"])
def test_a_word_that_commands_take_is_not_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="something else"):
        cards.check_name(name)


def test_versions_lie_beside_each_other(store: Store, tmp_path: Path) -> None:
    digests = {}
    for name in ("v1", "v2"):
        write_artifact(tmp_path / name, name=name)
        digests[name] = store.put(tmp_path / name, name)
    assert digests["v1"] != digests["v2"]
    assert cards.read(store.fetch("v2", digests["v2"])).name == "v2"
    assert store.digest("v3") is None


def test_a_version_without_its_card_is_none(store: Store, url: str, tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    digest = cards.digest(tmp_path / "v1")
    with pytest.raises(ArtifactCorrupt, match="v1"):
        store.fetch("v1", digest)
    store.put(tmp_path / "v1", "v1")
    _remove(url, "v1/card.json")
    assert store.digest("v1") is None
    with pytest.raises(ArtifactCorrupt, match="v1"):
        store.fetch("v1", digest)


def test_an_upload_that_broke_off_is_finished_by_the_next(tmp_path: Path) -> None:
    url = f"objects://store-{next(_numbers)}"
    write_artifact(tmp_path / "v1")
    _overwrite(url, "v1/model.onnx", b"half of")
    store = Store(url, tmp_path / "cache")
    digest = store.put(tmp_path / "v1", "v1")
    assert cards.digest(store.fetch("v1", digest)) == digest


def test_a_local_upload_that_broke_off_leaves_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(tmp_path / "v1")
    store = Store(str(tmp_path / "models"), tmp_path / "cache")

    def out_of_space(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", out_of_space)
        with pytest.raises(StoreUnavailable, match="No space left"):
            store.put(tmp_path / "v1", "v1")
    assert list((tmp_path / "models").iterdir()) == []
    store.put(tmp_path / "v1", "v1")


def test_a_folder_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    (tmp_path / "models" / "v1").mkdir(parents=True)
    (tmp_path / "models" / "v1" / "mine.txt").write_text("precious")
    with pytest.raises(ArtifactExists, match="move it away"):
        Store(str(tmp_path / "models"), tmp_path / "cache").put(tmp_path / "v1", "v1")
    assert (tmp_path / "models" / "v1" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("file", ["model.onnx", "weights.safetensors"])
def test_a_damaged_file_in_the_store_is_found(store: Store, url: str, tmp_path: Path, file: str) -> None:
    write_artifact(tmp_path / "v1")
    digest = store.put(tmp_path / "v1", "v1")
    _overwrite(url, f"v1/{file}", b"damaged")
    with pytest.raises(ArtifactCorrupt, match=file):
        store.fetch("v1", digest)
    assert not list((tmp_path / "cache").glob("*"))


def test_another_card_than_the_registered_one_is_refused(store: Store, url: str, tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    write_artifact(tmp_path / "other", temperature=2.0)
    digest = store.put(tmp_path / "v1", "v1")
    _overwrite(url, "v1/card.json", (tmp_path / "other" / "card.json").read_bytes())
    with pytest.raises(ArtifactCorrupt, match="registered"):
        store.fetch("v1", digest)


def test_a_damaged_copy_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    store = Store(f"objects://store-{next(_numbers)}", tmp_path / "cache")
    write_artifact(tmp_path / "v1")
    digest = store.put(tmp_path / "v1", "v1")
    folder = store.fetch("v1", digest)
    (folder / "model.onnx").write_bytes(b"bit rot")
    assert store.fetch("v1", digest) == folder
    assert cards.verify(folder).name == "v1"


def test_no_file_of_a_copy_goes_away_while_it_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"objects://store-{next(_numbers)}", tmp_path / "cache")
    write_artifact(tmp_path / "v1")
    digest = store.put(tmp_path / "v1", "v1")
    folder = store.fetch("v1", digest)
    names = sorted(file.name for file in folder.iterdir())
    (folder / "model.onnx").write_bytes(b"bit rot")
    (folder / "learner.pkl").write_bytes(b"\x80\x04.")
    seen: list[set[str]] = []
    download = _Objects.get_file

    def get_file(self: _Objects, *args: object, **options: object) -> None:
        seen.append({file.name for file in folder.iterdir()})
        download(self, *args, **options)

    monkeypatch.setattr(_Objects, "get_file", get_file)
    assert store.fetch("v1", digest) == folder
    assert seen
    assert all(set(names) <= present for present in seen)
    assert sorted(file.name for file in folder.iterdir()) == names


def test_the_cache_serves_while_the_store_is_away(tmp_path: Path) -> None:
    url = f"objects://store-{next(_numbers)}"
    write_artifact(tmp_path / "v1")
    store = Store(url, tmp_path / "cache")
    digest = store.put(tmp_path / "v1", "v1")
    store.fetch("v1", digest)
    _remove(url, "v1/card.json")
    assert cards.digest(store.fetch("v1", digest)) == digest


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"changed"), ArtifactCorrupt),
        (lambda folder: (folder / "learner.pkl").write_bytes(b"\x80\x04."), ArtifactUnsafe),
        (lambda folder: (folder / "card.json").unlink(), CardInvalid),
    ],
)
def test_an_unsound_artifact_is_not_stored(
    store: Store, tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception]
) -> None:
    write_artifact(tmp_path / "v1")
    spoil(tmp_path / "v1")
    with pytest.raises(error):
        store.put(tmp_path / "v1", "v1")
    assert store.digest("v1") is None


def test_the_name_must_be_the_cards_and_a_name(store: Store, tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    with pytest.raises(CardInvalid, match="v2"):
        store.put(tmp_path / "v1", "v2")
    for call in (store.digest, lambda name: store.fetch(name, "0" * 64), lambda name: store.put(tmp_path / "v1", name)):
        with pytest.raises(CardInvalid, match="cannot name a version"):
            call("../v1")


def test_many_may_put_and_fetch_the_same_version_at_once(store: Store, tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    found: list[object] = []

    def publish() -> None:
        try:
            found.append(cards.verify(store.fetch("v1", store.put(tmp_path / "v1", "v1"))).name)
        except BaseException as exc:
            found.append(exc)

    threads = [threading.Thread(target=publish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == ["v1"] * 6


@pytest.mark.parametrize("url", ["zip::s3://bucket/models", "nosuchprotocol://models"])
def test_a_store_that_cannot_be_used_says_so(tmp_path: Path, url: str) -> None:
    write_artifact(tmp_path / "v1")
    with pytest.raises(StoreUnavailable, match="models"):
        Store(url, tmp_path / "cache").put(tmp_path / "v1", "v1")
