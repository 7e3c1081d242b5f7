"""What answering takes: tokens a second, people per replica, replicas and money for the platform's users.

A roofline (Pope et al. 2022): reading a prompt is bound by computation, writing an answer by reading weights and
keys and values from memory. The batch is as large as memory and the pace that readers expect allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wingspan.figures import predicted
from wingspan.plan.devices.chips import Chip
from wingspan.plan.step.grid import Array
from wingspan.plan.step.network import Network
from wingspan.plan.step.sizes import fast_domain
from wingspan.project import Traffic

# Fitted to 36 measurements of TensorRT-LLM on H100 (Llama 3 8B, 70B, 405B, Qwen3 235B in fp8; mean error 12%) and held
# against 40 on H200 (15%, nine in ten within 33%): github.com/NVIDIA/TensorRT-LLM performance overview, 1.0.
SERVING_ERROR = 0.35
_PREFILL, _DECODE = 0.54, 0.75  # of peak FLOP/s while reading, of memory bandwidth while writing
_EXPERTS = 0.6  # of a dense model's rate: small matrices, uneven loads, exchange of tokens
_STEP_S = 3e-3  # scheduling, sampling and launches of one token of the whole batch
_REDUCE_S, _LINK = 10e-6, 0.45  # an all-reduce in a node: seconds per doubling of it, share of the links' rate
_MEMORY = 0.90  # of a device's that weights, keys and values may fill (vLLM's default)
_LARGEST_BATCH = 1024

_PEAK_HOUR = 2.5  # load of the busiest hour over the mean
_SPARE = 1  # replicas beyond those needed
_MONTH_H = 730.5


@dataclass(frozen=True)
class Replica:
    """One copy of the model at its best batch: tokens are those of answers; seconds, bytes."""

    devices: int
    batch: int
    weights_bytes: float
    cache_bytes_per_token: float
    first_token_s: float
    tokens_per_s_per_user: float
    tokens_per_s: float


def replica(network: Network, chip: Chip, devices: int, traffic: Traffic, weight_bytes: float) -> Replica | None:
    """One replica over `devices`; None where the model does not fit or readers would wait.

    An answer costs its prompt's computation and its share of every step of the batch; both come from the same
    device-seconds, so a step seems longer by the prompts that are read between (continuous batching).
    """
    assert chip.bf16_tflops is not None
    assert chip.memory_gb_s is not None
    prompt, answer = traffic.prompt_tokens, traffic.answer_tokens
    weights = network.parameters * weight_bytes
    per_token = weight_bytes * 2 * network.layers * network.kv_heads * network.head_dim
    room = devices * chip.memory_bytes * _MEMORY - weights
    batch = np.arange(1.0, min(_LARGEST_BATCH, math.floor(room / (per_token * (prompt + answer)))) + 1)

    peak = chip.fp8_tflops if weight_bytes <= 1 and chip.fp8_tflops else chip.bf16_tflops
    rate = devices * peak * 1e12 * _PREFILL * (_EXPERTS if network.experts else 1.0)
    bandwidth = devices * chip.memory_gb_s * 1e9 * _DECODE
    links = (chip.domain_gb_s or math.inf) * 1e9 * _LINK
    reduce_s = 2 * network.layers * _REDUCE_S * math.log2(devices)
    reduce_s_per_token = 8 * network.layers * network.hidden * (1 - 1 / devices) / links
    attention = 2 * network.layers * prompt * network.heads * network.head_dim
    prompt_s = (2 * network.matmul_parameters + attention) * prompt / rate + reduce_s + reduce_s_per_token * prompt
    read_s = (_weights_read(network, batch) * weight_bytes + batch * per_token * (prompt + answer / 2)) / bandwidth
    compute_s = 2 * network.matmul_parameters * batch / rate
    step_s = np.maximum(read_s, compute_s) + _STEP_S + reduce_s + reduce_s_per_token * batch

    seen_s = step_s + batch * prompt_s / answer
    in_time = np.flatnonzero(seen_s <= 1 / traffic.tokens_per_s)
    if not len(in_time):
        return None
    best = int(in_time[-1])
    tokens_per_s = answer / (prompt_s + answer * step_s[best] / batch[best])
    return Replica(
        devices, best + 1, weights, per_token, float(prompt_s + step_s[best]), float(1 / seen_s[best]), tokens_per_s
    )


def _weights_read(network: Network, batch: Array) -> Array:
    """Parameters that a step of the batch reads: all, but of experts only those that any token chose."""
    if not network.experts:
        return np.full(len(batch), network.parameters)
    idle: Array = (1 - network.experts_per_token / network.experts) ** batch
    return network.parameters - network.expert_parameters * idle


def serving(
    network: Network, chip: Chip, traffic: Traffic, devices_per_node: int, weight_bytes: float
) -> dict[str, Any]:
    """Replicas, devices and money for the daily users, as JSON; with `unknown` or `unfit` where there is no answer."""
    if chip.missing:
        return {"device": chip.name, "unknown": f"the catalogue does not know {', '.join(chip.missing)}"}
    domain = 1 if chip.kind == "cpu" else fast_domain(chip, devices_per_node)
    sizes = [1 << power for power in range(7) if 1 << power <= domain]
    found = [one for size in sizes if (one := replica(network, chip, size, traffic, weight_bytes))]
    if not found:
        wanted = f"fits the model and writes {traffic.tokens_per_s:g} tokens/s to every reader"
        return {"device": chip.name, "unfit": f"no replica within {domain} devices {wanted}"}
    best = max(found, key=lambda one: one.tokens_per_s / one.devices)
    answers_per_s = traffic.daily_users * traffic.questions_per_user / 86400
    busiest = _PEAK_HOUR * answers_per_s * traffic.answer_tokens / best.tokens_per_s
    replicas = math.ceil(busiest) + _SPARE
    devices = replicas * best.devices
    figures = {
        "first_token_s": (best.first_token_s, "s", "at full load"),
        "tokens_per_s_per_user": (best.tokens_per_s_per_user, "tokens/s", "at full load"),
        "tokens_per_s": (best.tokens_per_s, "tokens/s", "of a replica at full load"),
        "users_per_replica": (traffic.daily_users / busiest, "daily users", "in the busiest hour"),
        "replicas": (replicas, "", "the busiest hour, and one spare"),
        "devices": (devices, "", ""),
    }
    if chip.usd_per_hour is not None:
        month = devices * chip.usd_per_hour * _MONTH_H
        answers = answers_per_s * 3600 * _MONTH_H
        figures |= {
            "cost_per_month": (month, "USD", chip.price_source),
            "cost_per_1000_answers": (1000 * month / answers, "USD", ""),
        }
    return {
        "device": chip.name,
        "devices_per_replica": best.devices,
        "batch": best.batch,
        "weights_bytes": best.weights_bytes,
        "cache_bytes_per_token": best.cache_bytes_per_token,
        "traffic": traffic.model_dump(mode="json"),
    } | {
        name: predicted(value, unit, error=SERVING_ERROR, source=source).as_json()
        for name, (value, unit, source) in figures.items()
    }
