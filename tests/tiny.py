"""A model folder small enough for tests, with a real tokenizer: two blocks, width 64, random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from wingspan.model.chat import SPECIAL_TOKENS, TEMPLATE
from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape

WORDS = "good bad post about tea rain sun positive neutral negative system user assistant posts hello how are you"


def byte_level_bpe(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of a few texts, with the chat tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(folder: Path) -> Tokenizer:
    """A tokenizer folder: byte-level BPE, chat tokens, chat template."""
    tokenizer = byte_level_bpe([WORDS] * 5)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def write_model(folder: Path, seed: int, architecture: str = "qwen3") -> Path:
    """A whole Hugging Face folder; returns it."""
    tokenizer = write_tokenizer(folder)
    shape = ModelShape(
        architecture=architecture,  # type: ignore[arg-type]
        layers=2,
        hidden=64,
        heads=4,
        kv_heads=2,
        head_dim=16,
        ffn=128,
        vocab=tokenizer.get_vocab_size(),
        tie_embeddings=True,
        rope_theta=10_000.0,
    )
    torch.manual_seed(seed)
    network = Decoder(shape)
    for name, parameter in network.named_parameters():
        if not name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, std=0.08)
    save_file({name: one.detach() for name, one in network.state_dict().items()}, folder / "model.safetensors")
    end = tokenizer.token_to_id("<|im_end|>")
    config = shape.to_hf_config() | {"eos_token_id": end, "bos_token_id": 0, "pad_token_id": 0, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
