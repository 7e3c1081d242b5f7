"""Packing loses no token, crosses no document, and notices damaged shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.prepared import END, make_tokenizer, posts, write_tokens
from wingspan.errors import DamagedArtefact, InputError, WorkError
from wingspan.model.loss import IGNORED
from wingspan.train.data.batches import TokenSplit, open_split, pack

TEXTS = [*posts(60, 3), " ".join(posts(20, 4))]  # the last is longer than a row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokens(tmp_path, make_tokenizer(), {"train": TEXTS, "held_out": posts(10, 5)})
    return tmp_path


@given(st.lists(st.integers(1, 64), max_size=300))
def test_rows_are_never_overfull_and_hold_every_piece(lengths: list[int]) -> None:
    rows = pack(np.array(lengths, dtype=np.int64), 64)
    filled = np.bincount(rows, weights=lengths) if lengths else np.array([])
    assert (rows >= 0).all()
    assert (filled <= 64).all()
    assert (filled > 0).all()
    if len(filled) > 1:  # two rows of best-fit decreasing are never both half empty
        assert np.sort(filled)[:2].sum() > 64


def test_packing_posts_leaves_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(4, 60, 5000)
    assert lengths.sum() / ((pack(lengths, 128).max() + 1) * 128) > 0.99


def test_pieces_longer_than_a_row_are_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens"):
        pack(np.array([3, 65]), 64)


def read_back(split: TokenSplit, sequence: int) -> dict[tuple[int, ...], int]:
    """Windows of documents found in the packed rows, inputs checked against targets."""
    batches = split.packed(sequence)
    batch = batches.batch(np.arange(len(batches)))
    found: dict[tuple[int, ...], int] = {}
    for tokens, targets, positions, documents in zip(*(field.numpy() for field in vars(batch).values()), strict=True):
        assert (targets[documents == -1] == IGNORED).all()
        for document in range(documents.max() + 1):
            here = documents == document
            assert (positions[here] == np.arange(here.sum())).all()
            assert (tokens[here][1:] == targets[here][:-1]).all()
            window = tuple(targets[here])
            found[window] = found.get(window, 0) + 1
    return found


@pytest.mark.parametrize("sequence", [16, 50, 200])
def test_every_token_is_predicted_exactly_once(folder: Path, sequence: int) -> None:
    tokenizer = make_tokenizer()
    expected: dict[tuple[int, ...], int] = {}
    for text in TEXTS:
        document = [*tokenizer.encode(text).ids, tokenizer.token_to_id(END)]
        for begin in range(0, len(document), sequence):
            window = tuple(document[begin : begin + sequence])
            expected[window] = expected.get(window, 0) + 1
    split = open_split(folder, "train")
    assert read_back(split, sequence) == expected
    assert split.bytes.sum() == sum(len(text.encode()) for text in TEXTS)


def test_a_document_follows_the_end_of_the_one_before(folder: Path) -> None:
    batch = open_split(folder, "train").packed(64).batch(np.array([0, 1, 2]))
    end = make_tokenizer().token_to_id(END)
    starts = (batch.positions == 0) & (batch.documents >= 0)
    first_window = batch.tokens[starts]
    assert (first_window == end).sum() >= len(first_window) - 2  # all but later windows of long documents


def test_a_sample_is_about_as_large_as_asked_and_always_the_same(folder: Path) -> None:
    split = open_split(folder, "train")
    some = split.sample(200, seed=3)
    assert 200 <= some.length.sum() < 200 + split.length.max()
    assert (some.offset == split.sample(200, seed=3).offset).all()
    assert len(split.sample(10**9, seed=3).length) == len(TEXTS)


def test_a_flipped_byte_in_a_shard_is_found_and_named(folder: Path) -> None:
    shard = folder / "train-00001.bin"
    content = bytearray(shard.read_bytes())
    content[9] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedArtefact, match=r"train-00001\.bin"):
        open_split(folder, "train")


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "train-00000.documents.parquet").unlink()
    with pytest.raises(WorkError, match="missing") as caught:
        open_split(folder, "train")
    assert caught.value.where.endswith("train-00000.documents.parquet")
    with pytest.raises(InputError, match="no 'other' tokens"):
        open_split(folder, "other")
