"""Measured runs from a CSV: one row is one training step that somebody timed.

What a row leaves out is inferred, and said to be: the fastest layout that is valid and fits, a full pipeline, a
batch of four million tokens. What a row says in words (framework, interconnect, notes) is read as far as it
names something that takes time.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from wingspan.errors import InputError
from wingspan.plan.devices.chips import Chip, chip_named, half_of
from wingspan.plan.layouts.problem import Problem, divisors
from wingspan.plan.step import memory as memory_of
from wingspan.plan.step import steptime
from wingspan.plan.step.accounting import accounting_of
from wingspan.plan.step.calibration import Constants, groups_of
from wingspan.plan.step.grid import Grid, Software, Workload
from wingspan.plan.step.network import Network
from wingspan.plan.step.sizes import Hardware, habits_of, hardware_of, sizes_of

Row = dict[str, str]

NEEDED = ("device", "n_devices", "seq_len")
_ALIASES = {
    "ampereaclass": "A100-80GB SXM",
    "ampere(a100-class)": "A100-80GB SXM",
    "a100-80gb": "A100-80GB SXM",
    "a100-40gb": "A100-40GB SXM",
    "v100-32gb": "V100-32GB SXM",
    "gb200": "GB200 NVL72",
    "gb300": "GB300 NVL72",
    "b200": "B200 SXM",
    "b300": "B300 SXM",
    "mi350x": "MI355X",
}
_FRAMEWORKS = (  # first match of the framework's name: style of parallelism, framework
    (r"maxtext", "xla", "MaxText"),
    (r"levanter", "xla", "Levanter"),
    (r"pytorch/xla", "xla", "PyTorch/XLA"),
    (r"pax", "xla", "Pax"),
    (r"neuron", "xla", "Neuron"),
    (r"llm-foundry|composer", "fsdp", "Composer"),
    (r"torchtitan", "fsdp", "torchtitan"),
    (r"lit-?gpt", "fsdp", "litgpt"),
    (r"olmo", "fsdp", "OLMo-core"),
    (r"flash-attn", "fsdp", "flash-attn"),
    (r"zero-3", "fsdp", "DeepSpeed"),
    (r"fsdp", "fsdp", "PyTorch FSDP"),
    (r"internevo", "megatron", "InternEvo"),
    (r"nanotron", "megatron", "nanotron"),
    (r"colossal", "megatron", "ColossalAI"),
    (r"megascale", "megatron", "MegaScale"),
    (r"megatron.?deepspeed", "megatron", "Megatron-DeepSpeed"),
    (r"primus|rocm", "megatron", "Primus"),
    (r"nemo|megatron|nvidia|mcore", "megatron", "Megatron"),
)
_INTERLEAVES = {"Megatron", "MegaScale", "Meta", "Primus"}  # frameworks with several model chunks per pipeline rank
_FLASH_SINCE = {"flash-attn": 2022, "Levanter": 2024, "Megatron-DeepSpeed": 2024}  # others: 2023
_SEQUENCE_PARALLEL_SINCE = {"Megatron": 2022, "Megatron-DeepSpeed": 2024}
_WIDE_GRADIENTS = {"Megatron", "nanotron"}  # reduced in fp32
_SCHEDULES = ((r"zbv", 2), (r"zbb|zero.?bubble", 1), (r"v-half", 3), (r"v-min", 4))
_RECOMPUTE = {"full": 2, "none": 0}  # other words are selective policies
_FORMATS = {"bf16": 0, "fp16": 0, "fp32": 1, "nvfp4": 3}  # all others run their matrices in 8 bits
_FP4_OR_8 = "or nvfp4"
_FABRICS = ("RoCE", "EFA", "Omni-Path", "TCPX", "Slingshot", "DCN", "InfiniBand", "IB", "Ethernet")
_BATCH_TOKENS = 4 * 2**20
_FILLING = 8  # micro-batches per pipeline stage where no batch is stated
_MICRO_BATCHES = (1, 2, 4, 8, 16)
_ASPECT = 128  # hidden width per layer where only the parameters are stated (GPT-3)
_PER_NODE = 8


@dataclass(frozen=True)
class Run:
    """One row: what ran, how long a step took (seconds) and how much memory it held (GiB), where they are stated."""

    id: str
    family: str
    device: str
    devices: int
    quality: str
    problem: Problem
    grid: Grid
    hardware: Hardware
    groups: dict[str, str]
    step_s: float | None
    memory_gib: float | None
    inferred: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A row without an answer, and why."""

    id: str
    reason: str


