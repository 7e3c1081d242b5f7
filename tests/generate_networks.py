"""Look-alike data of the fediverse, Bluesky and Reddit, in their exact forms and with their traps; all made up."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import libipld

from generate_archives import CANARY, Expected, Files

# Mastodon ---------------------------------------------------------------------------------------------------------

ANNA = "https://fedi.example/users/anna"
PUBLIC = "https://www.w3.org/ns/activitystreams#Public"


def note(number: int, content: str, to: Any = PUBLIC, cc: Any = f"{ANNA}/followers", **fields: Any) -> dict[str, Any]:
    """An outbox item with a note in it."""
    uri = f"{ANNA}/statuses/{1100 + number}"
    return {
        "id": f"{uri}/activity",
        "type": "Create",
        "actor": ANNA,
        "published": "2024-03-05T08:09:10Z",
        "to": to,
        "cc": cc,
        "object": {
            "id": uri,
            "type": "Note",
            "summary": None,
            "inReplyTo": None,
            "published": "2024-03-05T08:09:10Z",
            "url": f"https://fedi.example/@anna/{1100 + number}",
            "attributedTo": ANNA,
            "to": to,
            "cc": cc,
            "sensitive": False,
            "content": content,
            "contentMap": {"en": content},
            "attachment": [],
            "tag": [],
            **fields,
        },
    }


def mastodon_archive(**profile: Any) -> tuple[Files, Expected]:
    """An account's archive; `profile` are fields of its actor."""
    expected = Expected()
    followers, friend = f"{ANNA}/followers", "https://other.example/users/ben"
    later, pictures = "2024-04-01T00:00:00Z", [{"type": "Document", "name": name} for name in ("a cat asleep", None)]
    public = [
        note(1, "<p>Good morning</p>"),
        note(2, "<p>Quietly said</p>", to=[followers], cc=[PUBLIC]),
        note(3, "<p>The whole tale</p>", to=["as:Public"], summary="spoilers", sensitive=True, updated=later),
        note(4, "<p>Une réponse</p>", inReplyTo=f"{friend}/statuses/9", contentMap={"fr": "<p>Une réponse</p>"}),
        note(5, "<p>看</p>", contentMap={"zhCn": "<p>看</p>"}, quote=f"{friend}/statuses/8"),
        note(6, "<p>Look</p>", attachment=pictures),
        note(7, "<p>Which one?</p>", type="Question", oneOf=[{"type": "Note", "name": "this"}]),
        note(8, "<p>@ben hello</p>", tag=[{"type": "Mention", "href": friend, "name": "@ben@other.example"}]),
    ]  # fmt: skip
    private = [
        note(20, f"<p>{CANARY}</p>", to=[followers], cc=[]),
        note(21, f"<p>{CANARY}</p>", to=[friend], cc=[]),
        note(22, f"<p>{CANARY}</p>", to=[], cc=[friend]),
    ]
    boost = {"id": f"{ANNA}/statuses/30/activity", "type": "Announce", "object": f"{friend}/statuses/7", "to": [PUBLIC]}
    items = [*public, boost, *private, note(23, ""), {"type": "Create", "object": "not a note"}, {"type": "Like"}]
    expected.kept = {one["object"]["id"]: one["object"]["content"] for one in public}
    expected.refused.update({"repost": 1, "not public": 3, "no text": 1, "not a post": 1})
    expected.damaged = 1
    outbox = {"@context": "https://www.w3.org/ns/activitystreams", "id": "outbox.json", "type": "OrderedCollection"}
    actor = {"id": ANNA, "type": "Person", "preferredUsername": "anna", "indexable": True, "discoverable": True}
    return {
        "outbox.json": json.dumps(outbox | {"totalItems": len(items), "orderedItems": items}).encode(),
        "actor.json": json.dumps(actor | profile).encode(),
        "likes.json": json.dumps({"orderedItems": [f"https://other.example/{CANARY}"]}).encode(),
        "bookmarks.json": json.dumps({"orderedItems": [f"https://other.example/{CANARY}"]}).encode(),
        "avatar.jpg": CANARY.encode(),
    }, expected


def account(name: str, server: str = "fedi.example", **fields: Any) -> dict[str, Any]:
    return {
        "id": str(sum(map(ord, name))),
        "username": name,
        "acct": name if server == "fedi.example" else f"{name}@{server}",
        "url": f"https://{server}/@{name}",
        "uri": f"https://{server}/users/{name}",
        "bot": False,
        "indexable": True,
        "discoverable": None,
        "noindex": False,
        **fields,
    }


