from __future__ import annotations

from pathlib import Path

import pytest

from wingspan.prepare.readers import archives, records
from wingspan.prepare.readers.archives import Member


@pytest.mark.parametrize("chunk", [5, 8, 64])
def test_parts_of_a_file_have_each_line_once_wherever_they_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(archives, "CHUNK", chunk)
    path = tmp_path / "lines"
    path.write_text("one\ntwo two two two\nthree\n\nfour four four four four four\nfive")
    size = path.stat().st_size
    for part in range(1, size + 1):
        found = [
            line
            for begin in range(0, size, part)
            for block in records.blocks(Member(path, "lines", size=size, part=(begin, begin + part)))
            for line in block.split(b"\n")
            if line
        ]
        assert found == [line for line in path.read_bytes().split(b"\n") if line]
