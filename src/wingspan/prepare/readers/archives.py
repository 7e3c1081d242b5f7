"""A path as members: files, folders of them, zip and tar archives, compressed or not. All safety is here.

Nothing is unpacked to disk. A member's bytes come in chunks, and no data makes them raise: a damaged or truncated
member, or a bomb, ends early, and what happened stands in `Member.problems`.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import zstandard

CHUNK = 1 << 20  # bytes
MAX_RATIO = 200  # decompressed to stored bytes: JSON of posts reaches 40, a bomb a thousand
_SLACK = 16 << 20  # bytes that any member may hold, however small it is stored
_LAYERS = 3  # of compression around one file
COMPRESSED = r"(?:\.(?:gz|bz2|zst|xz))?"  # for patterns of names

_ARCHIVE = r"\.(?:zip|tar|tgz|tbz2?|txz)$|\.tar\.\w+$"  # of the files of a folder no other is looked into

BOMB, CUT, DAMAGED = "decompression bomb", "truncated", "damaged"
ENCRYPTED, LINK, UNSAFE = "encrypted", "link", "unsafe path"

_DECOMPRESSORS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (rb"\x1f\x8b\x08", lambda raw: gzip.GzipFile(fileobj=raw)),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", bz2.BZ2File),
    (rb"\xfd7zXZ\x00", lzma.LZMAFile),
    # a window of 2 GiB is what Reddit's dumps were made with
    (
        rb"\x28\xb5\x2f\xfd",
        lambda raw: zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(raw, read_across_frames=True),
    ),
)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Bomb(Exception):
    """More bytes come out than any file of posts holds."""


# What the libraries raise for bad data; an OSError with a number is the disk's fault, not the data's.
_DAMAGE = (
    EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, tarfile.TarError, OSError,
    NotImplementedError, _Bomb,
)  # fmt: skip


def _problem(error: Exception) -> str:
    """The word for damage; raises `error` again when it is no damage."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return BOMB if isinstance(error, _Bomb) else CUT if isinstance(error, EOFError) else DAMAGED


