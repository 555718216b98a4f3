"""Damaged pictures and archives: each ends in the ledger with a reason of its own, or the archive is named."""

import io
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion.data.errors import DataError
from fusion.data.ingest.record import Reject
from fusion.data.sharding import workers
from fusion.data.store.images import ImageError, ImageStore
from fusion.data.store.pixels import MODES, measure
from fusion.data.store.unpack import unpack
from fusion.model.images import decode_image
from fusion.model.template import SampleError
from tests.data.workshop import DATASET, Workshop, picture, sample

ZIP_METHODS = {"stored": 0, "deflated": 8, "bzip2": 12, "lzma": 14}
LONG = "x" * 300


def zip_of(members: dict[str, tuple[bytes, int]]) -> bytes:
    """A zip archive of (data, method) by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, (data, method) in members.items():
            archive.writestr(name, data, compress_type=method)
    return file.getvalue()


def damaged(archive: bytes, name: str) -> bytes:
    """The archive with the packed data of one member overwritten, its headers left as they are."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        member = opened.getinfo(name)
    start = member.header_offset + 30 + len(name)
    return archive[:start] + bytes([0xFF]) * member.compress_size + archive[start + member.compress_size :]


def with_field(archive: bytes, name: str, at: int, value: int) -> bytes:
    """The archive with a two-byte field of a member set in both of its headers; `at` as in the local one."""
    start = archive.index(b"PK\x01\x02")
    while archive[start + 46 : start + 46 + len(name)] != name.encode():
        start = archive.index(b"PK\x01\x02", start + 4)
    local = struct.unpack_from("<I", archive, start + 42)[0]
    changed = bytearray(archive)
    struct.pack_into("<H", changed, local + at, value)
    struct.pack_into("<H", changed, start + at + 2, value)
    return bytes(changed)


def test_bad_members_of_a_zip_are_rejected_with_their_own_reasons(workshop: Workshop):
    names = [f"{number}.png" for number in range(7)]
    methods = [*ZIP_METHODS.values(), 8, 8, 8]
    data = zip_of({name: (picture(n), method) for n, (name, method) in enumerate(zip(names, methods, strict=True))})
    for name in names[:4]:
        data = damaged(data, name)
    data = with_field(data, "4.png", 6, 1)
    data = with_field(data, "5.png", 8, 97)
    workshop.add("s", [sample(number) for number in range(7)])
    (workshop.published / "s.zip").write_bytes(data)
    workshop.sources["s"]["origin"]["images"] = ["s.zip"]
    assert workshop.shard("s")["row"].to_list() == [6]
    assert workshop.rejects("s", "index") == {
        **dict.fromkeys(range(4), "damaged-archive-member"),
        4: "encrypted-archive-member",
        5: "unsupported-compression",
    }


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_names_that_no_file_can_have_are_rejected(workshop: Workshop, container: str):
    records = [sample(0), sample(1, image=f"{LONG}.png"), sample(2, image="a\0b.png"), sample(3, image="./.")]
    records.append(sample(4, image="/".join(["d" * 200] * 30)))
    images = {"0.png": picture(0)}
    if container == "tar":
        images[f"{LONG}.png"] = picture(1)
    workshop.add("s", records, images, container=container)
    kept = workshop.shard("s")["row"].to_list()
    assert workshop.rejects("s", "raw") == {2: "bad-image-path", 3: "bad-image-path"}
    if container == "tar":
        assert kept == [0, 1] and workshop.rejects("s", "index") == {4: "missing-image"}
    else:
        assert kept == [0]
        assert workshop.rejects("s", "index") == {1: "image-name-too-long", 4: "image-name-too-long"}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_damaged_archive_is_named_whoever_opens_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, processes: int
):
    workshop.add("s", [sample(number) for number in range(3)])
    (workshop.published / "s.zip").write_bytes(b"PK, but no archive")
    workshop.sources["s"]["origin"]["images"] = ["s.zip"]
    monkeypatch.setattr(workers, "_WORTH_PROCESSES", 1)
    data = workshop.settings.data.model_copy(update={"workers": processes})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    with pytest.raises(DataError, match=r"s\.zip cannot be read as a zip archive: .*Get the file again"):
        workshop.shard("s")
    assert not (workshop.folder / "data/index" / DATASET / "s").exists()


