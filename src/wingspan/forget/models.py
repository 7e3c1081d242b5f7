"""Which models of a run learned from what is to be forgotten, by the training ledger; weights cannot be rewritten."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from wingspan.prepare.privacy.tombstones import Tombstones
from wingspan.train.data.ledger import FILE
from wingspan.workspace import Run, artefact_hash

_TOKENS, _CONVERSATIONS = "prepare/tokens", "prepare/conversations"


@dataclass(frozen=True)
class Learned:
    """A model, what of the forgotten it learned from, and in which steps; `certain` where ledger and inputs prove it.

    What is not certain is assumed: the artefacts that the model was made from are no longer there.
    """

    model: str  # its folder in the run
    learned: int  # posts, or conversations that rest on them
    steps: int
    first_step: int | None
    last_step: int | None
    certain: bool = True
    through: str = ""  # the model that it was made from and that learned


def models_that_learned(run: Run, stones: Tombstones) -> list[Learned]:
    """The models of a run that learned from what `stones` hold, those in the making too."""
    found = [*_base(run, stones, "train", "train/base"), *_base(run, stones, ".train.partial", ".train.partial")]
    through = "".join(one.model for one in found if one.model == "train/base")
    if (assistant := _assistant(run, stones, through)) is not None:
        found.append(assistant)
    return found


def _base(run: Run, stones: Tombstones, folder: str, model: str) -> list[Learned]:
    ledger = run.folder / folder / "ledger"
    if not (ledger / FILE).is_file() or run.manifest("prepare") is None:
        return []
    manifest = run.manifest("train") if folder == "train" else None
    if manifest is not None and manifest["inputs"][_TOKENS] != artefact_hash(run, _TOKENS):
        return [Learned(model, 0, 0, None, None, certain=False)]
    documents, learned = _documents(run.folder / _TOKENS, stones)
    if not learned:
        return []
    from wingspan.train.data.batches import open_split  # loads torch, which a run without a model does not need
    from wingspan.train.data.seen import steps_that_learned

    posts = open_split(run.folder / _TOKENS, "train", verify=False)
    made = manifest or {"settings": {"train": run.project.train.model_dump()}, "seed": run.project.project.seed}
    steps = steps_that_learned(ledger, posts, documents, made["settings"]["train"]["sequence"], made["seed"])
    return [Learned(model, learned, len(steps), steps[0], steps[-1])] if steps else []


def _documents(tokens: Path, stones: Tombstones) -> tuple[npt.NDArray[np.int64], int]:
    """Their numbers among the documents to train on, and how many posts they are: a mixture may repeat some."""
    shards = json.loads((tokens / "index.json").read_text())["splits"]["train"]
    files = [tokens / Path(shard["file"]).with_suffix(".documents.parquet") for shard in shards]
    names = [pl.read_parquet(file, columns=["post_id"])["post_id"] for file in files]
    gone = [stones.of_posts(one).is_not_null() for one in names]
    found = {name for one, hits in zip(names, gone, strict=True) for name in one.filter(hits)}
    return np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *(one.to_numpy() for one in gone)])), len(found)


def _assistant(run: Run, stones: Tombstones, through: str) -> Learned | None:
    manifest, model = run.manifest("align"), "align/assistant"
    if manifest is None:
        return None
    certain = manifest["inputs"][_CONVERSATIONS] == artefact_hash(run, _CONVERSATIONS)
    rests = 0
    taught = [*(run.folder / _CONVERSATIONS).glob("train-*.parquet"), *run.folder.glob("align/*/preferences.parquet")]
    for file in sorted(taught):
        frame = pl.read_parquet(file, columns=["post_ids"]).with_row_index("row").explode("post_ids")
        rests += frame["row"].filter(stones.of_posts(frame["post_ids"]).is_not_null()).n_unique()
    if certain and not rests and not through:
        return None
    return Learned(model, rests, 0, None, None, certain, through)