def columns_of(path: Path) -> list[str]:
    """The columns of a CSV; raises InputError where it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream).fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the measured runs cannot be read: {error}", where=path, remedy="Give a CSV file") from error


def read_runs(path: Path) -> tuple[list[Run], list[Refused]]:
    """The rows of a file of measured runs; raises InputError where it lacks the columns that all rows need."""
    missing = set(NEEDED) - set(columns_of(path))
    if missing:
        raise InputError(
            f"columns are missing: {', '.join(sorted(missing))}",
            where=path,
            remedy="Name the columns as docs/plan.md does",
        )
    runs: list[Run] = []
    refused: list[Refused] = []
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows, start=2):
        try:
            runs.append(_run({name: text.strip() for name, text in row.items() if name and text}, number))
        except (ValueError, InputError, OverflowError) as error:
            reason = error.problem if isinstance(error, InputError) else str(error)
            refused.append(Refused(row.get("id") or f"line {number}", reason))
    return runs, refused


def _run(row: Row, number: int) -> Run:
    notes = f"{row.get('interconnect_note', '')} {row.get('notes', '')}"
    if not row.get("device"):
        raise ValueError("device is missing")
    software = software_of(row)
    chip = chip_of(row["device"])
    devices = _whole(row, "n_devices")
    network = _network(row, notes)
    per_node = _per_node(chip, notes)
    known = {name: _whole(row, name, 0) for name in ("tp", "pp", "dp", "cp", "ep", "vpp", "global_batch_seqs")}
    ranks = max(known["tp"], 1) * max(known["pp"], 1) * max(known["cp"], 1) * max(known["dp"], 1)
    if chip.kind != "gpu" and ranks == 2 * devices:  # a chip of two cores, each a rank
        chip, devices, per_node = half_of(chip), ranks, 2 * per_node
    card = _card(row.get("interconnect_note", ""), per_node) if chip.kind == "gpu" else None
    hardware = hardware_of(chip, per_node, card)
    sharding = row.get("fsdp_zero", "")
    asked = _Asked(
        network,
        chip,
        hardware,
        software,
        devices,
        per_node,
        sequence=_whole(row, "seq_len"),
        micro_batch=_number(row, "micro_batch") * (2 if "per TensorCore" in notes else 1),
        zero=_zero(sharding, software),
        shard=_shard(sharding, notes),
        recompute=_recompute(row.get("recompute", "")),
        precision=_precision(row, chip),
        schedule=_schedule(row),
        **known,
    )
    workload, grid = _layout(asked)
    blank = ("tp", "pp", "dp", "vpp", "micro_batch", "global_batch_seqs", "recompute")
    inferred = tuple(name for name in blank if not row.get(name) and (name != "vpp" or grid.interleave[0] > 1))
    problem = Problem(network, workload, chip, devices, per_node, software)
    groups = groups_of(chip, software) | {"format": _format(row), "fabric": _fabric(notes)}
    return Run(
        id=row.get("id") or f"line {number}",
        family=row.get("source_family") or row.get("source") or "?",
        device=row["device"],
        devices=_whole(row, "n_devices"),
        quality=row.get("quality", ""),
        problem=problem,
        grid=grid,
        hardware=hardware,
        groups=groups,
        step_s=_truth(row, workload),
        memory_gib=_number(row, "memory_gib_reported") or None,
        inferred=inferred,
    )


def _truth(row: Row, workload: Workload) -> float | None:
    """Seconds of the measured step, from its tokens per second where the source gives those; None if neither."""
    if row.get("step_time_s"):
        return _positive(row, "step_time_s")
    if row.get("tokens_per_s_per_device"):
        return workload.tokens / (_positive(row, "tokens_per_s_per_device") * _whole(row, "n_devices"))
    return None


def software_of(row: Row) -> Software:
    """The software that a row names: its style of parallelism, framework, year and release."""
    name, year = row.get("framework", ""), _whole(row, "year", 2025)
    style, framework = _framework(name, row.get("fsdp_zero", ""))
    release = re.search(r"\b2\d\.\d\d\b", name) or re.search(r"(?<=release )2\d\.\d\d\b", row.get("notes", ""))
    books = accounting_of(name, year, row.get("precision", ""))
    if year < _SEQUENCE_PARALLEL_SINCE.get(framework, 0):
        books = replace(books, sequence_parallel=False)
    return Software(
        name or style,
        flash=year >= _FLASH_SINCE.get(framework, 2023),
        gradient_bytes=4.0 if framework in _WIDE_GRADIENTS else 2.0,
        accounting=books,
        generation=(style, framework, f"{framework} {year}", f"{framework} {release[0]}" if release else ""),
    )


def _framework(name: str, sharding: str) -> tuple[str, str]:
    for pattern, style, framework in _FRAMEWORKS:
        if re.search(pattern, name, re.I):
            return style, framework
    return "fsdp" if sharding[:1] == "3" or "SDP" in sharding else "megatron", name.split(" ")[0]


def _network(row: Row, notes: str) -> Network:
    if not row.get("layers") and row.get("params_b"):
        return _network_of_size(_positive(row, "params_b") * 1e9)
    heads, hidden = _whole(row, "heads"), _whole(row, "hidden")
    network = Network(
        layers=_whole(row, "layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(row, "kv_heads", heads),
        head_dim=_whole(row, "head_dim", max(1, hidden // heads)),
        ffn=_whole(row, "ffn_hidden", 4 * hidden),
        vocab=_whole(row, "vocab", 50_304),
        gated=row.get("gated_mlp") == "1",
        experts=_whole(row, "moe_experts", 0),
        experts_per_token=_whole(row, "moe_topk", 0),
        shared_experts=_whole(row, "moe_shared", 0),
        expert_ffn=_whole(row, "moe_ffn", 0),
        dense_layers=_whole(row, "dense_layers", 0),
    )
    return _latent(network) if re.search(r"\bMLA\b", notes) else network


def _latent(network: Network) -> Network:
    """The same with the latent attention of DeepSeek-V3 (arXiv 2412.19437)."""
    return replace(network, q_rank=1536, kv_rank=512, rope_dim=64, head_dim=192, value_head_dim=128)


def _network_of_size(parameters: float) -> Network:
    """A GPT of so many parameters: P = 12 L h^2 with h = 128 L, as GPT-3's."""
    layers = max(1, round((parameters / 12 / _ASPECT**2) ** (1 / 3)))
    hidden = _ASPECT * layers
    return Network(layers, hidden, layers, layers, _ASPECT, 4 * hidden, 50_304, gated=False)


