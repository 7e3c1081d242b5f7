from __future__ import annotations

import bz2
import gzip
import io
import lzma
import multiprocessing
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generate_archives import json_lines, pack
from reading import find, source
from wingspan.errors import InputError
from wingspan.prepare.readers import archives, records, registry
from wingspan.prepare.readers.archives import Member, members, one_member
from wingspan.prepare.readers.registry import read_unit, units

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)

POSTS = [{"post_id": str(number), "text": f"post {number}, " + "na " * (number % 40)} for number in range(500)]
LINES = json_lines(POSTS)
COMPRESSIONS = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
    "gz of two": lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:]),
    "zst of two": lambda data: zstandard.compress(data[:999]) + zstandard.compress(data[999:]),
    "bz2 in gz": lambda data: gzip.compress(bz2.compress(data)),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("container", ["file.jsonl", "folder", "a.zip", "a.tar", "a.tar.gz"])
def test_every_container_and_compression_gives_the_same_posts(tmp_path: Path, compression: str, container: str) -> None:
    content = COMPRESSIONS[compression](LINES)
    if container == "file.jsonl":
        (path := tmp_path / container).write_bytes(content)
    else:
        path = pack({"deep/er/posts.jsonl": content}, tmp_path / container)
    found = find(path, "jsonl")
    assert [found.posts[str(number)]["text"].strip() for number in range(500)] == [one["text"].strip() for one in POSTS]
    assert (found.read, found.damaged) == (500, 0)


