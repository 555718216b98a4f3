"""Archives read in place: every member comes out as it was packed, whatever wrote the archive."""

import errno
import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.data.errors import DataError
from fusion.data.store.containers import find_containers
from fusion.data.store.images import ImageError, ImageStore, write_members

NAMES = st.text("abä/.-_ü界", min_size=1, max_size=120).filter(
    lambda name: not name.startswith("/") and all(part not in ("", ".", "..") for part in name.split("/"))
)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=700)), min_size=1, max_size=8)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def _stores(path: Path) -> list[ImageStore]:
    """The archive read through at once, and by way of a table on disk."""
    with path.with_suffix(".members").open("wb") as file:
        write_members([path], file, "test")
    return [ImageStore([path], 10_000), ImageStore([path], 10_000, path.with_suffix(".members"))]


@SAME_FOLDER
@given(members=MEMBERS, form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_members_of_tars(tmp_path: Path, members: list[tuple[str, bytes]], form: int):
    path = tmp_path / "a.tar"
    if form == tarfile.USTAR_FORMAT:
        members = [(name[:60].rstrip("/"), data) for name, data in members]
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(f"./{name}" if len(data) % 2 else name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for store in _stores(path):
        for name, data in dict(members).items():
            assert store.read(name) == data
        store.close()


@SAME_FOLDER
@given(
    members=MEMBERS,
    methods=st.lists(st.sampled_from([0, 8, 12, 14]), min_size=8, max_size=8),
    comment=st.binary(max_size=100),
    front=st.binary(max_size=50),
    wide=st.booleans(),
)
def test_members_of_zips(
    tmp_path: Path,
    members: list[tuple[str, bytes]],
    methods: list[int],
    comment: bytes,
    front: bytes,
    wide: bool,
):
    path, file = tmp_path / "a.zip", io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        if wide:  # what archives of more than 4 GB or 65,535 members have
            patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
        with zipfile.ZipFile(file, "w") as archive:
            for (name, data), method in zip(dict(members).items(), methods, strict=False):
                info = zipfile.ZipInfo(name)
                info.compress_type = method
                with archive.open(info, "w", force_zip64=wide) as member:
                    member.write(data)
            archive.comment = comment.replace(b"PK", b"")
    path.write_bytes(front + file.getvalue())
    for store in _stores(path):
        for name, data in dict(members).items():
            assert store.read(name) == data
        store.close()


def test_the_first_archive_and_the_last_of_its_members_count(tmp_path: Path):
    tars = {"one": [("x", b"first"), ("x", b"1"), ("dir/y", b"2")], "two": [("x", b"3"), ("z", b"4")]}
    for name, members in tars.items():
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(tmp_path / "three.zip", "w") as archive:
        archive.writestr("images/w", b"5")
        archive.writestr("z", b"6")
        archive.mkdir("x")
    store = ImageStore([tmp_path / name for name in ("one.tar", "two.tar", "three.zip")], 100)
    read = {name: store.read(name) for name in ("x", "dir/y", "one/dir/y", "z", "two/x", "three/z", "w")}
    assert read == {"x": b"1", "dir/y": b"2", "one/dir/y": b"2", "z": b"4", "two/x": b"3", "three/z": b"6", "w": b"5"}
    for name in ("two/dir/y", "four/x", "X"):
        with pytest.raises(ImageError) as caught:
            store.read(name)
        assert caught.value.reason == "missing-image"


def _zip_named(raw: bytes, extra: bytes = b"", flags: int = 0) -> bytes:
    """A zip of one member with the bytes `x`, its name and extra field as they are given."""
    shared = struct.pack("<5H3L2H", 20, flags, 0, 0, 33, zlib.crc32(b"x"), 1, 1, len(raw), len(extra))
    local = b"PK\3\4" + shared + raw + extra + b"x"
    entry = b"PK\1\2" + struct.pack("<H", 20) + shared + struct.pack("<3H2L", 0, 0, 0, 0, 0) + raw + extra
    return local + entry + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, len(entry), len(local), 0)


def _unicode_path(raw: bytes, name: str) -> bytes:
    field = b"\1" + struct.pack("<L", zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


@pytest.mark.parametrize(
    ("raw", "extra", "flags", "name"),
    [
        ("Käse/界.png".encode(), b"", 0, "Käse/界.png"),
        ("Käse.png".encode("cp437"), b"", 0, "Käse.png"),
        ("Käse.png".encode(), b"", 0x800, "Käse.png"),
        (b"K_se.png", _unicode_path(b"K_se.png", "Käse.png"), 0, "Käse.png"),
        (b"K_se.png", struct.pack("<HHL", 0x5455, 4, 7) + _unicode_path(b"K_se.png", "Käse.png"), 0, "Käse.png"),
        (b"renamed.png", _unicode_path(b"K_se.png", "Käse.png"), 0, "renamed.png"),
    ],
)
def test_names_in_zips_without_the_flag_for_utf_8(tmp_path: Path, raw: bytes, extra: bytes, flags: int, name: str):
    (tmp_path / "a.zip").write_bytes(_zip_named(raw, extra, flags))
    for store in _stores(tmp_path / "a.zip"):
        assert store.read(name) == b"x"
        store.close()


@pytest.mark.skipif(shutil.which("zip") is None, reason="`zip` is not installed")
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_in_zips_of_the_usual_command(tmp_path: Path, locale: str):
    for name in ("Käse.png", "界.png"):
        (tmp_path / name).write_bytes(name.encode())
    subprocess.run(["zip", "-q", "a.zip", "Käse.png", "界.png"], cwd=tmp_path, env={"LC_ALL": locale}, check=True)
    for store in _stores(tmp_path / "a.zip"):
        assert [store.read(name) for name in ("Käse.png", "界.png")] == ["Käse.png".encode(), "界.png".encode()]
        store.close()


def _tar_of(path: Path, **members: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_endings_of_archives_count_in_capital_letters_too(tmp_path: Path):
    images = tmp_path / "images"
    _tar_of(images / "one.TAR", x=b"1")
    with zipfile.ZipFile(images / "two.Zip", "w") as archive:
        archive.writestr("y", b"2")
    containers = find_containers(tmp_path, ("images",))
    assert [path.name for path in containers] == ["images", "one.TAR", "two.Zip"]
    store = ImageStore(containers, 100)
    assert [store.read(name) for name in ("x", "one/x", "y", "two/y")] == [b"1", b"1", b"2", b"2"]
    (images / "three.TGZ").write_bytes(b"x")
    with pytest.raises(DataError, match=r"three\.TGZ is a compressed tar"):
        find_containers(tmp_path, ("images",))


def test_more_archives_than_files_may_be_open(tmp_path: Path):
    for number in range(120):
        if number % 2:
            _tar_of(tmp_path / f"{number}.tar", x=b"%d" % number)
        else:
            with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
                archive.writestr("x", b"%d" % number)
    _limited(
        """
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        store = ImageStore(find_containers(folder, (".",)), 100)
        for number in [*range(120), *range(119, -1, -1), *(7 * n % 120 for n in range(120))]:
            assert store.read(f"{number}/x") == b"%d" % number
        store.close()
        """,
        tmp_path,
    )


@pytest.mark.parametrize("ending", ["tar", "zip", "png"])
def test_a_limit_of_open_files_is_no_damage(tmp_path: Path, ending: str):
    (tmp_path / "a.png").write_bytes(b"1")
    _tar_of(tmp_path / "a.tar", b=b"1")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("c", b"1")
    name = {"png": "a.png", "tar": "b", "zip": "c"}[ending]
    _limited(
        f"""
        store = ImageStore(find_containers(folder, (".",)), 100)
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        held = []
        with contextlib.suppress(OSError):
            while True:
                held.append(open("/dev/null"))
        try:
            store.read({name!r})
        except DataError as error:
            told = str(error)
        while held:
            held.pop().close()
        assert "a.{ending} cannot be opened: this process has 50 files open" in told and "`ulimit -n`" in told, told
        assert "Get the file again" not in told
        assert store.read({name!r}) == b"1"
        """,
        tmp_path,
    )


def _limited(code: str, folder: Path) -> None:
    """Runs `code` in a process of its own, whose limits it may change."""
    start = """
import contextlib, resource, sys
from pathlib import Path
from fusion.data.errors import DataError
from fusion.data.store.containers import find_containers
from fusion.data.store.images import ImageStore
folder = Path(sys.argv[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("number", "told"), [(errno.EACCES, "permissions"), (errno.ENFILE, "the machine has as many")])
def test_an_archive_that_the_system_keeps_closed_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
):
    # The user of a container may read everything, and a machine without room for files has none for the test.
    _tar_of(tmp_path / "a.tar", x=b"1")

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DataError, match=rf"a\.tar cannot be opened: .*{told}") as caught:
        ImageStore([tmp_path / "a.tar"], 100)
    assert "Get the file again" not in str(caught.value)


def test_an_archive_that_is_no_longer_the_same_stops_the_reading(tmp_path: Path):
    path = tmp_path / "a.tar"
    _tar_of(path, x=b"1")
    store = ImageStore([path], 100)
    _tar_of(tmp_path / "new.tar", y=b"2")
    os.utime(tmp_path / "new.tar", (1, 1))
    (tmp_path / "new.tar").replace(path)
    with pytest.raises(DataError, match=r"a\.tar has changed while pictures were read"):
        store.read("x")
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar cannot be read"):
        store.read("x")
