from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingspan.errors import WorkError
from wingspan.prepare.flow.components import components
from wingspan.prepare.flow.engines import Processes
from wingspan.prepare.flow.flow import Flow, added, tallied
from wingspan.progress import SilentProgress

from .flows import dataset, flow_in, rows


def numbers(*values: int) -> pa.Table:
    return pa.table({"key": pa.array(values, pa.uint64())})


def doubled(table: pa.Table) -> pa.Table:
    twice = pa.table({"key": pa.array([2 * value for value in table["key"].to_pylist()], pa.uint64())})
    return tallied(twice, {"sum": sum(twice["key"].to_pylist()), "by": {"parts": 1}})


def keys(table: pa.Table) -> pa.Table:
    return table


def test_map_keeps_parts_and_adds_counts_up(tmp_path: Path) -> None:
    flow = flow_in(tmp_path)
    mapped = flow.map("doubled", doubled, dataset(flow, "numbers", numbers(1, 2), numbers(), numbers(5)))
    assert [table["key"].to_pylist() for table in mapped.tables()] == [[2, 4], [], [10]]
    assert mapped.tally == {"sum": 16, "by": {"parts": 3}}
    assert mapped.rows == 3


def test_exchange_brings_equal_keys_together_in_order(tmp_path: Path) -> None:
    flow = flow_in(tmp_path)
    given = dataset(flow, "numbers", numbers(7, 1, 4), numbers(3, 4, 10))
    moved = flow.exchange("moved", keys, given, parts=3)
    assert [table["key"].to_pylist() for table in moved.tables()] == [[3], [7, 1, 4, 4, 10], []]


def test_a_finished_step_and_finished_pieces_are_not_done_again(tmp_path: Path) -> None:
    done: list[int] = []

    def note(value: int) -> pa.Table:
        if value in done:
            raise AssertionError("done twice")
        if value == 2 and len(done) == 2:
            done.append(-1)
            raise KeyboardInterrupt
        done.append(value)
        return tallied(numbers(value), {"values": value})

    flow = flow_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        flow.map("noted", note, range(4))
    again = flow_in(tmp_path).map("noted", note, range(4))
    assert done == [0, 1, -1, 2, 3]
    assert again == flow_in(tmp_path).map("noted", note, range(4))
    assert again.tally == {"values": 6}
    assert [row["key"] for row in rows(again)] == [0, 1, 2, 3]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), max_size=5))
def test_counts_add_up_in_any_order(tallies: list[dict[str, int]]) -> None:
    assert added(tallies) == added(reversed(tallies))


@pytest.mark.parametrize("most", [1 << 20, 40])
@given(edges=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=120), cut=st.integers(0, 120))
@settings(max_examples=15, deadline=None)
def test_components_are_those_of_the_graph(
    tmp_path_factory: pytest.TempPathFactory, most: int, edges: list[tuple[int, int]], cut: int
) -> None:
    def table(some: list[tuple[int, int]]) -> pa.Table:
        left, right = np.array(some, np.uint64).reshape(-1, 2).T
        return pa.table({"left": left, "right": right})

    flow = flow_in(tmp_path_factory.mktemp("flow"), most)
    found = components(flow, "groups", dataset(flow, "edges", table(edges[:cut]), table(edges[cut:])))
    label = {node: node for edge in edges for node in edge}
    for _ in label:
        for one, other in edges:
            label[one] = label[other] = min(label[one], label[other])
    assert {row["right"]: row["left"] for row in rows(found)} == {
        node: least for node, least in label.items() if node != least
    }
    assert found.rows == len({row["right"] for row in rows(found)})


def test_a_long_path_over_many_parts_is_one_component(tmp_path: Path) -> None:
    flow = flow_in(tmp_path, 40)
    order = np.random.default_rng(1).permutation(300).astype(np.uint64)
    parts = [
        pa.table({"left": order[start : start + 20], "right": order[start + 1 : start + 21]})
        for start in range(0, 280, 20)
    ]
    found = components(flow, "path", dataset(flow, "edges", *parts))
    assert {row["left"] for row in rows(found)} == {order[:281].min()}
    assert found.rows == 280


def squares(value: int) -> pa.Table:
    return numbers(value * value)


def test_workers_give_the_same_bytes_as_one_process(tmp_path: Path) -> None:
    with_workers = Processes(2, least=0)
    try:
        for name, engine in (("one", Processes(1)), ("two", with_workers)):
            flow = Flow(tmp_path / name, engine, SilentProgress())
            flow.exchange("moved", keys, flow.map("squares", squares, range(5)), parts=2)
    finally:
        with_workers.close()
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 12
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_a_killed_worker_is_reported_and_its_work_can_go_on(tmp_path: Path) -> None:
    pool = Processes(2, least=0)
    try:
        with pytest.raises(WorkError, match="worker process was killed"):
            Flow(tmp_path, pool, SilentProgress()).map("squares", partial(die_at, 2), range(4))
    finally:
        pool.close()
    assert flow_in(tmp_path).map("squares", squares, range(4)).rows == 4


def die_at(when: int, value: int) -> pa.Table:
    import os

    if value == when:
        os._exit(9)
    return numbers(value * value)
