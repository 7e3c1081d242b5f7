"""Rows of answers for the loop: each predicted from its question, judged together by an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wingspan.align.objectives import Answers, Objective
from wingspan.errors import InputError
from wingspan.model.loss import IGNORED
from wingspan.train.data.batches import Batch, Piece, pack
from wingspan.train.data.order import Indices
from wingspan.train.parallel.part import Part


@dataclass(frozen=True)
class Answer:
    """An answer behind its question as inputs and targets, and its label (see Answers)."""

    piece: Piece
    label: float

    def __len__(self) -> int:
        return len(self.piece[0])


def answer_of(question: Sequence[int], words: Sequence[int], label: float) -> Answer:
    """An answer from token ids: of the question and, to be predicted, of what is said after it."""
    inputs, ignored = [*question, *words[:-1]], [IGNORED] * (len(question) - 1)
    return Answer((np.array(inputs, dtype=np.int64), np.array([*ignored, *words], dtype=np.int64)), label)


@dataclass(frozen=True)
class AnswerBatch(Batch):
    """Rows whose documents are answers; `labels` and `references` are (rows, answers), `units` (rows,) counts."""

    labels: Tensor
    references: Tensor
    units: Tensor

    @property
    def weight(self) -> int:
        """Pairs, or answers where they stand alone."""
        return int(self.units.sum())


def answer_rows(
    rows: Sequence[Sequence[Sequence[Answer]]], references: Sequence[Sequence[float]], sequence: int, padding: int
) -> AnswerBatch:
    """Rows of units (a pair, or one answer) as a batch of `sequence` tokens a row; one reference per answer."""
    answers = [[answer for unit in row for answer in unit] for row in rows]
    size, most = (len(rows), sequence), max(map(len, answers))
    tokens, targets = np.full(size, padding), np.full(size, IGNORED)
    positions, documents = np.zeros(size, np.int64), np.full(size, -1)
    labels, known = (np.zeros((len(rows), most + most % 2), np.float32) for _ in range(2))
    for number, (row, found) in enumerate(zip(answers, references, strict=True)):
        ends = np.cumsum([0, *map(len, row)])
        for document, (answer, (begin, end)) in enumerate(zip(row, pairwise(ends), strict=True)):
            tokens[number, begin:end], targets[number, begin:end] = answer.piece
            positions[number, begin:end], documents[number, begin:end] = np.arange(end - begin), document
            labels[number, document] = answer.label
        known[number, : len(row)] = found
    units = np.array([len(row) for row in rows])
    return AnswerBatch(*map(torch.from_numpy, (tokens, targets, positions, documents, labels, known, units)))


class PackedAnswers:
    """Units of answers, several to a row of `sequence` tokens, those of a unit together; one row is one sample."""

    def __init__(self, units: Sequence[Sequence[Answer]], sequence: int, padding: int) -> None:
        self._sequence, self._padding = sequence, padding
        row_of = pack(np.array([sum(map(len, unit)) for unit in units], dtype=np.int64), sequence)
        self.rows: list[list[Sequence[Answer]]] = [[] for _ in range(int(row_of.max(initial=-1)) + 1)]
        for row, unit in zip(row_of, units, strict=True):
            self.rows[row].append(unit)
        self._first = np.cumsum([0, *(sum(map(len, row)) for row in self.rows)])  # number of each row's first answer
        self.references: NDArray[np.float64] = np.zeros(self._first[-1])

    def __len__(self) -> int:
        return len(self.rows)

    def answers_of(self, row: int) -> slice:
        """Where the answers of a row stand in `references`."""
        return slice(int(self._first[row]), int(self._first[row + 1]))

    def batch(self, samples: Indices) -> AnswerBatch:
        """The rows of these samples."""
        known = [self.references[self.answers_of(row)].tolist() for row in samples]
        return answer_rows([self.rows[row] for row in samples], known, self._sequence, self._padding)


@dataclass(frozen=True, kw_only=True)
class AnswerPart(Part):
    """A part of the network that learns by an objective on whole answers."""

    objective: Objective

    @classmethod
    def of(cls, part: Part, objective: Objective) -> AnswerPart:
        """The same part with an objective; raises InputError where no rank holds whole answers."""
        if part.layout.pp > 1 or part.layout.cp > 1:
            raise InputError("only sft can run with pp or cp above 1", where="layout", remedy="Use dp_shard and tp")
        return cls(**vars(part), objective=objective)

    def answers(self, batch: AnswerBatch) -> Answers:
        """What the network says of the batch's answers."""
        log_probs = self.model(batch.tokens, batch.positions, batch.documents, batch.targets, each=True)
        place = batch.documents + 1  # padding first
        empty = log_probs.new_zeros(len(place), batch.labels.shape[1] + 1)
        summed, counted = (
            empty.scatter_add(1, place, one)[:, 1:] for one in (log_probs, (batch.targets != IGNORED).float())
        )
        return Answers(summed, counted, batch.labels, batch.references)

    def summed_loss(self, batch: Batch) -> Tensor:
        """The objective's sum over a micro-batch."""
        assert isinstance(batch, AnswerBatch)
        return self.objective(self.answers(batch))


@torch.no_grad()
def log_probs(part: AnswerPart, batches: PackedAnswers) -> NDArray[np.float64]:
    """log p of all answers, in the order of `references`; every rank calls this and gets all."""
    found = torch.zeros(len(batches.references), dtype=torch.float64, device=part.device)
    together = part.layout.data_parallel * part.layout.micro_batch
    for first in range(0, len(batches), together):
        samples = first + part.data_rank * part.layout.micro_batch + np.arange(part.layout.micro_batch)
        answers = part.answers(batches.batch(samples % len(batches)).to(part.device))  # ranks keep in step
        for row, log_prob in zip(samples.tolist(), answers.log_prob, strict=True):
            if row < len(batches):
                place = batches.answers_of(row)
                found[place] = log_prob[: place.stop - place.start].double()
    return part.sum_over_data(found).cpu().numpy()