def chip_of(name: str) -> Chip:
    """The chip that a row means; raises InputError where the catalogue lacks it or its rates."""
    if name == "MI250X-GCD":
        return half_of(chip_named("MI250X"))
    if power := re.search(r"^(\w+)-SXM-(\d+)GB-(\d+)W$", name):  # a variant: other memory, capped power
        known = chip_named(f"{power[1]} SXM")
        variant = replace(known, name=f"{power[1]} SXM {power[3]}W", memory_gb=float(power[2]), tdp_w=float(power[3]))
        return replace(variant, memory_gb_s=2400.0) if power[2] == "96" else variant
    chip = chip_named(_ALIASES.get(name.lower(), name))
    if chip.missing:
        raise InputError(f"{chip.name}: {', '.join(chip.missing)} unknown")
    return chip


def _per_node(chip: Chip, notes: str) -> int:
    if stated := re.search(r"\b(\d+)x[AVHB]\d00", notes):
        return int(stated[1])
    if chip.name.startswith("GB"):
        return 4
    return chip.domain_devices or _PER_NODE if chip.kind == "asic" else _PER_NODE


def _card(note: str, per_node: int) -> float | None:
    """Bytes/s of one device's network card, as `8x400Gb/s`, `800Gb/s per node` or `400Gb/s per GPU` say it."""
    note = note.split("Compute:")[-1]
    cards = [
        int(n) * int(rate) * (8 if unit == "GB" else 1)
        for n, rate, unit in re.findall(r"(\d+)\s*x[^,x]*?(\d+)\s*(Gb|GB)", note)
    ]
    node = re.search(r"(\d+)\s*Gb/s[^,;]*per node", note)
    device = re.search(r"(\d+)\s*Gb/s[^,;]*per GPU", note)
    gbits = max(cards) if cards else int(node[1]) if node else int(device[1]) * per_node if device else None
    return gbits / 8 / per_node * 1e9 if gbits else None


