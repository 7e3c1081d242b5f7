from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wingspan.errors import InputError
from wingspan.post import POST_SCHEMA
from wingspan.prepare.readers.registry import ReadBatch, read_posts
from wingspan.project import PostSource

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def source(reader: str, **fields: Any) -> PostSource:
    return PostSource(name="posts", path="unused", licence="made up", reader=reader, **fields)


def read(path: Path, reader: str, **fields: Any) -> list[ReadBatch]:
    return list(read_posts(source(reader, **fields), path))


def rows(batches: Iterable[ReadBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.posts.to_pylist()]


def totals(batches: list[ReadBatch]) -> tuple[int, int, int, int]:
    """read, posts, refused, damaged"""
    refused = sum(sum(batch.refused.values()) for batch in batches)
    return (
        sum(batch.read for batch in batches),
        sum(batch.posts.num_rows for batch in batches),
        refused,
        sum(batch.damaged for batch in batches),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
records = st.dictionaries(
    st.sampled_from(["post_id", "text", "visibility", "likes", "urls", "deleted_at"]), json_values
)


@given(lines=st.lists(records.map(lambda one: json.dumps(one).encode()) | st.binary(max_size=40), max_size=30))
@same_folder
def test_json_lines_account_for_every_line_whatever_it_holds(tmp_path: Path, lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b" ") for line in lines]
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b"\n".join(lines))
    batches = read(path, "jsonl")
    plain = [line.replace(b"\0", b"").decode().strip() for line in lines if line.isascii()]
    assert sum(map(bool, plain)) <= totals(batches)[0] <= len(lines)
    assert totals(batches)[0] == sum(totals(batches)[1:])
    assert all(batch.posts.schema.equals(POST_SCHEMA) for batch in batches)
    assert {row["visibility"] for row in rows(batches)} <= {"public", "unlisted"}


@given(content=st.binary(max_size=300), separator=st.sampled_from([",", "\t", ";"]))
@same_folder
def test_delimited_text_never_crashes_and_adds_up(tmp_path: Path, content: bytes, separator: str) -> None:
    path = tmp_path / "posts.txt"
    path.write_bytes(content)
    batches = read(path, "delimited", separator=separator, header=False, columns={"post_id": 0, "text": 1})
    assert totals(batches)[0] == sum(totals(batches)[1:])
    if separator == "\t":
        lines = content.replace(b"\0", b"").split(b"\n")
        assert totals(batches)[0] >= sum(bool(line.decode().strip()) for line in lines if line.isascii())


@given(fields=st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=10))
@same_folder
def test_a_csv_that_python_wrote_comes_back(tmp_path: Path, fields: list[tuple[str, str]]) -> None:
    import csv
    import io

    fields = [(f"id{n}", "".join(c for c in text if c.isprintable()) or "x") for n, (_, text) in enumerate(fields)]
    stream = io.StringIO()
    csv.writer(stream).writerows([("id", "body"), *fields])
    path = tmp_path / "posts.csv"
    path.write_text(stream.getvalue(), encoding="utf-8")
    batches = read(path, "delimited", columns={"post_id": "id", "text": "body"})
    assert [(row["post_id"], row["text"]) for row in rows(batches)] == fields


def test_a_field_of_a_csv_may_hold_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('post_id,text\n1,"two\nlines, ""quoted"""\n')
    assert rows(read(tmp_path, "delimited"))[0]["text"] == 'two\nlines, "quoted"'


def test_lines_in_another_encoding_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "posts.tsv"
    path.write_bytes("1\tcafé\n".encode() + "2\tcafé “x”\n".encode("cp1252"))
    batches = read(path, "delimited", separator="\t", header=False, columns={"post_id": 0, "text": 1})
    assert [row["text"] for row in rows(batches)] == ["café", "café “x”"]


def test_ids_beyond_2_to_the_53_stay_exact(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").write_text(
        '{"post_id": 1844674407370955161, "text": "a"}\n{"post_id": 1e19, "text": "b"}\n'
    )
    batches = read(tmp_path, "jsonl")
    assert [row["post_id"] for row in rows(batches)] == ["1844674407370955161"]
    assert totals(batches) == (2, 1, 0, 1)


