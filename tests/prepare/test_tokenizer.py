from __future__ import annotations

import hashlib
import json
import struct
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from wingspan.errors import InputError
from wingspan.model.chat import TEMPLATE, ChatRenderer, Message
from wingspan.prepare.posts import settle
from wingspan.prepare.shards import PUBLISHED_SCHEMA, publish_posts
from wingspan.prepare.split import SPLITS
from wingspan.prepare.tokens.megatron import export_megatron
from wingspan.prepare.tokens.shards import encoder, write_tokens
from wingspan.prepare.tokens.tokenizer import make_tokenizer, train_bpe
from wingspan.project import ModelSection, Prepare

from .flows import dataset, flow_in

TEXTS = ["the rain in Spain stays mainly in the plain", "déjà vu 👍 日本語", "I'm sure it's 1234 o'clock\n\nnow"] * 20
SCRATCH = ModelSection(depth=2, vocab=300)
BPE = train_bpe(TEXTS, 300)
NO_HABITS = pl.DataFrame(schema={"row": pl.UInt32, "tag": pl.String}).to_arrow()
NO_DUPLICATES = pl.DataFrame(schema={"row": pl.UInt32, "repeats": pl.UInt64, "exact": pl.Boolean}).to_arrow()
MISSING = {
    name: kind
    for name, kind in pl.DataFrame(PUBLISHED_SCHEMA.empty_table()).schema.items()
    if name not in ("post_id", "text")
}


@given(st.text(max_size=50))
def test_every_text_comes_back(text: str) -> None:
    BPE.encode_special_tokens = True
    assert BPE.decode(BPE.encode(text).ids, skip_special_tokens=False) == text


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_bpe(TEXTS, 300).to_str() == train_bpe(TEXTS, 300).to_str()
    assert BPE.get_vocab_size() == 300