def _fabric(notes: str) -> str:
    return next((name for name in _FABRICS if re.search(rf"\b{name}", notes, re.I)), "?")


def _zero(words: str, software: Software) -> int:
    """The ZeRO stage that words like `3 (FSDP2)`, `HSDP` or nothing mean."""
    if words[:1].isdigit():
        return int(words[0])
    if "SDP" in words:
        return 3
    style, framework = software.generation[:2]
    return 3 if not words and style != "megatron" and framework not in ("Neuron", "flash-attn") else 1


def _shard(words: str, notes: str) -> int:
    """Ranks that share one copy of the states where the words say so (`FSDP 8 x dcn 4`, `within 8`), else 0."""
    if stated := re.search(r"FSDP[ =](\d+)(?: x dcn (\d+))?", words):
        return int(stated[1]) * int(stated[2] or 1)
    if stated := re.search(r"within (\d+)", words):
        return int(stated[1])
    slices = re.search(r"(\d+) slice", notes)
    return -int(slices[1]) if slices and "within slice" in words else 0


def _recompute(word: str) -> int | None:
    return _RECOMPUTE.get(word, 1) if word else None


def _precision(row: Row, chip: Chip) -> int:
    word = row.get("precision") or "bf16"
    if _FP4_OR_8 in word:
        return 3 if chip.fp4 else 2
    return _FORMATS.get(word, 2)


def _format(row: Row) -> str:
    return "fp8 rowwise" if "rowwise" in row.get("framework", "") else row.get("precision") or "bf16"


def _schedule(row: Row) -> int:
    return next((code for pattern, code in _SCHEDULES if re.search(pattern, row.get("framework", ""), re.I)), 0)


@dataclass(frozen=True)
class _Asked:
    """What a row states; zero or None is what it leaves out."""

    network: Network
    chip: Chip
    hardware: Hardware
    software: Software
    devices: int
    per_node: int
    sequence: int
    tp: int
    pp: int
    dp: int
    cp: int
    ep: int
    vpp: int
    micro_batch: float
    global_batch_seqs: int
    zero: int
    shard: int
    recompute: int | None
    precision: int
    schedule: int


