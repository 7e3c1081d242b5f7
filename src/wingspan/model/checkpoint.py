"""Hugging Face folders in and out: config.json, safetensors, tokenizer. No other format, no pickle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from wingspan.errors import InputError, WorkError
from wingspan.model.network import Decoder
from wingspan.model.shape import ModelShape

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

_FILE_LIMIT = 5 * 10**9  # bytes; what transformers itself cuts at
_END_OF_TURN = "<|im_end|>"
_EXPERTS = re.compile(r"(.*\.mlp\.experts)\.((?:gate|up|down)_proj)$")


@dataclass(frozen=True)
class Folder:
    """A Hugging Face folder opened for reading: its shape, and each tensor's file."""

    path: Path
    shape: ModelShape
    files: Mapping[str, str]

    def tensor(self, name: str) -> Tensor:
        """One parameter by wingspan's name, as stored; experts come stacked.

        Raises InputError when it is missing, WorkError when its file is damaged.
        """
        stacked = _EXPERTS.match(name)
        if stacked is None or name in self.files:
            return self._read(name)
        prefix, matrix = stacked.groups()
        return torch.stack([self._read(f"{prefix}.{expert}.{matrix}.weight") for expert in range(self.shape.experts)])

    def _read(self, name: str) -> Tensor:
        if name not in self.files:
            raise InputError(
                f"the folder holds no weights '{name}'", where=self.path, remedy="Use a complete checkpoint"
            )
        file = self.path / self.files[name]
        try:
            with safe_open(file, framework="pt") as tensors:
                tensor: Tensor = tensors.get_tensor(name)
                return tensor
        except SafetensorError as error:
            raise WorkError(
                f"the weights cannot be read: {error}", where=file, remedy="Fetch or make it again"
            ) from error


def open_folder(path: Path) -> Folder:
    """Open a Hugging Face folder; raises InputError when it is none, or has no safetensors."""
    config_file = path / "config.json"
    if not config_file.is_file():
        raise InputError("there is no config.json here", where=path, remedy="Give a Hugging Face model folder")
    config = json.loads(config_file.read_text())
    shape = ModelShape.from_hf_config(config, where=str(config_file))
    if shape.experts and not config.get("norm_topk_prob", False):
        raise InputError("norm_topk_prob = false is not supported", where=config_file, remedy="Use a model with it")
    return Folder(path, shape, _files(path))


def _files(path: Path) -> dict[str, str]:
    if (path / INDEX).is_file():
        files: dict[str, str] = json.loads((path / INDEX).read_text())["weight_map"]
    elif (path / "model.safetensors").is_file():
        with safe_open(path / "model.safetensors", framework="pt") as tensors:
            files = dict.fromkeys(tensors.keys(), "model.safetensors")
    else:
        raise InputError("there are no safetensors here", where=path, remedy="Convert the weights to safetensors")
    missing = sorted({file for file in files.values() if not (path / file).is_file()})
    if missing:
        raise InputError(f"the folder lacks {missing[0]}", where=path, remedy="Fetch the whole checkpoint")
    return files


def load(path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
    """The whole network of a Hugging Face folder on one device, ready to run; its weights in `dtype`."""
    folder = open_folder(path)
    with torch.device("meta"):
        model = Decoder(folder.shape)
    for name, parameter in list(model.named_parameters()):
        tensor = folder.tensor(name)
        if tensor.shape != parameter.shape:
            raise InputError(
                f"'{name}' is {tuple(tensor.shape)}, config.json means {tuple(parameter.shape)}",
                where=path,
                remedy="Use the config.json that belongs to these weights",
            )
        replacement = torch.nn.Parameter(tensor.to(device=device, dtype=dtype), requires_grad=False)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, replacement)
    return model.eval()


def hf_tensors(state: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Parameters under the names that Hugging Face stores: experts one by one, all else as it is."""
    for name, tensor in state:
        stacked = _EXPERTS.match(name)
        if stacked is None:
            yield name, tensor
            continue
        prefix, matrix = stacked.groups()
        for expert, one in enumerate(tensor):
            yield f"{prefix}.{expert}.{matrix}.weight", one


def write_weights(
    folder: Path, state: Iterable[tuple[str, Tensor]], dtype: torch.dtype, file_name: Callable[[int], str]
) -> dict[str, str]:
    """Write parameters as safetensors of at most 5 GB; returns the file of each tensor.

    `file_name(i)` names the i-th file.
    """
    files: dict[str, str] = {}
    batch: dict[str, Tensor] = {}
    size, number = 0, 0
    for name, tensor in hf_tensors(state):
        if batch and size + tensor.numel() * dtype.itemsize > _FILE_LIMIT:
            save_file(batch, folder / file_name(number), metadata={"format": "pt"})
            batch, size, number = {}, 0, number + 1
        batch[name] = tensor.detach().to("cpu", dtype).contiguous()
        size += tensor.numel() * dtype.itemsize
        files[name] = file_name(number)
    if batch:
        save_file(batch, folder / file_name(number), metadata={"format": "pt"})
    return files


def write_index(folder: Path, files: Mapping[str, str]) -> None:
    """Give the files their final names, and an index when they are several."""
    parts = sorted(set(files.values()))
    names = dict(zip(parts, _final_names(len(parts)), strict=True))
    for old, new in names.items():
        (folder / old).rename(folder / new)
    if len(names) == 1:
        return
    size = sum((folder / name).stat().st_size for name in names.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": {name: names[file] for name, file in sorted(files.items())},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1))


def _final_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def write_folder(
    folder: Path, shape: ModelShape, tokenizer: Path, end_of_document: int, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Everything of a Hugging Face folder but the weights: configuration and tokenizer.

    `tokenizer` is the folder of the tokenizer files; a generated text ends at `end_of_document` or <|im_end|>.
    """
    end_of_turn = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).token_to_id(_END_OF_TURN)
    ends = [end_of_document] if end_of_turn in (None, end_of_document) else [end_of_turn, end_of_document]
    ids: dict[str, Any] = {
        "bos_token_id": end_of_document,
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": end_of_document,
    }
    config = shape.to_hf_config() | ids | {"eos_token_id": ends[0], "dtype": str(dtype).removeprefix("torch.")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=1))
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
