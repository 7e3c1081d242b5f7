"""Records of the AT protocol: the post, and the records by which an author allows or forbids its use."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from wingspan.prepare.readers.columns import Tombstone
from wingspan.prepare.readers.parsed import NO_TEXT, Post

POST = "app.bsky.feed.post"
NO_UNAUTHENTICATED = "!no-unauthenticated"  # a label: show this to people who are signed in only
_PROFILE = "app.bsky.actor.profile"
# Drafts by which an author says what the data may be used for (AT protocol proposal 0008 and its kin).
_PREFERENCES = ("org.user-intents.declaration", "org.user-intents.demo.declaration", "community.lexicon.preference.ai")
_TRAINING = ("syntheticContentGeneration", "bulkDataset", "aiTraining", "training")
CONSENT = (_PROFILE, *_PREFERENCES)


def post_of(
    uri: str, did: str, record: dict[str, Any], tombstones: list[Tombstone], seen: int | None = None
) -> Post | str:
    """The post of a record; `seen` is when the network saw it (ms), since an author's clock may lie."""
    labels = [one["val"] for one in (record.get("labels") or {}).get("values", [])]
    if NO_UNAUTHENTICATED in labels:
        tombstones.append(("post", uri, "no-unauthenticated", None, False))
    text, urls, mentions = _with_facets(record["text"], record.get("facets") or [])
    if not text.strip():
        return NO_TEXT
    embed = record.get("embed") or {}
    reply = record.get("reply") or {}
    quoted = embed.get("record") or {}
    quoted = quoted.get("record") or quoted  # a quote beside images is one level deeper
    media = embed.get("media") or embed
    if external := (media.get("external") or {}).get("uri"):
        urls.append(external)
    return {
        "post_id": uri,
        "author_id": did,
        "created_at": _created_at(record.get("createdAt"), seen),
        "text": text,
        "lang_hint": next(iter(record.get("langs") or ()), None),
        "parent_id": (reply.get("parent") or {}).get("uri"),
        "root_id": (reply.get("root") or {}).get("uri"),
        "quote_of": quoted.get("uri") if f"/{POST}/" in quoted.get("uri", "") else None,
        "visibility": "public",
        "sensitive": bool(labels),
        "urls": list(dict.fromkeys(urls)) or None,
        "mentions": mentions or None,
        "alt_text": [one["alt"] for one in (*media.get("images", ()), media) if one.get("alt")] or None,
    }


def consent(did: str, collection: str, record: dict[str, Any], at: int | None) -> Iterator[Tombstone]:
    """What a record, or its deletion (an empty one), says about all posts of its author."""
    if collection == _PROFILE:
        labels = (record.get("labels") or {}).get("values", [])
        yield "author", did, "no-unauthenticated", at, all(one["val"] != NO_UNAUTHENTICATED for one in labels)
    elif collection in _PREFERENCES:
        answers = [record[name] for name in _TRAINING if name in record]
        refused = any((one.get("allow") if isinstance(one, dict) else one) in (False, "disallow") for one in answers)
        yield "author", did, "ai-preference", at, not refused


def _created_at(claimed: Any, seen: int | None) -> int | None:
    """The author's time, or that of the network where the author's is not readable or in the future; ms."""
    try:
        time = datetime.fromisoformat(claimed)
    except (TypeError, ValueError):
        return seen
    claim = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    return claim if seen is None else min(claim, seen)


def _with_facets(text: str, facets: list[dict[str, Any]]) -> tuple[str, list[str], list[str]]:
    """The text with shortened links written out, its links, and who is mentioned. Facets count bytes of UTF-8."""
    raw, urls, mentions = text.encode("utf-8", "replace"), list[str](), list[str]()
    for facet in sorted(facets, key=lambda one: -one["index"]["byteStart"]):
        begin, end = facet["index"]["byteStart"], facet["index"]["byteEnd"]
        for feature in facet["features"]:
            if uri := feature.get("uri"):
                urls.insert(0, uri)
                shown = raw[begin:end].decode("utf-8", "replace")
                if shown.endswith(("...", "…")) and shown.rstrip(".…") in uri:
                    raw = raw[:begin] + uri.encode() + raw[end:]
            elif did := feature.get("did"):
                mentions.insert(0, did)
    return raw.decode("utf-8", "replace"), urls, mentions