def test_a_snapshot_of_the_hub_is_links_into_its_blobs_and_to_nowhere_else(tmp_path: Path):
    images = tmp_path / "datasets--a--b/snapshots/0123/images"
    images.mkdir(parents=True)
    (tmp_path / "datasets--a--b/blobs").mkdir()
    for place, name in (("datasets--a--b/blobs", "1.png"), (".", "2.png")):
        (tmp_path / place / name).write_bytes(picture(1))
        (images / name).symlink_to(tmp_path / place / name)
    store = ImageStore([images], 100_000)
    assert store.read("1.png") == picture(1)
    with pytest.raises(ImageError) as caught:
        store.read("2.png")
    assert caught.value.reason == "link-outside"


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=3000), times=st.integers(1, 50), method=st.sampled_from(sorted(ZIP_METHODS.values())))
def test_a_member_unpacks_to_what_was_packed(data: bytes, times: int, method: int):
    file = io.BytesIO(b"in front" + zip_of({"a": (b"before", 0), "b": (data * times, method)}))
    with zipfile.ZipFile(file) as archive:
        assert unpack(file, archive.getinfo("b")) == data * times


def test_a_tar_whose_headers_lead_in_a_circle_ends(tmp_path: Path):
    info = tarfile.TarInfo("a.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + struct.pack(">h", -1024)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "t.tar").write_bytes(bytes(header) * 3 + bytes(1024))
    with pytest.raises(DataError, match=r"t\.tar cannot be read as a tar archive"):
        ImageStore([tmp_path / "t.tar"], 10_000)


def _archives() -> dict[str, bytes]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("a.png", "ü" * 60 + ".png", LONG):
            info = tarfile.TarInfo(name)
            info.size = 30
            tar.addfile(info, io.BytesIO(bytes(30)))
    packed = {name: (bytes(200), method) for name, method in ZIP_METHODS.items()}
    return {"tar": file.getvalue(), "zip": zip_of(packed)}


ARCHIVES = _archives()


def _pictures() -> list[bytes]:
    """One small picture of each format, some with EXIF, transparency or several frames."""
    image = Image.open(io.BytesIO(picture(3, (12, 10))))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    frames = {"save_all": True, "append_images": [image.rotate(180)]}
    options: list[tuple[str, str, dict[str, object]]] = [
        ("PNG", "RGB", {"exif": exif}),
        ("PNG", "I;16", {}),
        ("PNG", "P", {"transparency": 1}),
        ("JPEG", "CMYK", {"exif": exif}),
        ("MPO", "RGB", frames),
        ("WEBP", "RGBA", {"exif": exif}),
        ("WEBP", "RGB", frames),
        ("GIF", "P", frames),
        ("BMP", "RGB", {}),
        ("TIFF", "LAB", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {}),
    ]
    for form, mode, more in options:
        file = io.BytesIO()
        image.convert(mode).save(file, form, **more)
        made.append(file.getvalue())
    return made


PICTURES = _pictures()
edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)


def _edited(data: bytes, changes: list[tuple[float, int]], cut: float) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[int(place * len(changed))] = value
    return bytes(changed[: len(changed) - int(cut * len(changed))])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(ARCHIVES)), changes=edits, cut=st.sampled_from([0.0, 0.0, 0.02, 0.4]))
def test_whatever_happened_to_an_archive_it_is_told(
    tmp_path: Path, kind: str, changes: list[tuple[float, int]], cut: float
):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(_edited(ARCHIVES[kind], changes, cut))
    try:
        store = ImageStore([path], 10_000)
    except DataError as error:
        assert path.name in str(error)
        return
    for name in [*ZIP_METHODS, "a.png", LONG]:
        try:
            assert len(store.read(name)) <= 10_000
        except ImageError as error:
            assert error.reason in {
                "missing-image",
                "file-too-large",
                "damaged-archive-member",
                "encrypted-archive-member",
                "unsupported-compression",
            }
    store.close()


@settings(max_examples=300, deadline=None)
@given(data=st.sampled_from(PICTURES), changes=edits, cut=st.sampled_from([0.0, 0.0, 0.1, 0.6]))
def test_whatever_is_accepted_training_can_decode(data: bytes, changes: list[tuple[float, int]], cut: float):
    changed = _edited(data, changes, cut)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured = measure(changed, 10_000)
        if isinstance(measured, Reject):
            assert measured.reason and measured.evidence
            return
        image = decode_image(changed)
    assert sorted(image.size) == sorted((measured.width, measured.height))


def test_pictures_that_training_cannot_use_have_reasons_of_their_own():
    reasons = [measure(data, 10_000) for data in PICTURES]  # that of several frames, as cameras write them, included
    assert [found.reason for found in reasons if isinstance(found, Reject)] == ["unsupported-mode"]
    found = measure(PICTURES[5].replace(b"MM\0*", b"MM\0!"), 10_000)
    assert isinstance(found, Reject) and found.reason == "corrupt-metadata"


@pytest.mark.parametrize("mode", sorted({*MODES, "F", "La"}))
def test_shards_and_training_agree_on_modes(mode: str):
    try:
        decode_image(Image.new(mode, (3, 2)))
    except SampleError as error:
        assert mode not in MODES, error
    else:
        assert mode in MODES
