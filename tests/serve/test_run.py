"""`serve` from a run folder alone, in a process of its own: both engines, start, stop, what it keeps."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from wingspan.errors import DamagedArtefact, InputError
from wingspan.post import POST_SCHEMA
from wingspan.progress import SilentProgress
from wingspan.serve.load import load_assistant
from wingspan.serve.run import serve
from wingspan.workspace import Run, StageContext, StageSpec, open_run, run_stage

PROJECT = """
[project]
name = "tiny"
[model]
depth = 2
[assistant]
name = "Wren"
[serve]
port = 0
max_tokens = 8
weights = "f16"
"""
START = """
import sys
from pathlib import Path
from wingspan.serve.run import serve
from wingspan.workspace import find_run
def say(*words):
    print(*words, flush=True)
serve(find_run(Path(sys.argv[1]), sys.argv[2:]), on_ready=lambda url: say("ready", url), say=say, protect=str)
say("ended")
"""


@pytest.fixture
def run(tmp_path: Path, byte_tokenizer) -> Run:
    """A run whose prepare and align are done: six posts, and a random Qwen3 as the assistant."""
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    run = open_run(tmp_path, runs=tmp_path / "runs")
    _publish(run, "prepare", _write_posts)
    _publish(run, "align", lambda context: _write_model(context, byte_tokenizer))
    return run


def _publish(run: Run, stage: str, work) -> None:
    run_stage(run, StageSpec(stage, "", (), (), ""), work, SilentProgress())


def _write_posts(context: StageContext) -> dict:
    (context.output / "posts").mkdir()
    for split, texts in {
        "train": ["The harbour market closed.", "Rain again."],
        "held_out": ["The storm is over."],
    }.items():
        rows = [
            {"post_id": f"{split}-{row}", "text": text, "visibility": "public", "source": "t"}
            for row, text in enumerate(texts)
        ]
        pq.write_table(pa.Table.from_pylist(rows, POST_SCHEMA), context.output / f"posts/{split}-00000.parquet")
    return {}


def _write_model(context: StageContext, tokenizer) -> dict:
    torch.manual_seed(3)
    config = Qwen3Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
    )
    Qwen3ForCausalLM(config).save_pretrained(context.output / "assistant")
    tokenizer.save(str(context.output / "assistant/tokenizer.json"))
    return {}


@contextmanager
def serving(run: Run, *overrides: str) -> Iterator[tuple[str, list[str], subprocess.Popen]]:
    """A server process: its URL, the lines it said before it was ready, and the process."""
    command = [sys.executable, "-c", START, str(run.folder), *overrides]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    for line in process.stdout:
        if line.startswith("ready "):
            break
        said.append(line.strip())
    else:
        raise AssertionError("\n".join(said))
    try:
        yield line.split()[1], said, process
    finally:
        process.kill()
        process.wait()


def complete(url: str) -> dict:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What about the harbour market?"}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_it_serves_from_the_run_folder_and_ends_when_told(run: Run, engine: str):
    if engine == "openvino":
        pytest.importorskip("openvino_genai")
    with serving(run, f"serve.engine={engine}") as (url, said, process):
        assert ("Exporting the assistant to GGUF (f16), once" in said) == (engine == "openvino")
        assert "Indexing the posts, once" in said
        assert httpx.get(f"{url}/readyz").status_code == 200
        about = httpx.get(f"{url}/v1/assistant").json()
        assert (about["name"], about["posts"]) == ("Wren", 3)
        first = complete(url)
        assert first["usage"]["completion_tokens"] == 8
        assert first["posts"][0]["post_id"] == "train-0"
        assert first["choices"][0] == complete(url)["choices"][0]  # the likeliest words, so the same again
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stdout.read().strip() == "ended"
    kept = {path: path.stat().st_mtime_ns for path in (run.folder / "serve").iterdir()}
    with serving(run, f"serve.engine={engine}") as (_, said, process):
        assert said == []  # nothing had to be made again
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert {path: path.stat().st_mtime_ns for path in (run.folder / "serve").iterdir()} == kept


def test_a_new_index_replaces_the_old_and_a_damaged_one_is_made_again(run: Run):
    lines: list[str] = []
    torch_run = Run(run.folder, _with_torch(run), run.base)
    load_assistant(torch_run, lines.append).index.close()
    (file,) = (run.folder / "serve").glob("posts-*.sqlite")
    file.write_bytes(b"not a database at all" * 300)
    index = load_assistant(torch_run, lines.append).index
    assert len(index) == 3
    assert any("making it anew" in line for line in lines)
    (file.parent / "posts-0123456789abcdef.sqlite").touch()
    file.unlink()
    load_assistant(torch_run, lines.append)
    assert list((run.folder / "serve").glob("posts-*.sqlite")) == [file]


def _with_torch(run: Run):
    return run.project.model_copy(update={"serve": run.project.serve.model_copy(update={"engine": "torch"})})


def test_without_an_assistant_it_says_what_to_do(tmp_path: Path):
    (tmp_path / "wingspan.toml").write_text(PROJECT)
    with pytest.raises(InputError, match="no assistant here yet") as error:
        serve(open_run(tmp_path, runs=tmp_path / "runs"), on_ready=print, protect=str)
    assert f"wingspan run {tmp_path}" in error.value.remedy


def test_damaged_weights_are_named(run: Run):
    weights = run.folder / "align/assistant/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedArtefact, match=r"model\.safetensors"):
        load_assistant(Run(run.folder, _with_torch(run), run.base), print)


def test_a_taken_port_is_refused_before_anything_is_loaded(run: Run):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = run.project.serve.model_copy(update={"port": taken.getsockname()[1]})
        busy = Run(run.folder, run.project.model_copy(update={"serve": settings}), run.base)
        with pytest.raises(InputError, match="cannot listen there"):
            serve(busy, on_ready=print, protect=str)
    assert not (run.folder / "serve").exists()
