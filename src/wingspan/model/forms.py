"""The usual forms of conversations in JSON, as turns: OpenAI's messages, ShareGPT, alpaca, prompts with answers.

Tools become text, as Qwen and Hermes write them: the list of them in the system prompt, a call as `<tool_call>` in
the assistant's words, which are learned, its result in a turn of the role `tool`, which is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wingspan.model.chat import Message

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_call": "assistant", "posts": "posts",
}  # fmt: skip
_AFTER = {"user": ("", "assistant"), "tool": ("assistant", "tool"), "assistant": ("user", "tool")}


def turns_of(record: Mapping[str, Any]) -> list[Message] | None:
    """The turns of a record in any of the forms, None where it is none of them or its turns are out of order."""
    for key in ("messages", "conversations", "conversation"):
        if key in record:
            return _with_tools(messages_of(record[key]), record.get("tools"))
    question = next((record[key] for key in ("instruction", "prompt", "question") if key in record), None)
    answer = next((record[key] for key in ("output", "response", "completion", "answer") if key in record), None)
    if not isinstance(question, str) or not isinstance(answer, str):
        return None
    asked = "\n\n".join(part for part in (question, record.get("input")) if isinstance(part, str) and part.strip())
    rules = record.get("system")
    system = [{"role": "system", "content": rules}] if isinstance(rules, str) and rules.strip() else []
    return messages_of([*system, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}])


def messages_of(raw: Any) -> list[Message] | None:
    """A list of turns with `role` and `content`, or `from` and `value`; None where their order makes no sense.

    System prompt and posts may come before a question; then user and assistant alternate, tools between them.
    """
    if not isinstance(raw, list):
        return None
    turns = [_turn(one) for one in raw]
    found = [turn for turn in turns if turn is not None]
    if len(found) < len(turns) or any(turn["role"] == "system" for turn in found[1:]):
        return None
    before = ""
    for turn in found:
        if turn["role"] in _AFTER:
            if before not in _AFTER[turn["role"]]:
                return None
            before = turn["role"]
    return found


def _turn(raw: Any) -> Message | None:
    if not isinstance(raw, dict):
        return None
    role = _ROLES.get(str(raw.get("role", raw.get("from"))))
    content = raw.get("content", raw.get("value"))
    if isinstance(content, list):  # OpenAI's parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    calls = [one.get("function", one) for one in raw.get("tool_calls") or () if isinstance(one, dict)]
    text = "\n".join([*([content.strip()] if isinstance(content, str) and content.strip() else []), *map(_call, calls)])
    return {"role": role, "content": text} if role and text else None


def _call(function: Mapping[str, Any]) -> str:
    given = function.get("arguments", {})
    try:
        arguments = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        arguments = given
    call = {"name": function.get("name"), "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _with_tools(turns: list[Message] | None, tools: Any) -> list[Message] | None:
    """The tools on offer, at the end of the system prompt."""
    if not turns or not tools:
        return turns
    offered = "Tools:\n" + (tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False))
    if turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{offered}"}, *turns[1:]]
    return [{"role": "system", "content": offered}, *turns]