def status(number: int, content: str, by: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A status as the API of fedi.example gives it; one by a remote author has another number in its uri."""
    author = by or account("anna")
    local = "@" not in author["acct"]
    uri = f"https://{author['url'].split('/')[2]}/users/{author['username']}/statuses/{number if local else number + 7}"
    return {
        "id": str(number),
        "created_at": "2024-03-05T08:09:10.123Z",
        "in_reply_to_id": None,
        "in_reply_to_account_id": None,
        "sensitive": False,
        "spoiler_text": "",
        "visibility": "public",
        "language": "en",
        "uri": uri,
        "replies_count": 2,
        "reblogs_count": 3,
        "favourites_count": 4,
        "edited_at": None,
        "content": content,
        "reblog": None,
        "account": author,
        "media_attachments": [],
        "mentions": [],
        "quote": None,
        **fields,
    }


def mastodon_statuses() -> tuple[list[Any], Expected]:
    """Lines of the API: statuses newest first, a page, a context, and what is no status."""
    expected = Expected()
    ben, anna = account("ben", "other.example"), account("anna")
    reply = {"in_reply_to_account_id": ben["id"], "in_reply_to_id": "500"}
    posts = [
        status(900, "<p>I answer ben</p>", **reply),
        status(800, "<p>and myself</p>", in_reply_to_id="790", in_reply_to_account_id=anna["id"]),
        status(700, "<p>lost its parent</p>", in_reply_to_id="1", in_reply_to_account_id="77"),
        status(500, "<p>ben asks</p>", ben, language=None, visibility="unlisted"),
        status(450, "<p>edited</p>", edited_at="2024-03-06T00:00:00.000Z", spoiler_text="careful"),
        status(440, "<p>see this</p>", quote={"state": "accepted", "quoted_status_id": "500"}),
    ]
    refused = [
        status(430, "<p>for friends</p>", visibility="private"),
        status(420, "<p>for you</p>", visibility="direct"),
        status(410, "<p>for this server</p>", local_only=True),
        status(400, "", reblog=status(399, "<p>of another</p>", ben)),
        status(390, " "),
        {"content": "<p>an earlier version</p>", "spoiler_text": "", "account": anna},
    ]
    page = [status(300, "<p>on a page</p>", visibility="public")]
    context = {"ancestors": [status(200, "<p>above</p>")], "descendants": [status(210, "<p>below</p>")]}
    wary = [
        status(100, "<p>do not find me</p>", account("cleo", indexable=False)),
        status(101, "<p>nor me</p>", account("dora", noindex=True)),
        status(102, "<p>old server</p>", {k: v for k, v in account("eva").items() if k not in ("uri", "indexable")}),
    ]
    kept = [*posts, *page, *context["ancestors"], *context["descendants"], *wary]
    expected.kept = {one["uri"]: one["content"] for one in kept}
    expected.refused.update({"not public": 3, "repost": 1, "no text": 1, "not a post": 1})
    expected.damaged = 1
    expected.tombstones = {"https://fedi.example/users/cleo", "https://fedi.example/users/dora"}
    return [*posts, *refused, page, context, *wary, 17], expected


# Bluesky ----------------------------------------------------------------------------------------------------------

DID, OTHER = "did:plc:annaannaannaannaannaanna", "did:plc:benbenbenbenbenbenbenben"
NOON = 1_720_000_000_000_000  # microseconds
POST = "app.bsky.feed.post"


def bluesky_post(text: str, **fields: Any) -> dict[str, Any]:
    return {"$type": POST, "createdAt": "2024-07-03T09:46:00.000Z", "langs": ["en"], "text": text, **fields}


def labels(*values: str) -> dict[str, Any]:
    return {"$type": "com.atproto.label.defs#selfLabels", "values": [{"val": one} for one in values]}


def commit(
    rkey: str, record: dict[str, Any] | None, did: str = DID, collection: str = POST, **fields: Any
) -> dict[str, Any]:
    """A record made, or deleted where there is none."""
    body = {"rev": "3mptbypluud2a", "operation": "create", "collection": collection, "rkey": rkey}
    body |= {"operation": "delete"} if record is None else {"record": record, "cid": "bafyreiguce4jh7kcb"}
    return {"did": did, "time_us": NOON, "kind": "commit", "commit": body | fields}


def account_event(did: str, active: bool, at: int, status: str | None = None) -> dict[str, Any]:
    event = {"active": active, "did": did, "seq": at, "time": "2024-07-03T09:46:40.000Z"} | (
        {"status": status} if status else {}
    )
    return {"did": did, "time_us": NOON + at, "kind": "account", "account": event}


def jetstream() -> tuple[list[Any], Expected]:
    """A stretch of events with what a reader must make of them."""
    expected = Expected()
    link = {"$type": "app.bsky.richtext.facet#link", "uri": "https://example.org/a/long/way"}
    mention = {"$type": "app.bsky.richtext.facet#mention", "did": OTHER}
    emoji = "🦋🦋 example.org/a/long... by @ben.example"
    start = len("🦋🦋 ".encode())
    at = len("🦋🦋 example.org/a/long... by ".encode())
    facets = [
        {"index": {"byteStart": at, "byteEnd": at + 12}, "features": [mention]},
        {"index": {"byteStart": start, "byteEnd": start + 21}, "features": [link]},
    ]
    parent = {"uri": f"at://{OTHER}/{POST}/p", "cid": "x"}
    posts = {
        "a": bluesky_post(emoji, facets=facets),
        "b": bluesky_post("a reply", reply={"root": {"uri": f"at://{OTHER}/{POST}/r"}, "parent": parent}),
        "c": bluesky_post("a quote", embed={"$type": "app.bsky.embed.record", "record": parent}),
        "d": bluesky_post(
            "a quote with a picture",
            embed={"record": {"record": parent}, "media": {"images": [{"alt": "a butterfly"}]}},
        ),
        "e": bluesky_post("from the future", createdAt="2031-01-01T00:00:00Z"),
        "f": bluesky_post("no clock at all", createdAt="yesterday", langs=[]),
        "g": bluesky_post("grown-up", labels=labels("porn")),
        "h": bluesky_post("a list is no quote", embed={"record": {"uri": f"at://{OTHER}/app.bsky.graph.list/l"}}),
        "i": bluesky_post("members only", labels=labels("!no-unauthenticated")),
    }
    expected.kept = {f"at://{DID}/{POST}/{key}": record["text"] for key, record in posts.items()}
    expected.kept[f"at://{DID}/{POST}/a"] = "🦋🦋 https://example.org/a/long/way by @ben.example"
    expected.kept[f"at://{DID}/{POST}/j"] = "written again"
    events = [
        *(commit(key, record) for key, record in posts.items()),
        commit("j", bluesky_post("written again"), operation="update"),
        commit("k", bluesky_post("   ")),
        commit("z", None),
        commit("l", {"subject": {"uri": parent["uri"]}}, collection="app.bsky.feed.like"),
        commit("m", {"subject": {"uri": parent["uri"]}}, collection="app.bsky.feed.repost"),
        commit(
            "self", {"displayName": "Ben", "labels": labels("!no-unauthenticated")}, OTHER, "app.bsky.actor.profile"
        ),
        account_event(OTHER, False, 5, "deactivated"),
        {"did": DID, "time_us": NOON, "kind": "identity", "identity": {"did": DID, "seq": 1}},
        {"did": DID, "kind": "commit", "time_us": NOON, "commit": {"operation": "create"}},
        {"matching": "nothing"},
    ]
    expected.refused.update(
        {"no text": 1, "deletion notice": 1, "not a post": 3, "repost": 1, "account notice": 1}
    )  # fmt: skip
    expected.damaged = 2
    expected.tombstones = {f"at://{DID}/{POST}/z", f"at://{DID}/{POST}/i", OTHER}
    return events, expected


def repository(records: dict[str, Any], did: str = DID, rev: str = "3migo7fijwi2k") -> tuple[bytes, dict[str, bytes]]:
    """A CAR file of a repository with these records by `collection/rkey`, and the bytes of each record's block."""
    blocks: dict[bytes, bytes] = {}

    def add(value: Any) -> bytes:
        data = libipld.encode_dag_cbor(value)
        cid = b"\x01\x71\x12\x20" + hashlib.sha256(data).digest()
        blocks[cid] = data
        return cid

    cids = {key: add(record) for key, record in records.items()}
    root = _tree(cids, add)
    head = add({"did": did, "rev": rev, "data": root, "prev": None, "version": 3, "sig": b"\0" * 64})
    framed = [libipld.encode_dag_cbor({"roots": [head], "version": 1})]
    framed += [cid + data for cid, data in reversed(blocks.items())]
    content = b"".join(_varint(len(one)) + one for one in framed)
    return content, {key: blocks[cid] for key, cid in cids.items()}


def _tree(cids: dict[str, bytes], add: Any) -> bytes:
    """The root of a Merkle search tree: a key lies as many layers up as its hash begins with pairs of zero bits."""

    def node(keys: list[bytes], layer: int) -> bytes | None:
        if not keys:
            return None
        here = [key for key in keys if _layer(key) == layer]
        if not here and layer > 0 and keys:
            return add({"l": node(keys, layer - 1), "e": []})
        bounds = [keys.index(key) for key in here]
        below = [keys[a:b] for a, b in zip([0, *(at + 1 for at in bounds)], [*bounds, len(keys)], strict=True)]
        entries, before = [], b""
        for key, right in zip(here, below[1:], strict=True):
            shared = next(
                (at for at, (x, y) in enumerate(zip(before, key, strict=False)) if x != y), min(len(before), len(key))
            )
            tree = node(right, layer - 1)
            entries.append({"p": shared, "k": key[shared:], "v": cids[key.decode()], "t": tree})
            before = key
        return add({"l": node(below[0], layer - 1), "e": entries})

    keys = sorted(key.encode() for key in cids)
    return node(keys, max(map(_layer, keys), default=0)) or add({"l": None, "e": []})


def _layer(key: bytes) -> int:
    digest = int.from_bytes(hashlib.sha256(key).digest(), "big")
    return (256 - digest.bit_length()) // 2


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


# Reddit -----------------------------------------------------------------------------------------------------------


def comment(number: int, body: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"k{number}",
        "author": f"writer_{number % 3}",
        "body": body,
        "created_utc": 1706745600 + number,
        "link_id": "t3_s1",
        "parent_id": "t3_s1",
        "score": number - 2,
        "subreddit": "gardening",
        "subreddit_type": "public",
        "edited": False,
        **fields,
    }


def submission(number: int, title: str, selftext: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "author": "asker",
        "title": title,
        "selftext": selftext,
        "created_utc": 1706745600.0,
        "is_self": True,
        "over_18": False,
        "num_comments": 4,
        "score": 10,
        "subreddit": "gardening",
        "subreddit_type": "public",
        "url": "https://reddit.example/s",
        **fields,
    }


def reddit() -> tuple[list[Any], Expected]:
    """Comments and submissions of several years of dumps."""
    expected = Expected()
    kept = [
        comment(1, "Water it &gt; weekly"),
        comment(2, "No!", parent_id="t1_k1", created_utc="1251763200", subreddit_type="restricted"),
        comment(3, "said in 2008", created_utc="1204000000", edited=1204000999.0, score=-12),
        comment(4, "I quote [deleted] here"),
        submission(1, "Why do leaves fall?", "They fell today."),
        submission(2, "Look at this", "", is_self=False, url="https://pictures.example/1.jpg", over_18=True),
        submission(3, "Seen elsewhere", crosspost_parent="t3_other", subreddit_type="user"),
    ]
    del kept[2]["subreddit_type"]
    gone = [
        comment(10, "[deleted]", author="[deleted]"),
        comment(11, "[removed]"),
        comment(12, "what is left of me", author="[deleted]"),
        comment(13, "[ Removed by Reddit ]"),
        submission(14, "[deleted by user]", "[removed]"),
        submission(15, "An advertisement", "buy this", removed_by_category="moderator"),
    ]
    refused = [
        comment(20, CANARY, subreddit_type="private"),
        comment(21, CANARY, subreddit_type="employees_only"),
        comment(22, CANARY, quarantine=True),
        comment(23, "  "),
        {"id": "t5_x", "subreddit": "gardening", "subscribers": 5},
    ]
    text = {one["id"]: one.get("body") or "\n\n".join(filter(None, (one["title"], one["selftext"]))) for one in kept}
    prefix = {one["id"]: "t1_" if "body" in one else "t3_" for one in [*kept, *gone]}
    expected.kept = {prefix[name] + name: words for name, words in text.items()}
    expected.tombstones = {prefix[one["id"]] + one["id"] for one in gone}
    expected.refused.update({"deleted": len(gone), "not public": 3, "no text": 1, "not a post": 1})
    expected.damaged = 2
    return [*kept, *gone, *refused, {"body": "no id"}, "a string"], expected
