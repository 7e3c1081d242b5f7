"""What a training used, by its ledger: each sample once, and which checkpoints and models saw a post."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wingspan.errors import InputError
from wingspan.forget.models import models_that_learned
from wingspan.prepare.privacy.tombstones import Tombstones
from wingspan.train.data.ledger import FILE, audit
from wingspan.workspace import Run


def audit_training(run: Run, post: str | None = None) -> dict[str, Any]:
    """The counts that the ledger proves, of a training that is done or under way; what saw a post, by its id.

    Raises WorkError where a sample was used twice or never, InputError without a training.
    """
    folders = [run.folder / name for name in ("train", ".train.partial")]
    folder = next((one for one in folders if (one / "ledger" / FILE).is_file()), None)
    if folder is None:
        raise InputError("there is no training to audit", where=run.folder, remedy="Begin one: wingspan train")
    proof = asdict(audit(folder / "ledger"))
    if post is None:
        return proof
    learned = models_that_learned(run, Tombstones.build([], [f"post:{post}"], (), str))
    first = min((one.first_step for one in learned if one.first_step is not None), default=None)
    steps = sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
    saw = [step for step in steps if first is not None and step > first]
    return proof | {"post": post, "checkpoints": saw, "models": [asdict(one) for one in learned]}