def test_transformers_loads_the_folder_and_renders_chats_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_tokenizer(SCRATCH, None, TEXTS, tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    messages: list[Message] = [
        {"role": "system", "content": "Be kind."},
        {"role": "posts", "content": "[1] the rain"},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "Yes [1]."},
    ]
    renderer = ChatRenderer.from_folder(tmp_path / "tokenizer")
    assert loaded.apply_chat_template(messages, return_dict=False) == renderer.render(messages).token_ids
    prompt = loaded.apply_chat_template(messages[:3], add_generation_prompt=True, return_dict=False)
    assert prompt == renderer.prompt(messages[:3])
    assert loaded.eos_token_id == 0
    assert json.loads((tmp_path / "tokenizer/tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
    assert (tmp_path / "tokenizer/chat_template.jinja").read_text() == TEMPLATE


def test_the_way_text_is_split_has_a_name_in_llama_cpp() -> None:
    from wingspan.model.gguf import QWEN2_REGEX

    split = json.loads(BPE.to_str())["pre_tokenizer"]["pretokenizers"][0]
    assert split["pattern"] == {"Regex": QWEN2_REGEX}


def test_a_base_model_s_own_tokenizer_is_kept(tmp_path: Path) -> None:
    make_tokenizer(SCRATCH, None, TEXTS, tmp_path / "base")
    made = make_tokenizer(ModelSection(start="base"), tmp_path / "base", (), tmp_path / "copy")
    assert made.get_vocab_size() == 300
    assert (tmp_path / "copy/tokenizer.json").read_bytes() == (tmp_path / "base/tokenizer.json").read_bytes()


def test_a_base_model_that_cannot_chat_is_refused(tmp_path: Path) -> None:
    from tokenizers import models

    (tmp_path / "base").mkdir()
    bare = Tokenizer(models.BPE())
    bare.add_special_tokens(["<|endoftext|>"])
    bare.save(str(tmp_path / "base" / "tokenizer.json"))
    with pytest.raises(InputError, match="no token"):
        make_tokenizer(ModelSection(start="base"), tmp_path / "base", (), tmp_path / "copy")


@pytest.mark.parametrize("fast", [True, False])
def test_shards_hold_every_post_and_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    if not fast:
        monkeypatch.setattr("wingspan.prepare.tokens.shards._gigatoken", lambda folder: None)
    tokenizer = make_tokenizer(SCRATCH, None, TEXTS, tmp_path / "tokenizer")
    texts = ["the rain", "a post that spells <|endoftext|> is text", "日本語"]
    posts = pl.DataFrame({"post_id": ["10", "2", "3"], "text": texts, "refused": None, "split": "train"})
    posts = posts.with_columns(pl.lit(None, kind).alias(name) for name, kind in MISSING.items())
    posts = posts.with_columns(visibility=pl.lit("public"), source=pl.lit("s"))
    flow = flow_in(tmp_path)
    parts = dataset(flow, "parts", posts[:1].to_arrow(), posts[1:].to_arrow())
    habits, repeats = (dataset(flow, name, none, none) for name, none in (("a", NO_HABITS), ("b", NO_DUPLICATES)))
    outcome = flow.map("outcome", partial(settle, Prepare()), parts, habits, repeats)
    splits = {split: publish_posts(flow, tmp_path / "posts", split, parts, outcome, 2) for split in SPLITS}
    index = write_tokens(flow, splits, tmp_path / "tokenizer", tmp_path / "tokens")
    assert index == json.loads((tmp_path / "tokens/index.json").read_text())
    assert (index["dtype"], index["vocab"], index["end_of_document"]) == ("uint16", 300, 0)
    assert [shard["documents"] for shard in index["splits"]["train"]] == [2, 1]
    assert [shard["documents"] for shard in index["splits"]["held_out"]] == [0]
    found = []
    for shard in index["splits"]["train"]:
        content = (tmp_path / "tokens" / shard["file"]).read_bytes()
        ids = np.frombuffer(content, dtype="<u2")
        assert (ids.size, len(content)) == (shard["tokens"], shard["bytes"])
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
        assert (ids == 0).sum() == shard["documents"]
        documents = pl.read_parquet(tmp_path / "tokens" / shard["file"].replace(".bin", ".documents.parquet"))
        for post_id, offset, length, size in documents.iter_rows():
            piece = ids[offset : offset + length]
            assert piece[-1] == 0
            found.append(tokenizer.decode(piece[:-1].tolist(), skip_special_tokens=False))
            assert len(found[-1].encode()) == size
            where = pl.scan_parquet(tmp_path / "tokens/posts-*.parquet").filter(pl.col("post_id") == post_id).collect()
            assert where.rows() == [(post_id, shard["file"].removesuffix(".bin"), offset, length)]
    assert found == texts


@given(st.text(max_size=80))
@settings(deadline=None)
def test_fast_encoding_is_that_of_hugging_face(folder: Path, text: str) -> None:
    BPE.encode_special_tokens = True
    ids, lengths = encoder(folder)([text, "the rain"])
    assert lengths.tolist() == [len(BPE.encode(one).ids) for one in (text, "the rain")]
    assert ids.tolist() == BPE.encode(text).ids + BPE.encode("the rain").ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "tokenizer"
    make_tokenizer(SCRATCH, None, TEXTS, made)
    return made


def test_megatron_s_index_leads_to_every_post(tmp_path: Path) -> None:
    lengths, ids = [[3, 2], [4]], np.arange(9, dtype="<u2")
    shards = []
    for number, some in enumerate(lengths):
        begin = sum(map(sum, lengths[:number]))
        (tmp_path / f"train-{number}.bin").write_bytes(ids[begin : begin + sum(some)].tobytes())
        pl.DataFrame({"length": some, "bytes": some}).write_parquet(tmp_path / f"train-{number}.documents.parquet")
        shards.append({"file": f"train-{number}.bin"})
    (tmp_path / "index.json").write_text(json.dumps({"dtype": "uint16", "splits": {"train": shards}}))
    assert export_megatron(tmp_path, tmp_path / "out") == {"train": 3}
    index, content = (tmp_path / "out/train.idx").read_bytes(), (tmp_path / "out/train.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack("<QBQQ", index[9:34]) == (1, 8, 3, 4)
    sizes = np.frombuffer(index, "<i4", 3, 34).tolist()
    pointers = np.frombuffer(index, "<i8", 3, 46).tolist()
    assert np.frombuffer(index, "<i8", 4, 70).tolist() == [0, 1, 2, 3]
    assert len(index) == 102
    found = [np.frombuffer(content, "<u2", size, at).tolist() for size, at in zip(sizes, pointers, strict=True)]
    assert found == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
