"""Archives read in place: every member comes out as it was packed, whatever wrote the archive."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
