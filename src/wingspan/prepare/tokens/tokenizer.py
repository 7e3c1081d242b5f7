"""The tokenizer: the start model's own, or byte-level BPE trained on the prepared texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from wingspan.assets import asset_name
from wingspan.errors import InputError
from wingspan.model.chat import END_OF_DOCUMENT, SPECIAL_TOKENS, START, STOP, TEMPLATE, ChatRenderer, load_tokenizer
from wingspan.project import ModelSection

# The pre-tokenizer of Qwen2 (Yang et al. 2024), which llama.cpp knows by name. No normaliser: llama.cpp has none.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def make_tokenizer(model: ModelSection, base: Path | None, texts: Iterable[str], folder: Path) -> Tokenizer:
    """Write a Hugging Face tokenizer folder with the chat template; returns the tokenizer.

    `base` is the folder of the model that training starts from; without one, `texts` train a tokenizer of
    `model.vocab` tokens. Raises InputError when the base model cannot chat (it has no ChatML tokens).
    """
    folder.mkdir(parents=True)
    if base is None:
        train_bpe(texts, model.vocab).save(str(folder / "tokenizer.json"))
        config = _config_from_scratch(model)
    else:
        for name in _COPIED:
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)
        config = _config_of(base)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    if tokenizer.token_to_id(END_OF_DOCUMENT) is None:
        raise InputError(
            f"the tokenizer has no {END_OF_DOCUMENT} token to end a post with",
            where=base or folder,
            remedy="Start from a model that has one, or from 'scratch'",
        )
    ChatRenderer(tokenizer)  # refuses one without ChatML; from here on text never spells a special token
    return tokenizer


def start_model_folder(model: ModelSection, resolve: Callable[[str], Path]) -> Path | None:
    """The Hugging Face folder of the model to start from, None from scratch."""
    if model.start == "scratch":
        return None
    if asset_name(model.start) is None:
        return resolve(model.start)
    from wingspan.model.gguf import open_model_folder  # loads torch, which training from scratch spares prepare

    return open_model_folder(model.start)


def train_bpe(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) of at most `vocab` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _config_from_scratch(model: ModelSection) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_positions,
        "eos_token": END_OF_DOCUMENT,
        "pad_token": END_OF_DOCUMENT,
        "additional_special_tokens": [START, STOP],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }


def _config_of(base: Path) -> dict[str, Any]:
    path = base / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config or {"tokenizer_class": "PreTrainedTokenizerFast"}