def test_archives_in_a_folder_are_looked_into_and_units_have_names_of_their_own(tmp_path: Path) -> None:
    for day in ("01", "02"):
        pack({"00.jsonl": LINES[:-1], "01.jsonl": b""}, tmp_path / f"{day}.tar")
    pack({"b.jsonl": LINES}, tmp_path / "plain")
    found = list(units(source("jsonl"), tmp_path))
    assert [unit.key for unit in found] == [
        "01.tar!00.jsonl", "01.tar!01.jsonl", "02.tar!00.jsonl", "02.tar!01.jsonl", "plain/b.jsonl",
    ]  # fmt: skip
    again = pickle.loads(pickle.dumps(found[2]))
    assert sum(batch.read for batch in read_unit(again)) == 500


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_a_truncated_file_gives_what_came_before_the_break(tmp_path: Path, compression: str) -> None:
    lines = json_lines([{"post_id": str(n), "text": os.urandom(60).hex()} for n in range(8_000)])
    path = tmp_path / "a.jsonl"
    content = COMPRESSIONS[compression](lines)
    path.write_bytes(content[: len(content) // 2])
    found = find(path, "jsonl")
    assert found.rows > 2_000
    assert 1 <= found.damaged <= 2  # the file, and the line that the break cut
    assert found.read == found.rows + found.damaged


def test_damage_inside_a_zip_is_counted_and_the_other_members_are_read(tmp_path: Path) -> None:
    path = pack({"a.jsonl": LINES, "b.jsonl": LINES.replace(b'"post_id": "', b'"post_id": "b')}, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)
    path.write_bytes(content)
    found = find(path, "jsonl")
    assert found.damaged >= 1
    assert sum(one.startswith("b") for one in found.posts) == 500


@pytest.mark.parametrize("form", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.8])
def test_a_truncated_archive_is_counted(tmp_path: Path, form: str, share: float) -> None:
    files = {f"{n}.jsonl": json_lines([{"post_id": f"{n}-{os.urandom(400).hex()}", "text": "x"}]) for n in range(40)}
    path = pack(files, tmp_path / form)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    found = find(path, "jsonl")
    assert found.damaged >= 1
    assert found.read == found.rows + found.damaged + found.refused.total()


def _bomb_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", bytes(40 << 20))
        archive.writestr("b.jsonl", LINES)


def _overlapping_zip(path: Path) -> None:
    """Many names for the bytes of one member, as in the bombs that stay under every ratio."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", LINES * 100)
        info = archive.infolist()[0]
        archive.filelist = [info] * 40


def _bomb_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(b'{"post_id": "1", "text": "x"}\n' + bytes(60 << 20)))


def _nested_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.compress(bytes(60 << 20))))


@pytest.mark.parametrize(
    ("make", "name", "rows"),
    [(_bomb_zip, "a.zip", 500), (_overlapping_zip, "a.zip", 0), (_bomb_gz, "a.jsonl", 1), (_nested_bomb, "a.jsonl", 0)],
)
def test_a_bomb_is_refused_in_little_memory(tmp_path: Path, make: Any, name: str, rows: int) -> None:
    make(tmp_path / name)
    tracemalloc.start()
    found = find(tmp_path / name, "jsonl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.refused["file: decompression bomb"] >= 1
    assert found.rows == rows
    assert peak < 80 << 20


def test_paths_that_leave_the_archive_and_links_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(json_lines([{"post_id": "secret", "text": "not of this source"}]))
    folder = tmp_path / "in"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in ("../secret.jsonl", "/etc/x.jsonl", "C:\\x.jsonl", "a/../../x.jsonl", "..\\x.jsonl"):
            archive.writestr(name, LINES)
        link = zipfile.ZipInfo("link.jsonl")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../secret.jsonl")
    with tarfile.open(folder / "b.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("link.jsonl")
            info.type, info.linkname = kind, "../secret.jsonl"
            tar.addfile(info)
        info = tarfile.TarInfo("../../x.jsonl")
        tar.addfile(info, io.BytesIO())
    (folder / "c.jsonl").symlink_to(secret)
    (folder / "d").symlink_to(tmp_path)
    found = find(folder, "jsonl")
    assert found.refused == {"file: unsafe path": 6, "file: link": 5}
    assert found.rows == 0


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = pack({"a.jsonl": LINES, "b.jsonl": LINES}, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8 : at + 10] = struct.pack("<H", 1)
    path.write_bytes(content)
    found = find(path, "jsonl")
    assert found.refused == {"file: encrypted": 1}
    assert found.read == 501


def test_an_unknown_zip_method_is_damage(tmp_path: Path) -> None:
    path = pack({"a.jsonl": LINES}, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[8:10] = content[content.index(b"PK\x01\x02") + 10 :][:2] = struct.pack("<H", 99)
    at = content.index(b"PK\x01\x02")
    content[at + 10 : at + 12] = struct.pack("<H", 99)
    path.write_bytes(content)
    assert find(path, "jsonl").damaged == 1


def test_a_source_without_anything_to_open_is_said(tmp_path: Path) -> None:
    pack({"a.jpg": b"\xff\xd8"}, tmp_path / "x")
    with pytest.raises(InputError, match="nothing that the reader 'jsonl' opens") as caught:
        find(tmp_path / "x", "jsonl")
    assert "inspect" in caught.value.remedy


def test_a_file_that_the_user_names_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / "export.dat").write_bytes(LINES)
    assert find(tmp_path / "export.dat", "jsonl").rows == 500
    (tmp_path / "likes.jsonl").write_bytes(LINES)
    with pytest.raises(InputError, match="nothing that the reader"):
        find(tmp_path / "likes.jsonl", "jsonl")


def test_a_tiny_compressed_tar(tmp_path: Path) -> None:
    found = find(pack({"a.jsonl": b'{"post_id": "1", "text": "x"}'}, tmp_path / "a.tar.gz"), "jsonl")
    assert (found.rows, found.damaged) == (1, 0)


def test_beside_stays_in_the_folder(tmp_path: Path) -> None:
    files = {"u1/data/tweets.js": b"1", "u1/data/manifest.js": b"2", "u2/data/manifest.js": b"3", "manifest.js": b"4"}
    for form in ("x", "x.zip", "x.tar"):
        path = pack(files, tmp_path / form)
        tweets = next(one for one in members(path) if one.base == "tweets.js")
        assert [b"".join(one.chunks()) for one in tweets.beside(r"manifest\.js")] == [b"2"]


def _lines(member: Member) -> list[bytes]:
    return [line for block in records.blocks(member) for line in block.split(b"\n") if line]


@given(lines=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=40), part=st.integers(1, 60))
@same_folder
def test_parts_of_a_file_hold_each_line_once(tmp_path: Path, lines: list[str], part: int) -> None:
    content = "\n".join(line.replace("\n", "") for line in lines).encode()
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    whole = one_member(path)
    expected = _lines(whole)
    cuts = [Member(path, "a.txt", size=len(content), part=(at, at + part)) for at in range(0, len(content), part)]
    assert [line for cut in cuts for line in _lines(cut)] == expected


@given(lines=st.lists(st.binary(max_size=20), max_size=30), chunk=st.integers(1, 9))
@same_folder
def test_lines_do_not_depend_on_the_size_of_chunks(tmp_path: Path, lines: list[bytes], chunk: int) -> None:
    content = b"x\n" + b"\n".join(lines)
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "CHUNK", chunk)
        found = _lines(one_member(path))
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        assert found == [line for line in content.split(b"\n") if line]


def test_a_line_without_end_takes_no_memory_and_is_one_damaged_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD", 1 << 20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES + b'{"post_id": "' + b"9" * (5 << 20) + b'"}\n' + LINES + b"[" * (3 << 20))
    found = find(path, "jsonl")
    assert (found.rows, found.damaged) == (1000, 2)


@given(
    items=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.lists(st.integers()), max_size=3)),
    indent=st.sampled_from([None, 0, 2]),
    chunk=st.integers(1, 40),
)
@same_folder
def test_elements_of_an_array_whatever_its_layout(
    tmp_path: Path, items: list[Any], indent: int | None, chunk: int
) -> None:
    import json

    path = tmp_path / "a.js"
    path.write_text(f"window.x = {json.dumps(items, indent=indent)}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "CHUNK", chunk)
        assert list(records.json_items(one_member(path))) == items


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(copies: int) -> int:
        path = tmp_path / f"{copies}.jsonl.gz"
        path.write_bytes(gzip.compress(LINES * copies, 1))
        tracemalloc.start()
        for unit in units(source("jsonl"), path):
            for _ in read_unit(unit):
                pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(160) < 1.3 * peak(40)


def test_a_unit_reads_the_same_however_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PART", 4096)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    for unit in units(source("jsonl"), tmp_path):
        first, second = ([batch.posts for batch in read_unit(unit)] for _ in range(2))
        assert first == second


def _bytes(member: Member) -> bytes:
    return b"".join(member.chunks())


@pytest.mark.parametrize("form", ["a.zip", "a.tar", "a.tar.gz"])
def test_forked_processes_read_one_archive_side_by_side(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "CHUNK", 3000)
    files = {f"{n}.jsonl": os.urandom(1 << 18) for n in range(6)}
    found = list(members(pack(files, tmp_path / form)))
    assert [_bytes(member) for member in found] == list(files.values())  # the parent has the archive open
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(_bytes, found * 3, chunksize=1) == list(files.values()) * 3
