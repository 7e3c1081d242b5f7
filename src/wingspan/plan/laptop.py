"""What the stages of a project will take on this very machine: wall time and peak memory, with bands.

Training is priced by the planner's own step model with this machine's measured rates; the other stages
are counted in tokens, files and fixed starts. Constants are costs of this software per unit of work,
in one place, and hold for any project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wingspan import assets
from wingspan.figures import predicted
from wingspan.model.shape import ModelShape
from wingspan.plan.devices.chips import this_machine
from wingspan.plan.devices.machine import Measurement
from wingspan.plan.layouts.choice import Problem
from wingspan.plan.step import memory as memory_of
from wingspan.plan.step import steptime
from wingspan.plan.step.grid import Grid, Workload
from wingspan.plan.step.network import network_of
from wingspan.project import Layout, Optimizer, Project
from wingspan.units import GIB

_START_S, _EVALUATE_START_S = 1.5, 3.0  # make the model, open the data; import the evaluation harness
_PREPARE_START_S = 2.5  # import Polars and the tokenizer
_CONVERTED_PARAMETERS_PER_S = 1.4e7  # an open model becomes a Hugging Face folder once, matrix by matrix
_PREPARE_S_PER_DOCUMENT = 3.5e-4  # read, clean, detect the language, deduplicate, tokenise
_STEP_OVERHEAD_S = 0.03  # loader, clipping, metrics, ledger
_DISK_BYTES_PER_S = 5.5e8  # of a checkpoint, written with fsync and hashed
_POST_TOKENS = 22.0  # of one microblog post
_DIALOGUE_TOKENS, _GROUNDED_TOKENS, _LABEL_TOKENS = 40.0, 180.0, 50.0  # of one conversation of each kind
_DIALOGUES_KEPT = 0.7  # of a source's limit, once duplicates are gone
_PACKING = 0.98  # of a packed row that is tokens
_SUPERVISED = 0.2  # share of a conversation's tokens that the assistant says; only they meet the head
_FORWARD_SHARE = 0.2  # of a training step's time per token: scoring keeps nothing for a backward pass
_QUESTION_TOKENS = 400.0  # system prompt, posts and question
_ANSWER_TOKENS = 60.0  # that an answer takes before it ends
_DECODE_BANDWIDTH, _TOGETHER = 0.5, 5.0  # of memory bandwidth that decoding reaches, for answers written together
_ANSWERS_TOGETHER, _SCORED_TOGETHER = 32, 512  # answers whose keys and values are held, tokens whose logits are
_CHOICE_TOKENS = 16.0  # of a dialogue's prompt, and of each reply scored after it
_SENTIMENT_TOKENS = 60.0  # prompt with one post and the labels after it
_EVALUATE_GIB = 0.85  # resident size of torch, transformers, the evaluation harness and what they load
_PREPARE_GIB = 0.5  # Polars, the tokenizer and the detector of languages
_TIME_ERROR = {"prepare": 0.6, "train": 0.35, "align": 0.4, "evaluate": 0.6}
_MEMORY_ERROR = {"prepare": 0.4, "train": 0.3, "align": 0.3, "evaluate": 0.35}


@dataclass(frozen=True)
class _Machine:
    """This machine with one model on it."""

    project: Project
    shape: ModelShape
    layout: Layout
    measurement: Measurement

    def problem(self, sequence: int, global_batch: int, optimizer: Optimizer) -> Problem:
        workload = Workload(sequence, global_batch, 8 if optimizer.name == "adamw" else 4)
        return Problem(network_of(self.shape), workload, this_machine(self.measurement), 1, 1)

    def step_s(self, sequence: int, global_batch: int, optimizer: Optimizer) -> float:
        """Seconds of one optimizer step when this machine works alone."""
        problem = self.problem(sequence, global_batch, optimizer)
        return float(steptime.total(problem.step_time(self.grid(global_batch)))[0]) + _STEP_OVERHEAD_S

    def memory_bytes(self, sequence: int, global_batch: int, optimizer: Optimizer) -> float:
        problem = self.problem(sequence, global_batch, optimizer)
        return float(memory_of.total(problem.memory(self.grid(global_batch)))[0])

    def grid(self, global_batch: int) -> Grid:
        """The layout on one device: the whole batch in its micro-batches."""
        micro_batch = min(self.layout.micro_batch, global_batch)
        while global_batch % micro_batch:
            micro_batch -= 1
        return Grid.of(Layout(micro_batch=micro_batch, recompute=self.layout.recompute))

    @property
    def forward_s_per_token(self) -> float:
        train = self.project.train
        return (
            _FORWARD_SHARE
            * self.step_s(train.sequence, train.global_batch, train.optimizer)
            / (train.sequence * train.global_batch)
        )

    @property
    def weights_bytes(self) -> float:
        """Of the model in bf16."""
        return 2.0 * self.shape.parameters


def predict_stages(
    project: Project, shape: ModelShape, layout: Layout, measurement: Measurement, documents: int | None
) -> dict[str, Any]:
    """{stage: {wall_s, peak_memory_bytes}} as Figures in JSON; `documents` are the posts to prepare, where known."""
    machine = _Machine(project, shape, layout, measurement)
    costs = {
        "prepare": _prepare(project, shape, documents),
        "train": _train(machine),
        "align": _align(machine),
        "evaluate": _evaluate(machine),
    }
    return {
        stage: {
            "wall_s": predicted(seconds, "s", error=_time_error(stage, documents), source="plan.laptop").as_json(),
            "peak_memory_bytes": predicted(bytes_, "B", error=_MEMORY_ERROR[stage], source="plan.laptop").as_json(),
        }
        for stage, (seconds, bytes_) in costs.items()
    }


def _time_error(stage: str, documents: int | None) -> float:
    """Half-width of the 90% band; nearly all where it is unknown how many posts there are."""
    return 0.95 if stage == "prepare" and documents is None else _TIME_ERROR[stage]


def _prepare(project: Project, shape: ModelShape, documents: int | None) -> tuple[float, float]:
    """Documents, and where the model to start from is an open one that was never used here, its conversion."""
    made = project.prepare.grounded_dialogues + project.prepare.label_dialogues
    seconds = _PREPARE_START_S + _PREPARE_S_PER_DOCUMENT * ((documents or 0) + made)
    name = assets.asset_name(project.model.start)
    if name is None or assets.converted_folder(name).is_dir():
        return seconds, _PREPARE_GIB * GIB
    return seconds + shape.parameters / _CONVERTED_PARAMETERS_PER_S, _PREPARE_GIB * GIB + 4.0 * shape.parameters


def _train(machine: _Machine) -> tuple[float, float]:
    """Steps, checkpoints of weights and optimizer, and the held-out posts scored before and after."""
    train = machine.project.train
    steps = -(-training_tokens(machine.project, machine.shape) // (train.sequence * train.global_batch))
    saves = -(-steps // train.checkpoint_every) * 12.0 * machine.shape.parameters / _DISK_BYTES_PER_S
    scored = 2 * machine.project.evaluate.bits_per_byte_posts * _POST_TOKENS * machine.forward_s_per_token
    step = machine.step_s(train.sequence, train.global_batch, train.optimizer)
    memory = machine.memory_bytes(train.sequence, train.global_batch, train.optimizer)
    return _START_S + steps * step + saves + scored, memory


def _align(machine: _Machine) -> tuple[float, float]:
    align = machine.project.align
    rows = conversation_tokens(machine.project) * align.epochs / (_PACKING * align.sequence)
    steps = max(1, round(rows / align.global_batch))
    saves = -(-steps // align.checkpoint_every) * 12.0 * machine.shape.parameters / _DISK_BYTES_PER_S
    head = (1 - _SUPERVISED) * machine.shape.vocab * machine.shape.hidden / machine.shape.matmul_parameters
    step = (1 - head) * machine.step_s(align.sequence, align.global_batch, align.optimizer)
    return _START_S + steps * step + saves, machine.memory_bytes(align.sequence, align.global_batch, align.optimizer)


def _evaluate(machine: _Machine) -> tuple[float, float]:
    """Both models: posts scored, replies chosen, sentiments asked, questions answered token by token."""
    evaluate = machine.project.evaluate
    scored = (
        evaluate.bits_per_byte_posts * _POST_TOKENS
        + evaluate.reply_choices * (2 + evaluate.distractors) * _CHOICE_TOKENS
        + evaluate.sentiment_posts * _SENTIMENT_TOKENS
        + evaluate.citation_questions * _QUESTION_TOKENS
    )
    token_s = machine.weights_bytes / (_DECODE_BANDWIDTH * _TOGETHER * machine.measurement.memory_bytes_per_s)
    written = evaluate.citation_questions * _ANSWER_TOKENS * token_s
    seconds = _START_S + 2 * (scored * machine.forward_s_per_token + written)
    return seconds, _EVALUATE_GIB * GIB + 2 * machine.weights_bytes + _asking_bytes(
        machine.shape, evaluate.answer_tokens
    )


def _asking_bytes(shape: ModelShape, answer_tokens: int) -> float:
    """Logits of a scoring pass in fp32, three times over; keys, values and one block's values of a round of answers."""
    logits = 3 * 4.0 * _SCORED_TOGETHER * shape.vocab
    cached = 2 * shape.layers * shape.kv_heads * shape.head_dim * (_QUESTION_TOKENS + answer_tokens)
    block = 4 * (shape.hidden + max(shape.ffn, shape.expert_ffn)) * _QUESTION_TOKENS
    return logits + 2.0 * _ANSWERS_TOGETHER * (cached + block)


def training_tokens(project: Project, shape: ModelShape) -> int:
    """The token budget: the project's, or 20 per active parameter (Hoffmann et al. 2022)."""
    return project.train.tokens or 20 * shape.active_parameters


def conversation_tokens(project: Project) -> float:
    """Tokens of the training conversations: from sources as far as their limits say, and made from posts."""
    prepare = project.prepare
    limits = sum((source.limit or 0) * max(1, len(source.languages)) for source in prepare.dialogues)
    sourced = _DIALOGUES_KEPT * limits * (1 - prepare.held_out)
    return (
        sourced * _DIALOGUE_TOKENS
        + prepare.grounded_dialogues * _GROUNDED_TOKENS
        + prepare.label_dialogues * _LABEL_TOKENS
    )
