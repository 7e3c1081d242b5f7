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
from wingspan.plan.chips import Chip
from wingspan.plan.kernels import fast_domain
from wingspan.plan.network import Network
from wingspan.project import Traffic

SERVING_ERROR = 0.5  # half-width of the 90% band, from the published measurements in tests/plan/test_serving.py
_PREFILL, _DECODE = 0.50, 0.65  # of peak FLOP/s while reading, of memory bandwidth while writing (docs/plan.md)
_MEMORY = 0.90  # of a device's that weights, keys and values may fill (vLLM's default)
_STEP_S = 3e-3  # scheduling, sampling and launches of one token of the whole batch
_REDUCE_S = 10e-6  # one small all-reduce within a node; two per layer
_PEAK_HOUR = 2.5  # load of the busiest hour over the mean
_SPARE = 1  # replicas beyond those needed
_LARGEST_BATCH = 1024
_MONTH_H = 730.5


@dataclass(frozen=True)
class Replica:
    """One copy of the model: tokens are those of answers; seconds, bytes."""

    devices: int
    weights_bytes: float
    cache_bytes_per_token: float
    batch: int
    first_token_s: float
    tokens_per_s_per_user: float
    tokens_per_s: float
    answers_per_s: float


def replica(network: Network, chip: Chip, devices: int, traffic: Traffic, weight_bytes: float) -> Replica | None:
    """The best batch of one replica over `devices`; None where the model does not fit or readers would wait.

    One answer costs its prompt's computation and its share of every step of the batch; both come from the same
    device-seconds, so a step seems longer by the prompts that are read between (continuous batching).
    """
    assert chip.bf16_tflops is not None
    assert chip.memory_gb_s is not None
    weights = network.parameters * weight_bytes
    per_token = 2.0 * 2.0 * network.layers * network.kv_heads * network.head_dim
    length = traffic.prompt_tokens + traffic.answer_tokens / 2
    room = devices * chip.memory_bytes * _MEMORY - weights
    largest = min(_LARGEST_BATCH, math.floor(room / (per_token * (traffic.prompt_tokens + traffic.answer_tokens))))
    if largest < 1:
        return None
    batch = np.arange(1, largest + 1, dtype=float)
    rate = devices * chip.bf16_tflops * 1e12 * _PREFILL
    bandwidth = devices * chip.memory_gb_s * 1e9 * _DECODE
    reduce_s = 2 * network.layers * _REDUCE_S * math.log2(devices) if devices > 1 else 0.0
    prompt_s = 2 * network.matmul_parameters * traffic.prompt_tokens / rate + reduce_s
    read = _weights_read(network, batch) * weight_bytes + batch * length * per_token
    compute_s = 2 * network.matmul_parameters * batch / rate
    step_s = np.maximum(read / bandwidth, compute_s) + _STEP_S + reduce_s
    answer_s = prompt_s + traffic.answer_tokens * step_s / batch
    seen_s = step_s + batch * prompt_s / traffic.answer_tokens
    in_time = np.flatnonzero(seen_s <= 1 / traffic.tokens_per_s)
    if not len(in_time):
        return None
    best = in_time[-1]
    return Replica(
        devices=devices,
        weights_bytes=weights,
        cache_bytes_per_token=per_token,
        batch=int(batch[best]),
        first_token_s=float(prompt_s + step_s[best]),
        tokens_per_s_per_user=float(1 / seen_s[best]),
        tokens_per_s=float(traffic.answer_tokens / answer_s[best]),
        answers_per_s=float(1 / answer_s[best]),
    )


def _weights_read(network: Network, batch: Any) -> Any:
    """Parameters that a step of the batch reads: all of a dense model, of experts those that any token chose."""
    if not network.experts:
        return network.parameters
    touched = 1 - (1 - network.experts_per_token / network.experts) ** batch
    return network.parameters - network.expert_parameters * (1 - touched)


def serving(
    network: Network, chip: Chip, traffic: Traffic, devices_per_node: int, weight_bytes: float
) -> dict[str, Any]:
    """Replicas, devices and money for the daily users, as JSON; with `unknown` or `unfit` where there is no answer."""
    if chip.missing:
        return {"device": chip.name, "unknown": f"the catalogue does not know {', '.join(chip.missing)}"}
    domain = fast_domain(chip, devices_per_node)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= domain]
    found = [one for size in sizes if (one := replica(network, chip, size, traffic, weight_bytes))]
    if not found:
        return {
            "device": chip.name,
            "unfit": f"no replica within {domain} devices fits the model and writes "
            f"{traffic.tokens_per_s:g} tokens/s to every reader",
        }
    best = max(found, key=lambda one: one.answers_per_s / one.devices)
    mean = traffic.daily_users * traffic.questions_per_user / 86400
    replicas = math.ceil(_PEAK_HOUR * mean / best.answers_per_s) + _SPARE
    figures = {
        "first_token_s": predicted(best.first_token_s, "s", error=SERVING_ERROR),
        "tokens_per_s_per_user": predicted(best.tokens_per_s_per_user, "tokens/s", error=SERVING_ERROR),
        "tokens_per_s": predicted(best.tokens_per_s, "tokens/s", error=SERVING_ERROR, source="per replica"),
        "users_per_replica": predicted(
            best.answers_per_s * 86400 / (_PEAK_HOUR * traffic.questions_per_user), "daily users", error=SERVING_ERROR
        ),
        "replicas": predicted(replicas, "", error=SERVING_ERROR, source="the busiest hour, and one spare"),
        "devices": predicted(replicas * best.devices, "", error=SERVING_ERROR),
    }
    if chip.usd_per_hour is not None:
        month = replicas * best.devices * chip.usd_per_hour * _MONTH_H
        answers = mean * 3600 * _MONTH_H
        figures |= {
            "cost_per_month": predicted(month, "USD", error=SERVING_ERROR, source=chip.price_source),
            "cost_per_1000_answers": predicted(1000 * month / answers, "USD", error=SERVING_ERROR),
        }
    return {
        "device": chip.name,
        "devices_per_replica": best.devices,
        "batch": best.batch,
        "weights_bytes": best.weights_bytes,
        "cache_bytes_per_token": best.cache_bytes_per_token,
        "traffic": traffic.model_dump(mode="json"),
        **{name: figure.as_json() for name, figure in figures.items()},
    }
