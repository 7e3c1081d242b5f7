"""The network gives the logits of transformers, masks documents, decodes with a cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from wingspan.model import checkpoint
from wingspan.model.attention import KeyValueCache
from wingspan.model.loss import linear_cross_entropy
from wingspan.model.network import Decoder
from wingspan.model.shape import Architecture, ModelShape

SIZES = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96, "vocab": 131}
EXPERTS = {"experts": 4, "experts_per_token": 2, "expert_ffn": 32}
SHAPES = {
    "llama": ModelShape("llama", **SIZES, tie_embeddings=True, rope_theta=1e4),
    "qwen3": ModelShape("qwen3", **SIZES, tie_embeddings=False),
    "qwen3_moe": ModelShape("qwen3_moe", **SIZES, tie_embeddings=False, **EXPERTS),
}
STRETCHED = {"factor": 4.0, "original_max_position_embeddings": 16}
SCALINGS: dict[str, dict[str, object]] = {
    "linear": {"factor": 4.0},
    "llama3": STRETCHED | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": STRETCHED,
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> ModelShape:
    architecture: Architecture = request.param
    return SHAPES[architecture]


def random_model(shape: ModelShape) -> Decoder:
    torch.manual_seed(3)
    model = Decoder(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    return model


def tokens_of(shape: ModelShape, rows: int = 2, length: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return torch.randint(shape.vocab, (rows, length)), torch.arange(length).expand(rows, length)


def write(model: Decoder, folder: Path) -> None:
    folder.mkdir()
    config = model.shape.to_hf_config() | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    files = checkpoint.write_weights(folder, model.named_parameters(), torch.float32, lambda i: f"part-{i}")
    checkpoint.write_index(folder, files)


def test_transformers_reads_our_folder_and_agrees(shape: ModelShape, tmp_path: Path) -> None:
    model = random_model(shape)
    tokens, positions = tokens_of(shape)
    write(model, tmp_path / "model")
    theirs, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(tokens, positions)), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", SCALINGS)
def test_stretched_rotary_positions_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    config = replace(SHAPES["llama"], rope_theta=1e3).to_hf_config()
    config["rope_parameters"] = {"rope_theta": 1e3, "rope_type": kind, **SCALINGS[kind]}
    shape = ModelShape.from_hf_config(config)
    model = random_model(shape)
    write(model, tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert theirs.config.rope_parameters["rope_type"] == kind
    tokens, positions = tokens_of(shape, length=64)
    with torch.no_grad():
        ours = model.logits(model(tokens, positions))
        torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-4, rtol=1e-4)
        plain = random_model(replace(shape, rope_scaling=()))
        assert (plain.logits(plain(tokens, positions)) - ours).abs().max() > 1e-2


def test_we_read_the_folder_of_transformers_and_agree(shape: ModelShape, tmp_path: Path) -> None:
    torch.manual_seed(5)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_hf_config()))
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert (tmp_path / "theirs" / checkpoint.INDEX).is_file()
    model = checkpoint.load(tmp_path / "theirs")
    tokens, positions = tokens_of(shape)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(tokens, positions)), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_weights_survive_a_round_trip_in_several_files(
    shape: ModelShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_FILE_LIMIT", 50_000)
    model = random_model(shape)
    write(model, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, atol=0, rtol=0)


@pytest.mark.parametrize("length", [24, 600])  # below and above the limit of explicit attention
def test_documents_of_a_row_do_not_see_each_other(shape: ModelShape, length: int) -> None:
    model = random_model(shape)
    tokens, _ = tokens_of(shape, rows=1, length=length)
    cut = length // 3
    positions = torch.cat((torch.arange(cut), torch.arange(length - cut)))[None]
    documents = torch.tensor([0] * cut + [1] * (length - cut))[None]
    with torch.no_grad():
        together = model(tokens, positions, documents)
        apart = [model(part, torch.arange(part.shape[1])[None]) for part in (tokens[:, :cut], tokens[:, cut:])]
    torch.testing.assert_close(together, torch.cat(apart, dim=1), atol=1e-5, rtol=1e-4)


def test_attention_in_blocks_has_the_gradients_of_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(SHAPES["qwen3"])
    tokens, positions = tokens_of(model.shape, length=40)
    documents = torch.bucketize(positions, torch.tensor([7, 30]), right=True)
    model(tokens, positions, documents, tokens).backward()
    by_mask = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr("wingspan.model.attention._EXPLICIT", 0)
    monkeypatch.setattr("wingspan.model.attention._BLOCK", 9)
    model(tokens, positions, documents, tokens).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, by_mask[name], atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_cross_entropy_and_so_are_its_gradients(
    shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingspan.model.loss._LOGITS_PER_CHUNK", 131 * 7)
    model = random_model(shape)
    tokens, positions = tokens_of(shape)
    targets = tokens.roll(-1, 1)
    targets[:, -5:] = -100
    loss = model(tokens, positions, None, targets)
    loss.backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    plain = F.cross_entropy(
        model.logits(model(tokens, positions)).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    plain.backward()
    torch.testing.assert_close(loss, plain)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_z_loss_pulls_at_the_logits_and_leaves_the_loss_as_it_is() -> None:
    hidden, weight = torch.randn(6, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.tensor([1, -100, 10, 0, -100, 3])
    loss = linear_cross_entropy(hidden, weight, targets, z_loss=0.1)
    found = torch.autograd.grad(loss, (hidden, weight))
    logits = (hidden @ weight.T)[targets != -100]
    plain = F.cross_entropy(logits, targets[targets != -100], reduction="sum")
    wanted = torch.autograd.grad(plain + 0.1 * (logits.logsumexp(-1) ** 2).sum(), (hidden, weight))
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, wanted)


def test_ignored_targets_have_no_gradient_when_they_are_kept() -> None:
    hidden, weight = torch.randn(6, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.tensor([1, -100, 10, 0, -100, 3])
    linear_cross_entropy(hidden, weight, targets).backward()
    assert not hidden.grad[targets == -100].any()
    assert hidden.grad[targets != -100].any(dim=1).all()


def test_decoding_with_a_cache_and_left_padding_equals_the_whole_text(shape: ModelShape) -> None:
    model = random_model(shape)
    tokens, positions = tokens_of(shape, rows=2, length=12)
    lengths = [12, 9]
    with torch.no_grad():
        whole = [model(tokens[row : row + 1, :length], positions[:1, :length]) for row, length in enumerate(lengths)]
        cache = KeyValueCache(shape, rows=2, slots=12, dtype=torch.float32)
        prompt = torch.zeros(2, 8, dtype=torch.int64)
        prompt[0], prompt[1, 3:] = tokens[0, :8], tokens[1, :5]
        where = torch.stack((torch.arange(8), (torch.arange(8) - 3).clamp(0)))
        documents = torch.zeros(2, 8, dtype=torch.int64)
        documents[1, :3] = -1
        hidden = [model(prompt, where, documents, cache=cache)[:, -1]]
        for step in range(4):
            following = torch.stack((tokens[0, 8 + step], tokens[1, 5 + step]))[:, None]
            hidden.append(model(following, torch.tensor([[8 + step], [5 + step]]), cache=cache)[:, -1])
    decoded = torch.stack(hidden, dim=1)
    torch.testing.assert_close(decoded[0], whole[0][0, 7:12], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decoded[1], whole[1][0, 4:9], atol=1e-5, rtol=1e-4)


def test_bf16_activations_leave_the_weights_in_float32(shape: ModelShape) -> None:
    model = random_model(shape)
    model.compute = torch.bfloat16
    tokens, positions = tokens_of(shape)
    exact = random_model(shape)(tokens, positions, None, tokens)
    loss = model(tokens, positions, None, tokens)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss.item() / exact.item() - 1) < 0.01
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
