"""The usual forms of conversations, as turns; and as the tokens that their own templates would make."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wingspan.model.forms import messages_of, turns_of

TALK = [("user", "How warm is it?"), ("assistant", "Warm.")]


def said(record: dict[str, Any]) -> list[tuple[str, str]] | None:
    turns = turns_of(record)
    return None if turns is None else [(turn["role"], turn["content"]) for turn in turns]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": role, "content": content} for role, content in TALK]},
        {"messages": [{"role": role, "content": [{"type": "text", "text": content}]} for role, content in TALK]},
        {"conversations": [{"from": "human", "value": "How warm is it?"}, {"from": "gpt", "value": " Warm.\n"}]},
        {"instruction": "How warm is it?", "input": "", "output": "Warm."},
        {"prompt": "How warm is it?", "completion": "Warm."},
        {"question": "How warm is it?", "answer": "Warm."},
    ],
)
def test_every_form_says_the_same(record: dict[str, Any]) -> None:
    assert said(record) == TALK


def test_system_prompts_and_inputs_come_along() -> None:
    record = {"system": "Be brief.", "instruction": "Translate.", "input": "chaud", "output": "hot"}
    assert said(record) == [("system", "Be brief."), ("user", "Translate.\n\nchaud"), ("assistant", "hot")]


def test_tools_are_text_and_only_the_call_is_the_assistants() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    record = {
        "tools": [{"name": "weather"}],
        "messages": [
            {"role": "user", "content": "How warm is it?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "21"},
            {"role": "assistant", "content": "21 degrees."},
        ],
    }
    found = said(record)
    assert found is not None
    assert [role for role, _ in found] == ["system", "user", "assistant", "tool", "assistant"]
    assert found[0][1] == 'Tools:\n[{"name": "weather"}]'
    written = found[2][1].removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    assert json.loads(written) == {"name": "weather", "arguments": {"city": "Paris"}}


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "assistant", "content": "first"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
        [{"role": "stranger", "content": "a"}],
        [{"role": "user", "content": " "}],
        "text",
        [3],
    ],
)
def test_turns_out_of_order_are_none(turns: Any) -> None:
    assert messages_of(turns) is None
    assert turns_of({"messages": turns}) is None