@dataclass(frozen=True)
class Member:
    """A file on disk, or one inside an archive: plain data that any process can open."""

    path: Path  # on disk: the file itself, or the archive that holds it
    name: str  # relative to the source, or inside the archive; parts by "/"
    kind: Literal["file", "zip", "tar"] = "file"
    size: int = 0  # bytes as stored
    offset: int = 0  # where it lies in its archive
    archive: str = ""  # the archive's path relative to the source
    part: tuple[int, int] | None = None  # only the records that begin in this range of bytes
    refusal: str = ""  # why it is not opened
    named: bool = False  # by the user, so it may be called anything
    problems: list[str] = field(default_factory=list, compare=False)  # what reading it ended on

    @property
    def key(self) -> str:
        """Names the member within its source, wherever the source lies."""
        whole = f"{self.archive}!{self.name}" if self.archive else self.name
        return f"{whole}@{self.part[0]}" if self.part else whole

    @property
    def base(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]

    @property
    def plain(self) -> bool:
        """Whether its bytes on disk are the ones that `chunks` gives: neither compressed nor UTF-16."""
        with self.path.open("rb") as file:
            head = file.read(16)
        compressed = any(re.match(magic, head) for magic, _ in _DECOMPRESSORS)
        return self.kind == "file" and not compressed and not head.startswith(_UTF16)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, decompressed, without byte order mark, UTF-16 made UTF-8; of a part, from the byte before it."""
        if self.refusal:
            self.problems.append(self.refusal)
            return
        with ExitStack() as files:
            try:
                layer = _peel(self._stored(files), self.size)
                yield from _utf8(iter(partial(layer.read, CHUNK), b""))
            except _DAMAGE as error:
                self.problems.append(_problem(error))

    def _stored(self, files: ExitStack) -> Any:
        """The bytes as they are stored."""
        if self.kind == "zip":
            archive, infos = _zip(self.path, self.path.stat().st_mtime_ns, os.getpid())
            return files.enter_context(archive.open(infos[self.offset]))
        file = files.enter_context(self.path.open("rb"))
        if self.kind == "tar":
            layer = _peel(file, self.path.stat().st_size)
            if layer.depth == 0:
                file.seek(self.offset)
                return _Slice(file.read, self.size)
            _Slice(layer.read, self.offset).skip()
            return _Slice(layer.read, self.size)
        if self.part:
            file.seek(max(self.part[0] - 1, 0))
        return file

    def beside(self, pattern: str) -> list[Member]:
        """Members of the same folder of the same archive whose base name matches; they share `problems`."""
        folder = self.name.rpartition("/")[0]
        if self.kind == "file":
            found = [_file(one, f"{folder}/{one.name}".lstrip("/")) for one in sorted(self.path.parent.iterdir())]
        else:
            found = [one for one in _inside(self.path, self.archive) if one.name.rpartition("/")[0] == folder]
        return [replace(one, problems=self.problems) for one in found if re.fullmatch(pattern, one.base)]


def members(path: Path) -> Iterator[Member]:
    """Every member of a file, folder or archive, in a fixed order; archives in a folder are looked into.

    What must not be opened (links, paths that leave the archive, encrypted members, bombs) has a `refusal`.
    """
    if not path.is_dir():
        yield from (replace(one, named=one.kind == "file") for one in _of_file(path.resolve(), path.name))
        return
    for one in sorted(path.rglob("*")):
        if one.is_symlink() or not one.is_dir():
            name = one.relative_to(path).as_posix()
            yield from _of_file(one, name) if re.search(_ARCHIVE, name, re.IGNORECASE) else [_file(one, name)]


def one_member(path: Path) -> Member:
    """A file that the user names."""
    return _file(path.resolve(), path.name)


def _of_file(path: Path, name: str) -> Iterator[Member]:
    member = _file(path, name)
    if member.refusal or _archive_kind(path) is None:
        yield member
    else:
        yield from _inside(path, name)


def _file(path: Path, name: str) -> Member:
    if path.is_symlink() or not stat.S_ISREG((status := path.stat()).st_mode):
        return Member(path, name, refusal=LINK)
    return Member(path, name, size=status.st_size)


def _archive_kind(path: Path) -> Literal["zip", "tar"] | None:
    head = next(_file(path, path.name).chunks(), b"")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "tar" if head[257:262] == b"ustar" else None


def _inside(path: Path, archive: str) -> tuple[Member, ...]:
    return _listed(path, archive, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _listed(path: Path, archive: str, changed: int) -> tuple[Member, ...]:
    """Members of an archive; `changed` (its time of change) makes the memory forget a file that was replaced."""
    kind, size = _archive_kind(path) or "tar", path.stat().st_size
    found: list[Member] = []
    try:
        for name, stored, offset, refusal in (_zip_entries if kind == "zip" else _tar_entries)(path):
            parts = name.replace("\\", "/").split("/")
            unsafe = parts[0] == "" or ".." in parts or ":" in parts[0]
            inside = "/".join(part for part in parts if part not in ("", ".", ".."))
            found.append(Member(path, inside, kind, stored, offset, archive, refusal=UNSAFE if unsafe else refusal))
    except _DAMAGE as error:
        found.append(Member(path, path.name, kind, size, archive=archive, refusal=f"{_problem(error)} archive"))
    return tuple(found)


def _zip_entries(path: Path) -> Iterator[tuple[str, int, int, str]]:
    """Name, stored bytes, offset and refusal of each file."""
    status = path.stat()
    infos = [info for info in _zip(path, status.st_mtime_ns, os.getpid())[0].infolist() if not info.is_dir()]
    bombs = {info for info in infos if info.file_size > MAX_RATIO * info.compress_size + _SLACK}
    overlapping = sum(info.file_size for info in infos if info not in bombs) > MAX_RATIO * status.st_size + _SLACK
    for info in infos:
        refusal = ""
        if overlapping or info in bombs:
            refusal = BOMB
        elif info.flag_bits & 1:
            refusal = ENCRYPTED
        elif stat.S_ISLNK(info.external_attr >> 16):
            refusal = LINK
        yield info.filename, info.compress_size, info.header_offset, refusal


@lru_cache(maxsize=1)
def _zip(path: Path, changed: int, process: int) -> tuple[zipfile.ZipFile, dict[int, zipfile.ZipInfo]]:
    """The open archive and its members by offset: to read the directory again for each member takes quadratic time.

    `process`: a forked process opens the file anew, since it would share one position in it with its siblings.
    """
    archive = zipfile.ZipFile(path)
    return archive, {info.header_offset: info for info in archive.infolist()}


def _tar_entries(path: Path) -> Iterator[tuple[str, int, int, str]]:
    with path.open("rb") as raw:
        file: Any = _peel(raw, path.stat().st_size)
        if plain := file.depth == 0:
            file = raw
            raw.seek(0)
        with tarfile.open(fileobj=file, mode="r:" if plain else "r|") as tar:
            for info in tar:
                if not info.isdir():
                    yield info.name, info.size, info.offset_data, "" if info.isreg() else LINK
        if plain:
            raw.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
            if any(raw.read()):  # a whole archive ends with blocks of zeros
                raise EOFError


class _Layer:
    """Bytes of which the first were looked at, with a limit on how many there may be."""

    def __init__(self, raw: Any, limit: int, depth: int) -> None:
        self.depth, self._raw, self._left = depth, raw, limit
        self.head: bytes = raw.read1(CHUNK)

    def read(self, size: int) -> bytes:
        """At most `size` bytes: what is ready, so that an error loses nothing that came before it."""
        data, self.head = (self.head[:size], self.head[size:]) if self.head else (self._raw.read1(size), b"")
        self._left -= len(data)
        if self._left < 0:
            raise _Bomb
        return data


def _peel(raw: Any, stored: int) -> _Layer:
    """The bytes beneath all compression; how it is compressed is seen from the bytes, not the name."""
    layer = _Layer(raw, MAX_RATIO * stored + _SLACK, 0)
    while layer.depth < _LAYERS:
        opened = next((opener for magic, opener in _DECOMPRESSORS if re.match(magic, layer.head)), None)
        if opened is None:
            break
        layer = _Layer(opened(layer), MAX_RATIO * stored + _SLACK, layer.depth + 1)
    return layer


class _Slice:
    """The next `size` bytes of `read`; an end before that is an error."""

    def __init__(self, read: Callable[[int], bytes], size: int) -> None:
        self._read, self._left = read, size

    def read1(self, size: int) -> bytes:
        """At most `size` bytes."""
        data = self._read(min(size, self._left)) if self._left else b""
        if self._left and not data:
            raise EOFError
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Read all of it and keep nothing."""
        while self.read1(CHUNK):
            pass


def _utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    decoder = None
    for number, chunk in enumerate(chunks):
        if number == 0 and chunk.startswith(_UTF16):
            decoder = codecs.getincrementaldecoder("utf-16")("replace")
        data = decoder.decode(chunk).encode("utf-8", "replace") if decoder else chunk
        if data := data.removeprefix(codecs.BOM_UTF8) if number == 0 else data:
            yield data
