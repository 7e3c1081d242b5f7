"""GGUF in and out: an open model becomes a Hugging Face folder, an assistant becomes one file to serve.

Llama and Qwen3 networks with a byte-level BPE tokenizer. llama.cpp and openvino-genai read what is
written here; transformers reads what is made of what they read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from wingspan.assets import OPEN_MODELS, asset_name, converted_folder, fetch
from wingspan.errors import InputError, WorkError
from wingspan.model.chat import TEMPLATE
from wingspan.model.checkpoint import open_folder
from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape

Weights = Literal["f16", "q8_0"]

_ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}
_QUANTISED = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
_FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}

# How llama.cpp splits text before BPE, by the name it knows the rule by (tokenizer.ggml.pre).
QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_SPLITS = {
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2_REGEX), "isolated"), _BYTES]),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
}


def open_model_folder(spec: str, base: Path = Path()) -> Path:
    """The Hugging Face folder that `model.start` means: `asset:NAME`, or a path below `base`.

    An asset is fetched and converted on first use and kept in the cache, complete or absent. Weights are
    bf16: its rounding (1 part in 256) is far below the steps of a 4-bit file (1 part in 15), it is what
    the later stages write, and it halves the folder.
    """
    name = asset_name(spec)
    if name is None:
        path = Path(spec).expanduser()
        return path if path.is_absolute() else base / path
    if name not in OPEN_MODELS:
        raise InputError(f"'{name}' is not a model", where=spec, remedy=f"Models: {', '.join(OPEN_MODELS)}")
    folder = converted_folder(name)
    if folder.is_dir():
        return folder
    source = next(fetch(name).glob("*.gguf"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        read_gguf(source, ModelShape.from_hf_config(dict(OPEN_MODELS[name].config)), made)
        if not folder.is_dir():  # another process may have been faster
            shutil.move(made, folder)
    return folder


def read_gguf(path: Path, shape: ModelShape, folder: Path) -> None:
    """Write the network and the tokenizer of a GGUF file as a Hugging Face folder, dequantised to bf16.

    Raises WorkError when the file is not the network that `shape` says.
    """
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    state: dict[str, torch.Tensor] = {}
    for hf_name, gguf_name, size in _parameters(shape):
        if gguf_name not in tensors:
            raise WorkError(f"the file has no tensor {gguf_name}", where=path, remedy="Fetch or make it again")
        stored = tensors[gguf_name]
        values = gguf.quants.dequantize(stored.data, stored.tensor_type).reshape(size)
        if heads := _rotated_heads(hf_name, shape):
            values = _pairs_to_halves(values, heads)
        state[hf_name] = torch.tensor(values).to(torch.bfloat16)
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(reader, folder, shape.max_positions)
    ends = {f"{name}_token_id": _value(reader, f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL_IDS.items()}
    _write_json(folder / "config.json", shape.to_hf_config() | ends | {"dtype": "bfloat16"})
    _write_json(folder / "generation_config.json", ends)


def write_gguf(folder: Path, path: Path, weights: Weights) -> None:
    """Write a Hugging Face folder (Llama or Qwen3, byte-level BPE) as one GGUF file at `path`.

    Matrices become `weights`, norms stay float32. Raises InputError for a network or a tokenizer that
    llama.cpp has no name for. The file is whole or absent.
    """
    checkpoint = open_folder(folder)
    shape = checkpoint.shape
    if shape.architecture not in _ARCHITECTURES or shape.rope_scaling:
        scaled = " with scaled rope" if shape.rope_scaling else ""
        raise InputError(
            f"a {shape.architecture} network{scaled} cannot be exported to GGUF",
            where=folder,
            remedy="Serve it with serve.engine = 'torch'",
        )
    temporary = path.with_name(f".{path.name}.partial")
    writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[_ARCHITECTURES[shape.architecture]])
    _add_shape(writer, shape, weights)
    _add_tokenizer(writer, folder, shape.vocab)
    for hf_name, gguf_name, _ in _parameters(shape):
        values = checkpoint.tensor(hf_name).float().numpy()
        if heads := _rotated_heads(hf_name, shape):
            values = _halves_to_pairs(values, heads)
        kind = _QUANTISED[weights] if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(path)


# --- the network ---------------------------------------------------------------------------------------------


def _parameters(shape: ModelShape) -> Iterator[tuple[str, str, torch.Size]]:
    """(name in Hugging Face folders, name in GGUF, size [out, in] or [width]) of every parameter."""
    names = gguf.get_tensor_name_map(_ARCHITECTURES[shape.architecture], shape.layers)
    with torch.device("meta"):
        network = Decoder(shape)
    for name, parameter in network.named_parameters():
        found = names.get_name(name, try_suffixes=(".weight",))
        assert found is not None, name
        yield name, found, parameter.shape


def _rotated_heads(name: str, shape: ModelShape) -> int:
    """Heads of a projection whose rows the two formats order differently, else 0.

    Llama's rotary embedding turns neighbouring rows in GGUF and rows half a head apart in Hugging Face
    folders; Qwen3 is half a head apart in both.
    """
    if shape.architecture != "llama":
        return 0
    return {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.split(".")[-2], 0)


def _halves_to_pairs(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """[heads * d, in], rows of a head as (half, position) -> as (position, half)."""
    return values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _pairs_to_halves(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The inverse of _halves_to_pairs."""
    return values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _add_shape(writer: gguf.GGUFWriter, shape: ModelShape, weights: Weights) -> None:
    writer.add_file_type(_FILE_TYPES[weights])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.max_positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)


