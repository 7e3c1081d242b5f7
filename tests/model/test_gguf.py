"""GGUF in and out: what other programs make of our files equals what transformers computes."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from wingspan.errors import InputError
from wingspan.model.chat import SPECIAL_TOKENS, TEMPLATE, ChatRenderer
from wingspan.model.gguf import _SPLITS, open_model_folder, read_gguf, write_gguf
from wingspan.model.shape import ModelShape
from wingspan.prepare.tokens.tokenizer import train_bpe

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "vocab_size": 384,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # far from uniform, so that greedy choices are not ties
    "bos_token_id": 0,
    "eos_token_id": 2,
}
QUESTION = [{"role": "user", "content": "What do people say about rain? It's 2026, naïve 日本 😀"}]


def tiny_model(folder: Path, architecture: str, split: str = "qwen2", tied: bool = True) -> Path:
    """A random network with a tokenizer trained on a few words, as a Hugging Face folder."""
    config, network = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[architecture]
    torch.manual_seed(7)
    network(config(**SIZES, tie_word_embeddings=tied)).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _SPLITS[split]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what do people say about the rain", "rain and wind again"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def greedy_by_transformers(folder: Path, prompt: list[int], tokens: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = model.generate(
        torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return ids[0, len(prompt) :].tolist()


def greedy_by_openvino(path: Path, prompt: list[int], tokens: int) -> list[int]:
    openvino = pytest.importorskip("openvino")
    genai = pytest.importorskip("openvino_genai")
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = 16
    pipeline = genai.ContinuousBatchingPipeline(path, scheduler, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    config = genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True)
    handle = pipeline.add_request(0, openvino.Tensor(np.array([prompt], dtype=np.int64)), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    return list(handle.read_all()[0].generated_ids)


@pytest.mark.parametrize(("architecture", "tied"), [("qwen3", True), ("qwen3", False), ("llama", True)])
def test_openvino_reads_the_file_and_answers_as_transformers_does(tmp_path: Path, architecture: str, tied: bool):
    folder = tiny_model(tmp_path / "hf", architecture, tied=tied)
    write_gguf(folder, tmp_path / "model.gguf", "f16")
    prompt = ChatRenderer.from_folder(folder).prompt(QUESTION)
    assert greedy_by_openvino(tmp_path / "model.gguf", prompt, 16) == greedy_by_transformers(folder, prompt, 16)


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_writing_and_reading_gives_the_same_weights_and_tokens(tmp_path: Path, architecture: str):
    folder = tiny_model(tmp_path / "hf", architecture)
    write_gguf(folder, tmp_path / "model.gguf", "f16")
    shape = ModelShape.from_hf_config(json.loads((folder / "config.json").read_text()))
    read_gguf(tmp_path / "model.gguf", shape, tmp_path / "back")
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight.half().bfloat16().float(), rtol=0, atol=0)
    prompts = [ChatRenderer.from_folder(one).prompt(QUESTION) for one in (folder, tmp_path / "back")]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("split", sorted(_SPLITS))
def test_the_tokenizer_in_the_file_splits_text_as_ours_does(tmp_path: Path, split: str):
    genai = pytest.importorskip("openvino_genai")
    folder = tiny_model(tmp_path / "hf", "qwen3", split)
    write_gguf(folder, tmp_path / "model.gguf", "q8_0")
    text = QUESTION[0]["content"] + "\n\n  rain's #rain12 @who"
    inside = genai.Tokenizer(tmp_path / "model.gguf").encode(text).input_ids.data[0].tolist()
    assert inside == ChatRenderer.from_folder(folder).encode(text)


def test_the_file_says_what_llama_cpp_needs(tmp_path: Path):
    folder = tiny_model(tmp_path / "hf", "qwen3")
    write_gguf(folder, tmp_path / "model.gguf", "q8_0")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    said = {key: field.contents() for key, field in reader.fields.items()}
    assert said["general.architecture"] == "qwen3"
    assert said["qwen3.attention.key_length"] == 32
    assert said["tokenizer.ggml.pre"] == "qwen2"
    assert said["tokenizer.ggml.eos_token_id"] == 2
    assert said["tokenizer.chat_template"] == TEMPLATE
    assert len(said["tokenizer.ggml.tokens"]) == SIZES["vocab_size"]  # padded to the size of the network
    assert said["tokenizer.ggml.token_type"][:3] == [gguf.TokenType.CONTROL] * 3
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q_norm.weight"] == "F32"


def test_a_tokenizer_llama_cpp_has_no_name_for_is_refused(tmp_path: Path):
    folder = tiny_model(tmp_path / "hf", "qwen3")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match="no name for this tokenizer"):
        write_gguf(folder, tmp_path / "model.gguf", "f16")
    assert not (tmp_path / "model.gguf").exists()


def test_a_tokenizer_that_prepare_trains_has_a_name(tmp_path: Path):
    folder = tiny_model(tmp_path / "hf", "qwen3")
    train_bpe(["rain and wind", "wind and rain"] * 3, 300).save(str(folder / "tokenizer.json"))
    write_gguf(folder, tmp_path / "model.gguf", "f16")
    assert gguf.GGUFReader(tmp_path / "model.gguf").get_field("tokenizer.ggml.pre").contents() == "qwen2"


def test_a_path_is_taken_as_it_is_and_a_data_set_is_no_model(tmp_path: Path):
    assert open_model_folder("models/mine", tmp_path) == tmp_path / "models" / "mine"
    assert open_model_folder(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="not a model"):
        open_model_folder("asset:vader-tweets")
