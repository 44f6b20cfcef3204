"""Local sources: what is listed, in what order, and that nothing outside is ever read."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import ImageUnavailable, SourceError, SourceMissing, SourceNotAllowed
from jobs.sources import Entry, Source, canonical, decode, has_images, local, open_source, what_it_has

LIMIT = 1000
SECRET = b"secret"
JPEG = b"\xff\xd8\xff\xe0"


def opened(folder: Path | str, *, roots: list[str] | None = None, limit: int = LIMIT) -> Source:
    return open_source(canonical(folder), roots=roots, max_file_bytes=limit)


def make(folder: Path, *names: str | bytes, content: bytes = b"photo") -> Path:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def paths(folder: Path, after: str | None = None) -> list[str]:
    with opened(folder) as source:
        return [entry.path for entry in source.scan(after=after)]


def errors(folder: Path) -> dict[str, str | None]:
    with opened(folder) as source:
        return {entry.path: entry.error and entry.error[0] for entry in source.scan()}


def read_code(source: Source, path: str) -> str:
    with pytest.raises(ImageUnavailable) as caught:
        source.read(path)
    return caught.value.code


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's right to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


class TestWhatIsListed:
    def test_images_dotfiles_and_other_files(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg", "B.PNG", "bmw/x.webp", "bmw/notes.txt", "z.pdf")
        make(tmp_path, "plain", content=JPEG)
        make(tmp_path, ".hidden.jpg", ".dir/x.jpg", "bmw/.DS_Store")
        with opened(tmp_path) as source:
            assert list(source.scan()) == [
                Entry("B.PNG", None),
                Entry("a.jpg", None),
                Entry("bmw/x.webp", "bmw"),
                Entry("plain", None),
            ]
            assert source.skipped == 2
            assert source.left_out == {".txt": 1, ".pdf": 1}

    @pytest.mark.parametrize(
        "name",
        [
            "a",
            "a.jpg.1",
            "b.jpg?w=800&h=600",
            "c.jpg_640x640",
            "d.jpg ",
            "BMW 3.0 front",
            "deep/er/e.dat",
            b"\xff.\xff",
        ],
    )
    def test_where_the_suffix_says_nothing_the_first_bytes_decide(self, tmp_path: Path, name: str | bytes) -> None:
        make(tmp_path, name, content=JPEG)
        make(tmp_path, "other/text", "other/x.part", "other/y.PART", content=b"no photo")
        make(tmp_path, "other/empty", content=b"")
        with opened(tmp_path) as source:
            (entry,) = source.scan()
            assert decode(entry.path) == os.fsencode(name)
            assert source.read(entry.path) == JPEG
            assert source.left_out == {"": 2, ".part": 2}

    def test_a_file_that_is_known_as_something_else_is_never_opened(self, tmp_path: Path) -> None:
        make(tmp_path, "a.txt", "b.mp4", content=JPEG)
        with opened(tmp_path) as source:
            assert list(source.scan()) == []

    def test_what_cannot_be_looked_at_is_a_row(self, tmp_path: Path) -> None:
        make(tmp_path, "secret.dat", content=JPEG)
        (tmp_path / "secret.dat").chmod(0o000)
        tmp_path.chmod(0o755)
        with opened(tmp_path) as source, unprivileged():
            assert [entry.error and entry.error[0] for entry in source.scan()] == ["unreadable"]

    def test_what_a_source_without_images_has(self, tmp_path: Path) -> None:
        with opened(tmp_path) as source:
            assert not has_images(source)
            assert "empty" in what_it_has(source)
        make(tmp_path, *(f"{number}.s{number % 9}" for number in range(1000, 1010)), "a.s4", "plain")
        with opened(tmp_path) as source:
            assert not has_images(source)
            said = what_it_has(source)
        assert "2 .s1, " in said
        assert "2 .s4, " in said
        assert "2 more suffixes" in said

    def test_the_listing_is_the_folder_the_image_is_in(self, tmp_path: Path) -> None:
        make(tmp_path, "a/b/x.jpg", "a/y.jpg", "z.jpg")
        with opened(tmp_path) as source:
            assert [entry.listing for entry in source.scan()] == ["a/b", "a", None]

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert paths(tmp_path) == []

    @pytest.mark.parametrize(
        "name", [b"\xff\xfe.jpg", rb"back\slash.jpg", b"new\nline.jpg", b"=cmd.jpg", b" .jpg", b"-rf.jpg", b"a::b.jpg"]
    )
    def test_odd_names_are_images_like_any_other(self, tmp_path: Path, name: bytes) -> None:
        make(tmp_path, name, b"d\xe9\\/" + name, content=b"odd")
        with opened(tmp_path) as source:
            found = list(source.scan())
            assert {decode(entry.path) for entry in found} == {name, b"d\xe9\\/" + name}
            assert [source.read(entry.path) for entry in found] == [b"odd", b"odd"]

    def test_a_fifo_and_a_socket_are_rows_that_are_never_opened(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg")
        os.mkfifo(tmp_path / "pipe.jpg")
        os.mkfifo(tmp_path / "pipe.txt")
        with closing(socket.socket(socket.AF_UNIX)) as server:
            server.bind(str(tmp_path / "socket"))
            with opened(tmp_path) as source:
                found = {entry.path: entry.error and entry.error[0] for entry in source.scan()}
                assert found == {"a.jpg": None, "pipe.jpg": "unsupported", "socket": "unsupported"}
                assert source.skipped == 1
                assert read_code(source, "pipe.jpg") == read_code(source, "socket") == "unsupported"

    def test_a_folder_that_cannot_be_listed_is_one_row(self, tmp_path: Path) -> None:
        make(tmp_path, "a/x.jpg", "b/x.jpg", "c/x.jpg")
        (tmp_path / "b").chmod(0o000)
        tmp_path.chmod(0o755)
        with opened(tmp_path) as source, unprivileged():
            found = list(source.scan())
            assert [entry.path for entry in found] == ["a/x.jpg", "b/", "c/x.jpg"]
            assert [entry.listing for entry in found] == ["a", None, "c"]
            assert found[1].error is not None
            assert found[1].error[0] == "unreadable"
            assert [entry.path for entry in source.scan(after="b/")] == ["c/x.jpg"]
            assert read_code(source, "b/") == "unreadable"
        (tmp_path / "b").chmod(0o700)

    def test_a_source_that_cannot_be_listed_any_more(self, tmp_path: Path) -> None:
        with opened(tmp_path) as source:
            tmp_path.chmod(0o000)
            with unprivileged(), pytest.raises(SourceMissing, match=f"{tmp_path}.*denied"):
                list(source.scan())
            tmp_path.chmod(0o700)

    def test_a_folder_that_goes_during_the_scan_is_not_a_row(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg", "b/x.jpg", "c.jpg")
        with opened(tmp_path) as source, closing(source.scan()) as entries:
            assert next(entries).path == "a.jpg"
            (tmp_path / "b/x.jpg").unlink()
            (tmp_path / "b").rmdir()
            assert [entry.path for entry in entries] == ["c.jpg"]

    def test_a_bottomless_tree_is_cut_off_with_a_row(self, tmp_path: Path) -> None:
        deep = make(tmp_path, "z.jpg") / "/".join(["d"] * 120)
        deep.mkdir(parents=True)
        make(deep, "x.jpg")
        found = errors(tmp_path)
        assert list(found.values()) == ["unreadable", None]
        assert list(found)[1] == "z.jpg"

    def test_a_deep_tree_is_listed(self, tmp_path: Path) -> None:
        name = "/".join(["d"] * 90 + ["x.jpg"])
        make(tmp_path, name)
        assert paths(tmp_path) == [name]
        with opened(tmp_path) as source:
            assert source.read(name) == b"photo"


names = st.binary(min_size=1, max_size=4).filter(lambda raw: not set(raw) & {0, ord("/"), ord(".")})
trees = st.lists(
    st.tuples(st.lists(names, max_size=2), names, st.sampled_from([b"", b".jpg", b".txt"])), min_size=1, max_size=12
)


class TestOrder:
    def test_folders_sort_as_if_they_ended_in_a_slash(self, tmp_path: Path) -> None:
        make(tmp_path, "a/x.jpg", "a.jpg", "a-b.jpg", "a0.jpg", "B.jpg", "é.jpg", b"\xff.jpg")
        assert paths(tmp_path) == ["B.jpg", "a-b.jpg", "a.jpg", "a/x.jpg", "a0.jpg", "é.jpg", r"\xff.jpg"]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(tree=trees, in_memory=st.integers(1, 4))
    def test_any_tree_is_listed_by_raw_path_and_resumes_anywhere(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
        tree: list[tuple[list[bytes], bytes, bytes]],
        in_memory: int,
    ) -> None:
        monkeypatch.setattr(local, "NAMES_HELD", in_memory)
        folder = tmp_path_factory.mktemp("tree")
        for parents, name, suffix in tree:
            with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                make(folder, b"/".join([*parents, name + suffix]), content=JPEG)
        images, others = [], 0
        for at, _, files in os.walk(folder):
            relative = [os.fsencode((Path(at) / name).relative_to(folder)) for name in files]
            images += [path for path in relative if not path.endswith(b".txt")]
            others += sum(path.endswith(b".txt") for path in relative)

        with opened(folder) as source:
            found = []
            before = []
            for entry in source.scan():
                found.append(entry.path)
                before.append(source.skipped)
            assert [decode(path) for path in found] == sorted(images)
            assert source.skipped == others
            for place, path in enumerate(found):
                assert [entry.path for entry in source.scan(after=path)] == found[place + 1 :]
                assert before[place] + source.skipped == others

    def test_resuming_after_a_path_that_is_gone(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg", "b/x.jpg", "c.jpg")
        assert paths(tmp_path, after="b/a.jpg") == ["b/x.jpg", "c.jpg"]
        assert paths(tmp_path, after="b/z.jpg") == ["c.jpg"]
        assert paths(tmp_path, after="b.jpg") == ["b/x.jpg", "c.jpg"]
        assert paths(tmp_path, after="bb/deep/x.jpg") == ["c.jpg"]
        assert paths(tmp_path, after="d") == []

    def test_error_rows_are_not_given_twice(self, tmp_path: Path) -> None:
        make(tmp_path, "z.jpg")
        os.mkfifo(tmp_path / "pipe.jpg")
        assert paths(tmp_path) == ["pipe.jpg", "z.jpg"]
        assert paths(tmp_path, after="pipe.jpg") == ["z.jpg"]

    def test_scans_of_one_source_at_once_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        make(tmp_path, *(f"{number:04}.jpg" for number in range(2000)), content=b"")
        with opened(tmp_path) as source, ThreadPoolExecutor(4) as threads:
            counts = threads.map(lambda _: sum(1 for _ in source.scan()), range(12))
            assert list(counts) == [2000] * 12


class TestLinks:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        return make(tmp_path / "outside", "secret.jpg", "folder/x.jpg", content=SECRET)

    @pytest.fixture
    def inside(self, tmp_path: Path, outside: Path) -> Path:
        return make(tmp_path / "source", "real/photo.jpg", ".store/object.bin")

    @pytest.mark.parametrize(
        ("at", "target"),
        [
            ("link.jpg", "real/photo.jpg"),
            ("real/link.jpg", "photo.jpg"),
            ("real/up.jpg", "../real/../real/photo.jpg"),
            ("annex.jpg", ".store/object.bin"),
            ("absolute.jpg", "{source}/real/photo.jpg"),
            ("untidy.jpg", "{source}/./real//photo.jpg"),
            ("through.jpg", "other/photo.jpg"),
            ("chain.jpg", "annex2.jpg"),
        ],
    )
    def test_a_link_to_a_file_inside_is_an_image(self, inside: Path, at: str, target: str) -> None:
        (inside / "other").symlink_to("real")
        (inside / "annex2.jpg").symlink_to(f"{inside}/.store/object.bin")
        (inside / at).symlink_to(target.format(source=inside))
        assert errors(inside)[at] is None
        with opened(inside) as source:
            assert source.read(at) == b"photo"

    @pytest.mark.parametrize(
        "target",
        [
            "{outside}/secret.jpg",
            "../outside/secret.jpg",
            "real/../../outside/secret.jpg",
            "../source/real/photo.jpg",
            "/dev/zero",
            "/etc/passwd",
            "{outside}/nothing.jpg",
            "{outside}/folder",
            "..",
            "away/secret.jpg",
            "{source}-not/x.jpg",
            "{source}/../outside/secret.jpg",
        ],
    )
    def test_a_link_that_leaves_the_source_is_a_row(self, inside: Path, outside: Path, target: str) -> None:
        (inside / "away").symlink_to(outside)
        (inside / "link.jpg").symlink_to(target.format(outside=outside, source=inside))
        assert errors(inside) == {"away": "outside_source", "link.jpg": "outside_source", "real/photo.jpg": None}
        with opened(inside) as source:
            assert read_code(source, "link.jpg") == "outside_source"

    def test_a_link_to_a_folder_inside_is_not_listed_twice(self, inside: Path) -> None:
        (inside / "again").symlink_to("real")
        (inside / "self").symlink_to(".")
        with opened(inside) as source:
            assert [entry.path for entry in source.scan()] == ["real/photo.jpg"]
            assert source.skipped == 2

    def test_links_that_lead_nowhere(self, inside: Path) -> None:
        (inside / "gone.jpg").symlink_to("real/nothing.jpg")
        (inside / "one.jpg").symlink_to("two.jpg")
        (inside / "two.jpg").symlink_to("one.jpg")
        os.mkfifo(inside / "real" / "pipe.txt")
        (inside / "pipe.jpg").symlink_to("real/pipe.txt")
        assert errors(inside) == {
            "gone.jpg": "vanished",
            "one.jpg": "unreadable",
            "pipe.jpg": "unsupported",
            "real/photo.jpg": None,
            "two.jpg": "unreadable",
        }

    def test_a_source_that_is_itself_a_link(self, tmp_path: Path, inside: Path) -> None:
        alias = tmp_path / "alias"
        alias.symlink_to(inside)
        (inside / "link.jpg").symlink_to(alias / "real" / "photo.jpg")
        with opened(alias) as source:
            assert {entry.path: source.read(entry.path) for entry in source.scan()} == {
                "link.jpg": b"photo",
                "real/photo.jpg": b"photo",
            }

    @pytest.mark.parametrize("path", ["../outside/secret.jpg", "real/../../outside/secret.jpg", "..", "real/..", "."])
    def test_a_path_cannot_lead_out(self, inside: Path, path: str) -> None:
        with opened(inside) as source:
            assert read_code(source, path) in ("outside_source", "unsupported")

    def test_a_path_from_the_top_stays_inside(self, inside: Path, outside: Path) -> None:
        with opened(inside) as source:
            assert read_code(source, str(outside / "secret.jpg")) == "vanished"

    def test_files_and_folders_swapped_for_links_after_the_scan(self, inside: Path, outside: Path) -> None:
        make(inside, "a.jpg", "folder/x.jpg")
        with opened(inside) as source:
            list(source.scan())
            (inside / "a.jpg").unlink()
            (inside / "a.jpg").symlink_to(outside / "secret.jpg")
            (inside / "folder").rename(inside / "moved")
            (inside / "folder").symlink_to(outside / "folder")
            assert read_code(source, "a.jpg") == "outside_source"
            assert read_code(source, "folder/x.jpg") == "outside_source"

    def test_swapping_while_reading_never_gives_what_is_outside(self, inside: Path, outside: Path) -> None:
        make(inside, "folder/x.jpg")
        stop = threading.Event()

        def swap() -> None:
            spare = inside / "spare"
            spare.symlink_to(outside / "folder")
            third = inside / "third"
            while not stop.is_set():
                (inside / "folder").rename(third)
                spare.rename(inside / "folder")
                third.rename(spare)

        thread = threading.Thread(target=swap)
        thread.start()
        seen = set()
        try:
            with opened(inside) as source:
                for _ in range(3000):
                    try:
                        seen.add(source.read("folder/x.jpg"))
                    except ImageUnavailable as exc:
                        seen.add(exc.code.encode())
        finally:
            stop.set()
            thread.join()
        assert SECRET not in seen
        assert seen <= {b"photo", b"outside_source", b"vanished", b"unreadable"}  # the last: swapped before the open

    @pytest.mark.parametrize(("swapped_for", "code"), [("link", "unreadable"), ("fifo", "unsupported")])
    def test_a_file_swapped_in_the_moment_before_it_is_opened(
        self, inside: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, swapped_for: str, code: str
    ) -> None:
        file = make(inside, "a.jpg") / "a.jpg"
        look = os.stat

        def look_then_swap(
            path: int | str | bytes | os.PathLike[str], *, dir_fd: int | None = None, follow_symlinks: bool = True
        ) -> os.stat_result:
            seen = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
            if path == b"a.jpg":
                file.unlink()
                if swapped_for == "link":
                    file.symlink_to(outside / "secret.jpg")
                else:
                    os.mkfifo(file)
            return seen

        with opened(inside) as source:
            monkeypatch.setattr(os, "stat", look_then_swap)
            assert read_code(source, "a.jpg") == code


class TestReading:
    def test_the_bytes(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg", content=bytes(range(256)))
        make(tmp_path, "empty.jpg", content=b"")
        make(tmp_path, "full.jpg", content=b"x" * LIMIT)
        with opened(tmp_path) as source:
            assert source.read("a.jpg") == bytes(range(256))
            assert source.read("empty.jpg") == b""
            assert source.read("full.jpg") == b"x" * LIMIT

    def test_too_large_is_refused_by_its_size_alone(self, tmp_path: Path) -> None:
        with open(tmp_path / "a.jpg", "wb") as file:
            file.truncate(1 << 40)
        with opened(tmp_path) as source:
            assert read_code(source, "a.jpg") == "too_large"

    def test_vanished(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg", "b/x.jpg", "c/x.jpg")
        with opened(tmp_path) as source:
            (tmp_path / "a.jpg").unlink()
            (tmp_path / "b" / "x.jpg").unlink()
            (tmp_path / "b").rmdir()
            make(tmp_path, "b")
            assert read_code(source, "a.jpg") == "vanished"
            assert read_code(source, "b/x.jpg") == "vanished"
            assert read_code(source, "nothing/at/all.jpg") == "vanished"
            assert source.read("c/x.jpg") == b"photo"

    def test_unreadable(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg", "b/x.jpg")
        (tmp_path / "a.jpg").chmod(0o000)
        (tmp_path / "b").chmod(0o600)
        tmp_path.chmod(0o755)
        with opened(tmp_path) as source, unprivileged():
            assert read_code(source, "a.jpg") == "unreadable"
            assert read_code(source, "b/x.jpg") == "unreadable"
        (tmp_path / "b").chmod(0o700)

    def test_swapped_for_a_folder_or_fifo(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").mkdir()
        os.mkfifo(tmp_path / "b.jpg")
        with opened(tmp_path) as source:
            assert read_code(source, "a.jpg") == read_code(source, "b.jpg") == "unsupported"

    @pytest.mark.parametrize("path", ["", "/", r"\q.jpg", "a\0b.jpg", r"\x00.jpg", "x" * 300 + ".jpg"])
    def test_a_path_that_no_scan_gave(self, tmp_path: Path, path: str) -> None:
        with opened(tmp_path) as source:
            assert read_code(source, path) in ("unsupported", "vanished", "unreadable")

    def test_by_many_threads_at_once(self, tmp_path: Path) -> None:
        wanted = {f"{folder}/{number}.jpg": f"{folder}{number}".encode() for folder in "abc" for number in range(30)}
        for name, content in wanted.items():
            make(tmp_path, name, content=content)
        wrong: list[str] = []
        with opened(tmp_path) as source:

            def read_all() -> None:
                wrong.extend(name for name, content in wanted.items() if source.read(name) != content)

            threads = [threading.Thread(target=read_all) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert wrong == []

    def test_nothing_stays_open(self, tmp_path: Path) -> None:
        make(tmp_path, "a/b/x.jpg", "a/b/y.jpg", "a/c/x.jpg")
        (tmp_path / "a/link.jpg").symlink_to("b/../c/x.jpg")
        before = len(list(Path("/proc/self/fd").iterdir()))
        with opened(tmp_path) as source:
            for path in ("a/b/x.jpg", "a/link.jpg", "a/b/none.jpg", "a/b", "../x.jpg"):
                with suppress(ImageUnavailable):
                    source.read(path)
            with closing(source.scan()) as entries:
                next(entries)
            list(source.scan())
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_a_closed_source_says_so(self, tmp_path: Path) -> None:
        source = opened(make(tmp_path, "a.jpg"))
        source.close()
        source.close()
        with pytest.raises(RuntimeError, match="closed"):
            source.read("a.jpg")


class TestOpening:
    def test_a_folder_that_is_missing_or_is_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(SourceMissing, match="does not exist"):
            opened(tmp_path / "none")
        with pytest.raises(SourceMissing, match="not a folder"):
            opened(make(tmp_path, "a.jpg") / "a.jpg")
        with pytest.raises(SourceMissing, match="not a folder"):
            opened(tmp_path / "a.jpg" / "deeper")

    @pytest.mark.parametrize("text", ["", "a\0b", "\ud800", "file://elsewhere/photos", "s3://"])
    def test_a_text_that_names_no_folder(self, text: str) -> None:
        with pytest.raises(SourceMissing):
            opened(text)

    @pytest.mark.parametrize("name", [b"plain", rb"back\slash", rb"\xff", b"\xff\xfe", b"a::b", b"100%41", b"~"])
    def test_a_folder_of_any_name(self, tmp_path: Path, name: bytes) -> None:
        make(tmp_path, name + b"/x.jpg")
        folder = tmp_path / os.fsdecode(name)
        text = canonical(str(folder))
        assert text.encode()
        with open_source(text, roots=[str(folder)], max_file_bytes=LIMIT) as source:
            assert [entry.path for entry in source.scan()] == ["x.jpg"]

    def test_relative_home_and_file_urls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/me")
        assert canonical("photos/../cars/") == f"{tmp_path}/cars"
        assert canonical(Path("cars")) == f"{tmp_path}/cars"
        assert canonical("~/cars") == "/home/me/cars"
        assert canonical("//cars") == "/cars"
        assert canonical("file:///a/b%20c/") == canonical("FILE://localhost/a/b%20c") == "/a/b c"

    def test_urls(self) -> None:
        assert canonical("S3://Bucket/Key/") == "s3://Bucket/Key"
        assert canonical(r"s3://b/k\x") == r"s3://b/k\\x"

    def test_what_is_not_canonical_text(self) -> None:
        with pytest.raises(SourceError, match="canonical"):
            open_source(r"/photos\x", roots=None, max_file_bytes=LIMIT)

    @pytest.mark.parametrize(
        "text", ["filecache::s3://b/k", "zip://x::file:///etc/a.zip", "simplecache::/etc", "s3://b/a::b", "s3://b/../c"]
    )
    @pytest.mark.parametrize("roots", [None, ["/", "s3://b", "filecache::s3://b"]])
    def test_chained_and_climbing_urls_are_always_refused(self, text: str, roots: list[str] | None) -> None:
        with pytest.raises(SourceNotAllowed):
            opened(text, roots=roots)

    @pytest.mark.parametrize("text", ["http://example.com/photos", "ftp://x/y", "sftp://x/y", "github://a:b@c/d"])
    def test_other_protocols_are_refused(self, text: str) -> None:
        with pytest.raises(SourceNotAllowed, match="not supported"):
            opened(text)

    @pytest.mark.parametrize(
        ("text", "roots", "allowed"),
        [
            ("memory://cars/bmw", ["memory://cars"], True),
            ("memory://cars", ["memory://cars/"], True),
            ("memory://cars/bmw", ["memory://"], True),
            ("memory://cars-secret", ["memory://cars"], False),
            ("memory://cars", ["memory://cars/bmw"], False),
            ("memory://cars", ["s3://cars"], False),
            ("memory://cars", ["/"], False),
            ("memory://cars", [], False),
        ],
    )
    def test_url_roots(self, text: str, roots: list[str], allowed: bool) -> None:
        if allowed:
            opened(text, roots=roots).close()
        else:
            with pytest.raises(SourceNotAllowed, match="CARS_SOURCE_ROOTS"):
                opened(text, roots=roots)

    def test_folder_roots(self, tmp_path: Path) -> None:
        make(tmp_path, "cars/bmw/x.jpg", "cars-secret/x.jpg", "elsewhere/x.jpg")
        (tmp_path / "cars/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "alias").symlink_to(tmp_path / "cars")
        roots = ["s3://bucket", f"{tmp_path}/alias/"]
        for inside in ("cars", "cars/bmw", "alias", "alias/bmw", "elsewhere/../cars"):
            opened(tmp_path / inside, roots=roots).close()
        for outside in ("cars-secret", "elsewhere", "cars/link", ".", "none"):
            with pytest.raises(SourceNotAllowed, match="CARS_SOURCE_ROOTS"):
                opened(tmp_path / outside, roots=roots)
        opened(tmp_path, roots=["/"]).close()
        opened(tmp_path, roots=[f"file://{tmp_path}"]).close()
        with pytest.raises(SourceNotAllowed):
            opened(tmp_path, roots=[])

    def test_has_images(self, tmp_path: Path) -> None:
        make(tmp_path, "notes.txt", ".hidden.jpg")
        with opened(tmp_path) as source:
            assert not has_images(source)
            os.mkfifo(tmp_path / "pipe.jpg")
            assert has_images(source)


@pytest.fixture
def store() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """`store({path: bytes})`: the URL of a folder in fsspec's memory filesystem with these files."""
    import fsspec

    memory = fsspec.filesystem("memory")

    def fill(files: dict[str, bytes]) -> str:
        for path, content in files.items():
            memory.pipe_file(f"/bucket/cars/{path}", content)
        return "memory://bucket/cars"

    yield fill
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


