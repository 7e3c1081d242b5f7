"""Both engines, real ones on a tiny random network: the same answers, many at once, and gone when closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen3Config, Qwen3ForCausalLM

from wingspan.engine.engine import Chunk, Sampling
from wingspan.engine.torch_engine import generate, torch_engine
from wingspan.engine.worker import BatchEngine, Grown
from wingspan.errors import WorkError
from wingspan.model.chat import SPECIAL_TOKENS, load_tokenizer
from wingspan.model.checkpoint import load, open_folder

PROMPTS = [[5, 9, 30, 77, 41], [120, 7], [60, 61, 62, 63, 64, 65, 66, 67], [201]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 with a tokenizer of bytes and one merge."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(11)
    config = Qwen3Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        vocab_size=260,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=259,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate([*alphabet, "th"])}, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["torch", "openvino"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[BatchEngine]:
    tokenizer = load_tokenizer(folder)
    if request.param == "torch":
        made = torch_engine(folder, tokenizer)
    else:
        pytest.importorskip("openvino_genai")
        from wingspan.engine.openvino import openvino_engine
        from wingspan.model.gguf import write_gguf

        write_gguf(folder, folder / "model.gguf", "f16")
        made = openvino_engine(folder / "model.gguf", open_folder(folder).shape, tokenizer)
    yield made
    made.close()


async def answer(engine: BatchEngine, prompt: list[int], sampling: Sampling) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(prompt, sampling)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_many_answers_at_once_equal_each_alone(engine: BatchEngine, folder: Path):
    sampling = Sampling(max_tokens=20)

    async def together() -> list[list[Chunk]]:
        return await asyncio.gather(*(answer(engine, prompt, sampling) for prompt in PROMPTS * 4))

    answers = asyncio.run(together())
    alone = [asyncio.run(answer(engine, prompt, sampling)) for prompt in PROMPTS]
    assert [text(one) for one in answers] == [text(one) for one in alone] * 4
    assert all(sum(chunk.tokens for chunk in chunks) == 20 and chunks[-1].finish == "length" for chunks in alone)
    if engine.name == "openvino":
        return  # rounds to bf16 where the processor can; tests/model/test_gguf.py holds it to float32
    tokenizer = load_tokenizer(folder)
    expected = generate(load(folder), PROMPTS, sampling)
    for chunks, ids in zip(alone, expected, strict=True):
        assert tokenizer.decode(ids).startswith(text(chunks))  # half a character at the end is not shown


def test_an_answer_ends_at_a_stop_token_which_is_not_part_of_it(engine: BatchEngine, folder: Path):
    ids = generate(load(folder), PROMPTS[:1], Sampling(max_tokens=12))[0]
    stop = next(token for position, token in enumerate(ids) if position >= 3 and token not in ids[:position])
    chunks = asyncio.run(answer(engine, PROMPTS[0], Sampling(max_tokens=12, stop_ids=frozenset({stop}))))
    assert chunks[-1].finish == "stop"
    assert sum(chunk.tokens for chunk in chunks) == ids.index(stop)


def test_a_closed_stream_leaves_the_batch_and_the_others_go_on(engine: BatchEngine):
    async def leave() -> list[Chunk]:
        async with aclosing(engine.stream(PROMPTS[0], Sampling(max_tokens=240))) as stream:
            await anext(stream)
            other = asyncio.create_task(answer(engine, PROMPTS[1], Sampling(max_tokens=30)))
            await asyncio.sleep(0.01)
        finished = await other
        async with asyncio.timeout(5):
            while engine.active:
                await asyncio.sleep(0.01)
        return finished

    assert sum(chunk.tokens for chunk in asyncio.run(leave())) == 30


def test_a_cancelled_task_leaves_the_batch(engine: BatchEngine):
    async def cancel() -> None:
        task = asyncio.create_task(answer(engine, PROMPTS[0], Sampling(max_tokens=240)))
        while not engine.active:
            await asyncio.sleep(0.001)
        task.cancel()
        async with asyncio.timeout(5):
            while engine.active:
                await asyncio.sleep(0.01)

    asyncio.run(cancel())


def test_a_seed_fixes_what_chance_decides(engine: BatchEngine):
    def sample(seed: int) -> str:
        sampling = Sampling(max_tokens=24, temperature=1.5, top_p=0.95, seed=seed)
        return text(asyncio.run(answer(engine, PROMPTS[2], sampling)))

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(1, 5)}) > 1


def test_batched_generation_equals_transformers(folder: Path):
    model = Qwen3ForCausalLM.from_pretrained(folder)
    answers = generate(load(folder), PROMPTS, Sampling(max_tokens=10))
    for prompt, ids in zip(PROMPTS, answers, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert ids == expected[0, len(prompt) :].tolist()


def test_a_failing_engine_says_so_and_ends_every_stream(folder: Path):
    class Broken:
        busy = True

        def add(self, number: int, prompt: object, sampling: object) -> None: ...

        def drop(self, number: int) -> None: ...

        def step(self) -> list[Grown]:
            raise RuntimeError("out of memory")

        def close(self) -> None: ...

    engine = BatchEngine("broken", Broken(), load_tokenizer(folder), 64)
    for _ in range(2):
        with pytest.raises(WorkError, match="out of memory"):
            asyncio.run(answer(engine, [1], Sampling(max_tokens=4)))
    engine.close()
    assert not engine.healthy