@cache
def _layout(asked: _Asked) -> tuple[Workload, Grid]:
    """The layout as stated, and where something is not, the fastest valid one that fits, by the uncalibrated model."""
    cp = max(asked.cp, 1)
    free = not (asked.tp or asked.pp or asked.dp)
    style = asked.software.generation[0]
    domain = int(min(8, asked.hardware.domain))
    tps = [asked.tp or 1] if asked.tp or not free else [one for one in (1, 2, 4, 8) if one <= domain]
    layers = asked.network.layers
    stages = divisors(layers) if style == "megatron" else [1]
    pps = [asked.pp] if asked.pp else stages if free or not asked.dp else [1]
    pairs = [(tp, pp) for tp in tps for pp in pps if asked.devices % (tp * pp * cp) == 0 or not free] or [(1, 1)]
    best: tuple[float, Workload, Grid] | None = None
    for tp, pp in pairs:
        dp = asked.dp or max(1, asked.devices // (tp * pp * cp))
        workload, grid = _candidates(asked, tp, pp, dp)
        seconds = _seconds(asked, workload, grid) / workload.tokens
        index = int(np.argmin(seconds))
        if best is None or seconds[index] < best[0]:
            best = (float(seconds[index]), workload, grid.take(np.array([index])))
    assert best is not None
    return best[1:]


def _candidates(asked: _Asked, tp: int, pp: int, dp: int) -> tuple[Workload, Grid]:
    batch = asked.global_batch_seqs or _batch(asked, pp, dp)
    per_rank = batch / dp
    sizes = [asked.micro_batch] if asked.micro_batch else [one for one in _MICRO_BATCHES if per_rank % one == 0]
    interleaves = asked.software.generation[1] in _INTERLEAVES and "before interleaving" not in asked.software.name
    chunks = [asked.vpp] if asked.vpp else [1]
    if not asked.vpp and interleaves and pp > 1:
        chunks = divisors(-(-asked.network.layers // pp))
    shard = asked.shard if asked.shard >= 0 else max(1, dp // -asked.shard)
    shard = shard if shard and dp % shard == 0 else dp
    grid = Grid.product(
        {
            "replicate": [dp // shard],
            "shard": [shard],
            "tp": [tp],
            "cp": [max(asked.cp, 1)],
            "pp": [pp],
            "ep": [max(asked.ep, 1)],
            "micro_batch": [min(one, per_rank) for one in sizes or [1]],
            "interleave": chunks,
            "zero": [asked.zero],
            "recompute": [0, 1] if asked.recompute is None else [asked.recompute],
            "precision": [asked.precision],
            "schedule": [asked.schedule],
        }
    )
    workload = Workload(asked.sequence, batch)
    fills = (grid.interleave == 1) | (grid.micro_batches(workload) % grid.pp == 0)
    return workload, grid.take(fills) if fills.any() else grid


def _batch(asked: _Asked, pp: int, dp: int) -> int:
    if asked.micro_batch or pp > 1 or asked.pp or asked.dp:
        return max(1, round(dp * (asked.micro_batch or 1) * (_FILLING * pp if pp > 1 else 1)))
    return dp * max(1, round(_BATCH_TOKENS / asked.sequence / dp))


def _seconds(asked: _Asked, workload: Workload, grid: Grid) -> np.ndarray:
    """Seconds of a step; a layout that does not fit is slower than any that does, by what it lacks."""
    if len(grid) == 1:
        return np.zeros(1)
    problem = Problem(asked.network, workload, asked.chip, asked.devices, asked.per_node, asked.software)
    over = memory_of.total(problem.memory(grid)) / problem.capacity
    sizes, habits = sizes_of(asked.network, workload), habits_of(asked.software)
    seconds = steptime.total(steptime.step_items(sizes, grid, asked.hardware, habits, Constants()))
    return np.where(over > 1, 1e6 * over, seconds)


def _whole(row: Row, name: str, default: int | None = None) -> int:
    text = row.get(name) or ""
    if not text:
        if default is None:
            raise ValueError(f"{name} is missing")
        return default
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        raise ValueError(f"{name} = {text} is not a number") from None
    if number < 0 or (number == 0 and default is None):
        raise ValueError(f"{name} = {text} is not positive")
    return number


def _number(row: Row, name: str) -> float:
    """A positive number, or 0 where there is none."""
    return _positive(row, name) if row.get(name) else 0.0


def _positive(row: Row, name: str) -> float:
    try:
        number = float(row.get(name) or "nan")
    except ValueError:
        number = float("nan")
    if not number > 0 or not np.isfinite(number):
        raise ValueError(f"{name} is missing or not positive")
    return number