class TestOtherFilesystems:
    FILES = ("a.jpg", "a/x.jpg", "a-b.jpg", "b/c/y.png", "b/notes.txt", "b/.hidden.jpg", "é.jpg", "back\\slash.jpg")

    def test_the_same_listing_as_of_a_local_folder(
        self, tmp_path: Path, store: Callable[[dict[str, bytes]], str]
    ) -> None:
        make(tmp_path, *self.FILES)
        with opened(tmp_path) as here, opened(store(dict.fromkeys(self.FILES, b"photo"))) as there:
            entries = list(here.scan())
            assert list(there.scan()) == entries
            assert there.skipped == here.skipped == 1
            for place, entry in enumerate(entries):
                assert list(there.scan(after=entry.path)) == entries[place + 1 :]
                assert there.read(entry.path) == b"photo"

    def test_reading(self, store: Callable[[dict[str, bytes]], str]) -> None:
        url = store({"a.jpg": b"x" * LIMIT, "large.jpg": b"x" * (LIMIT + 1), "empty.jpg": b"", "d/x.jpg": b"x"})
        with opened(url) as source:
            assert source.read("a.jpg") == b"x" * LIMIT
            assert source.read("empty.jpg") == b""
            assert read_code(source, "large.jpg") == "too_large"
            assert read_code(source, "gone.jpg") == "vanished"
            assert read_code(source, "d") == "unsupported"
            assert read_code(source, "../other.jpg") == "outside_source"

    @pytest.mark.parametrize(("url", "module"), [("gs://b/k", "gcsfs"), ("az://b/k", "adlfs")])
    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch, url: str, module: str) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(SourceError, match=f"pip install {module}"):
            opened(url)

    def test_a_missing_folder(self, store: Callable[[dict[str, bytes]], str]) -> None:
        store({"a.jpg": b""})
        with opened("memory://bucket/none") as source, pytest.raises(SourceMissing):
            list(source.scan())