def test_only_public_and_unlisted_posts_are_read(tmp_path: Path) -> None:
    shown = ["public", "Unlisted", "private", "direct", "", None, 7]
    lines = [json.dumps({"post_id": str(n), "text": "t", "visibility": one}) for n, one in enumerate(shown)]
    (tmp_path / "posts.jsonl").write_text("\n".join([*lines, '{"post_id": "9", "text": "says nothing"}']))
    batches = read(tmp_path, "jsonl")
    assert [(row["post_id"], row["visibility"]) for row in rows(batches)] == [
        ("0", "public"),
        ("1", "unlisted"),
        ("9", "public"),
    ]
    assert batches[0].refused == {"not public": 5}


def test_a_mapped_visibility_that_is_absent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").write_text('{"id": "1", "text": "t"}\n')
    batches = read(tmp_path, "jsonl", columns={"post_id": "id", "text": "text", "visibility": "who"})
    assert totals(batches) == (1, 0, 1, 0)


@pytest.mark.parametrize(
    "written",
    ["2024-12-25T18:31:23Z", "2024-12-25T19:31:23.000+01:00", "Wed Dec 25 18:31:23 +0000 2024", "1735151483",
     "1735151483000", "1735151483.0", "2024-12-25 18:31:23"],
)  # fmt: skip
def test_times_are_read_in_every_platform_s_form(tmp_path: Path, written: str) -> None:
    (tmp_path / "posts.jsonl").write_text(json.dumps({"post_id": "1", "text": "t", "created_at": written}))
    assert rows(read(tmp_path, "jsonl"))[0]["created_at"].isoformat() == "2024-12-25T18:31:23+00:00"


def test_a_deletion_with_an_unreadable_date_is_still_a_deletion(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").write_text('{"post_id": "1", "text": "t", "deleted_at": "last week"}')
    assert rows(read(tmp_path, "jsonl"))[0]["deleted_at"] is not None


def test_nested_fields_and_lists_of_json(tmp_path: Path) -> None:
    record = {"id": 5, "text": "t", "user": {"id": 77}, "tags": ["a", "b"], "n": 3}
    (tmp_path / "posts.jsonl").write_text(json.dumps(record))
    columns = {"post_id": "id", "text": "text", "author_id": "user.id", "mentions": "tags", "likes": "n"}
    row = rows(read(tmp_path, "jsonl", columns=columns))[0]
    assert (row["author_id"], row["mentions"], row["likes"]) == ("77", ["a", "b"], 3)


def test_parquet_maps_columns_and_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [2**60, 2], "body": ["a", None], "when": [1735151483, None], "tags": [["x"], []]})
    frame.write_parquet(tmp_path / "posts.parquet")
    columns = {"post_id": "id", "text": "body", "created_at": "when", "mentions": "tags"}
    batches = read(tmp_path, "parquet", columns=columns)
    assert totals(batches) == (2, 1, 0, 1)
    assert rows(batches)[0]["post_id"] == str(2**60)
    assert rows(batches)[0]["created_at"].year == 2024


def test_a_damaged_row_group_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    frame = pl.DataFrame({"post_id": [str(n) for n in range(3000)], "text": [f"text {n * n}" for n in range(3000)]})
    frame.write_parquet(path, row_group_size=1000, compression="zstd")
    content = bytearray(path.read_bytes())
    content[50:400] = bytes(350)
    path.write_bytes(content)
    read_, posts, _, damaged = totals(read(path, "parquet"))
    assert (read_, posts, damaged) == (3000, 2000, 1000)


@pytest.mark.parametrize(
    ("reader", "fields", "problem", "remedy"),
    [
        ("jsnl", {}, "no reader 'jsnl'", "jsonl"),
        ("jsonl", {"columns": {"post_id": "id", "txt": "t"}}, "no field 'txt'", "text"),
        ("jsonl", {"columns": {"post_id": "id"}}, "no column is named for text", "text"),
        ("delimited", {"columns": {"post_id": "id", "text": "t"}}, "no column 't'", "body"),
        ("delimited", {"header": False, "columns": {"post_id": "id", "text": 1}}, "position", "header"),
    ],
)
def test_wrong_settings_name_what_to_do(
    tmp_path: Path, reader: str, fields: dict[str, Any], problem: str, remedy: str
) -> None:
    (tmp_path / "posts.csv").write_text("id,body\n1,x\n")
    (tmp_path / "posts.jsonl").write_text("{}\n")
    path = tmp_path / ("posts.csv" if reader == "delimited" else "posts.jsonl")
    with pytest.raises(InputError, match=problem) as caught:
        read(path, reader, **fields)
    assert remedy in caught.value.remedy


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(gzip.compress(b"not parquet"))
    with pytest.raises(InputError, match="not a readable Parquet"):
        read(tmp_path, "parquet")