# --- the tokenizer -------------------------------------------------------------------------------------------

_SPECIAL_IDS = {"bos": "bos", "eos": "eos", "pad": "padding"}  # in Hugging Face folders -> in GGUF


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field else None


def _write_tokenizer(reader: gguf.GGUFReader, folder: Path, max_positions: int) -> None:
    """tokenizer.json, its config and the chat template, from a GGUF's tokens and merges."""
    tokens: list[str] = _value(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _value(reader, "tokenizer.ggml.merges")]
    pre = _value(reader, "tokenizer.ggml.pre")
    if pre not in _SPLITS:
        raise InputError(f"the tokenizer's rule '{pre}' is not known", remedy=f"Known rules: {', '.join(_SPLITS)}")
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = _SPLITS[pre]
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        f"{name}_token": tokens[number]
        for name, key in _SPECIAL_IDS.items()
        if (number := _value(reader, f"tokenizer.ggml.{key}_token_id")) is not None
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", names | settings)
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab: int) -> None:
    """Tokens in order of id, merges, special ids and the chat template; unused ids get a filler."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = [f"[UNUSED{number}]" for number in range(vocab)]
    kinds = [gguf.TokenType.UNUSED] * vocab
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(tokenizer["pre_tokenizer"], folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    for name, key in _SPECIAL_IDS.items():
        number = config.get(f"{name}_token_id")
        if isinstance(number, list):
            number = number[0]
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    writer.add_chat_template(TEMPLATE)


def _split_name(rule: dict[str, Any] | None, folder: Path) -> str:
    """llama.cpp's name of a tokenizer.json's pre-tokenizer."""
    for name, known in _SPLITS.items():
        if rule == _as_json(known):
            return name
    raise InputError(
        "llama.cpp has no name for this tokenizer's way to split text",
        where=folder / "tokenizer.json",
        remedy="Serve it with serve.engine = 'torch', or train a tokenizer with prepare",
    )


def _as_json(split: pre_tokenizers.PreTokenizer) -> dict[str, Any]:
    """A pre-tokenizer as tokenizer.json spells it."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = split
    rule: dict[str, Any] = json.loads(bare.to_str())["pre_tokenizer"]
    return rule


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}, indent=2))
