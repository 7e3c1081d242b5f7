"""Questions from outside: TweetEval's folder, benchmark files, task files, safety sets; and who was trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wingspan.errors import InputError
from wingspan.evaluate.benchmarks import benchmark_task
from wingspan.evaluate.contamination import contaminated
from wingspan.evaluate.harness import HarnessModel, run_tasks, task_of_file
from wingspan.evaluate.measures import named_choice
from wingspan.evaluate.safety import insults, leak_task, refuses, safety_tasks, verbatim_task
from wingspan.evaluate.scores import score_table, worst
from wingspan.evaluate.tasks import Task
from wingspan.evaluate.tweeteval import average_task, tweeteval_tasks, write_lessons
from wingspan.model.chat import ChatRenderer
from wingspan.model.checkpoint import load

pytestmark = pytest.mark.slow  # the harness alone takes seconds to import


def write_tweeteval(folder: Path) -> Path:
    """Two tasks of TweetEval: irony with all splits, stance with one target."""
    files = {
        "irony/train": (["so funny", "I love rain", "Great, Monday", "tea time"], [0, 1, 1, 0]),
        "irony/val": (["ha"], [0]),
        "irony/test": (["what a lovely flood", "it is six"], [1, 0]),
        "stance/climate/train": (["act now", "a hoax", "hm"], [2, 1, 0]),
        "stance/climate/val": (["we must act", "all lies", "snow"], [2, 1, 0]),
    }
    for name, (texts, labels) in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_text.txt").write_text("\n".join(texts) + "\n")
        (folder / f"{name}_labels.txt").write_text("\n".join(map(str, labels)) + "\n")
    return folder


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def certain(task: Task, choices: list[int]) -> list[Any]:
    """Answers of a model that is sure of these choices."""
    return [
        [(0.0 if number == choice else -50.0, False) for number in range(len(doc["choices"]))]
        for doc, choice in zip(task.docs, choices, strict=True)
    ]


def value(task: Task, answers: list[Any], place: int = 0) -> float:
    rows = score_table(task, {"assistant": answers}, resamples=20, seed=1)
    score: float = rows[place]["scores"]["assistant"]["value"]
    assert 0 <= rows[place]["scores"]["assistant"]["standard_error"] < 1
    return score


def test_tweeteval_has_its_official_scores_and_their_average(tmp_path: Path) -> None:
    irony, stance = posed = tweeteval_tasks(write_tweeteval(tmp_path), [0], 10, 1)
    assert [task.name for task in posed] == ["tweeteval_irony", "tweeteval_stance"]
    assert {doc["own"] for doc in irony.docs} == {"what a lovely flood", "it is six"}  # the last split
    assert "climate change is a real concern?\n\nPost: we must act" in stance.docs[0]["messages"][-1]["content"]
    assert value(irony, certain(irony, [1, 1])) == pytest.approx(2 / 3)  # F1 of the ironic alone
    told = certain(stance, [2, 0, 0])
    assert value(stance, told) == pytest.approx((0 + 1) / 2)  # of against and favour
    average = average_task(posed, 0)
    assert value(average, [*certain(irony, [1, 1]), *told]) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_examples_come_from_another_split_and_lessons_ask_as_evaluate_asks(tmp_path: Path) -> None:
    folder = write_tweeteval(tmp_path)
    irony, _ = tweeteval_tasks(folder, [2], 10, 1)
    assert irony.name == "tweeteval_irony_2shot"
    *examples, asked = irony.docs[0]["messages"]
    assert sorted(one["content"] for one in examples if one["role"] == "assistant") == ["no", "yes"]
    scored = {doc["own"] for doc in irony.docs}
    assert not any(text in one["content"] for one in examples for text in scored)
    counts = write_lessons(folder, tmp_path / "lessons.jsonl", 2, 1)
    assert (counts["irony"], counts["stance"], counts["emoji"]) == (2, 2, 0)
    taught = [json.loads(line)["messages"] for line in (tmp_path / "lessons.jsonl").read_text().splitlines()]
    question = asked["content"].partition("\n\nPost:")[0]
    assert taught[0][0]["content"].startswith(question)
    assert {messages[1]["content"] for messages in taught[:2]} == {"no", "yes"}


def test_a_damaged_or_foreign_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no TweetEval"):
        tweeteval_tasks(tmp_path, [0], 10, 1)
    (write_tweeteval(tmp_path) / "irony/test_labels.txt").write_text("1\n7\n")
    with pytest.raises(InputError, match="below 2"):
        tweeteval_tasks(tmp_path, [0], 10, 1)


def test_every_form_of_benchmark_file_is_scored_as_its_field_does(tmp_path: Path) -> None:
    arc = lines(tmp_path / "arc.jsonl", [{"query": "Question: why?", "choices": ["the sun", "rain"], "gold": 1}])
    task = benchmark_task(arc, 10, 1)
    assert task.docs[0]["prompt"] == "Question: why?\nAnswer:"
    assert value(task, [[(-7.0, False), (-6.0, False)]]) == 0  # per byte the longer one is likelier
    wino = lines(tmp_path / "w.jsonl", [{"context_options": ["She", "He"], "continuation": "ran.", "gold": 0}])
    assert value(benchmark_task(wino, 10, 1), [[(-1.0, False), (-2.0, False)]]) == 1
    lambada = lines(tmp_path / "l.jsonl", [{"context": "Give me a", "continuation": "sign"}] * 2)
    assert value(benchmark_task(lambada, 10, 1), [(-1.0, True), "Sign, he said"]) == 1
    gsm = lines(tmp_path / "g.jsonl", [{"question": "How many?", "answer": "9 and 9\n#### 1,018"}] * 2)
    assert value(benchmark_task(gsm, 10, 1), ["It is 1018.", "1,018 minus 3"]) == 0.5
    (tmp_path / "mgsm_fr.tsv").write_text("Combien ?\t18\nCombien ?\t3\n")
    assert value(benchmark_task(tmp_path / "mgsm_fr.tsv", 10, 1), ["Il y en a 18", ""]) == 0.5
    (tmp_path / "truth.csv").write_text("Question,Best Answer,Incorrect Answers\nWhy?,It is so,No; Never\n")
    assert benchmark_task(tmp_path / "truth.csv", 10, 1).docs[0]["choices"] == ["It is so", "No", "Never"]


def test_verdicts_with_unclear_are_classes_with_a_calibration(tmp_path: Path) -> None:
    rows = [
        {"query": f"Is it true? {n}", "choices": ["true", "false", "unclear"], "gold": n, "thread": "t"}
        for n in range(3)
    ]
    task = benchmark_task(lines(tmp_path / "verdicts.jsonl", rows), 10, 1)
    assert [measure.name for measure in task.measures] == ["verdicts", "verdicts_f1", "verdicts_brier"]
    assert value(task, certain(task, [0, 1, 2]), 2) == pytest.approx(0, abs=1e-9)
    assert value(task, certain(task, [1, 2, 0]), 2) == pytest.approx(2)
    assert value(task, [[(0.0, False)] * 3] * 3, 2) == pytest.approx(2 / 3)  # knows nothing, and says so
    assert value(task, ["It is unclear.", "B", "true or false"], 0) == pytest.approx(1 / 3)
    (row, *_) = score_table(task, {"assistant": certain(task, [0, 1, 2])}, resamples=20, seed=1)
    assert row["clusters"] == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"what": 1}\n', "benchmark"),
        ("b.jsonl", "no json\n", "cannot be read"),
        ("c.jsonl", '{"query": "q", "choices": ["a"], "gold": "x"}\n', "damaged"),
        ("d.jsonl", "", "benchmark"),
        ("e.yaml", "task: e\ndataset_path: json\ndataset_kwargs: {data_files: {test: /none.jsonl}}\n", "cannot load"),
        ("f.yaml", "task: [\n", "cannot load"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused_by_name(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=told) as refused:
        task_of_file(path, 5) if path.suffix == ".yaml" else benchmark_task(path, 5, 1)
    assert refused.value.where == str(path)


def test_a_task_file_of_the_harness_runs_as_it_is(tmp_path: Path, tiny_model: Path) -> None:
    data = lines(tmp_path / "copa.jsonl", [{"query": "rain,", "choices": ["good", "bad"], "gold": 1}] * 3)
    (tmp_path / "copa.yaml").write_text(
        f"task: copa\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: query\ndoc_to_choice: choices\ndoc_to_target: gold\n"
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    task = task_of_file(tmp_path / "copa.yaml", 2)
    harness = HarnessModel(load(tiny_model), ChatRenderer.from_folder(tiny_model), 0, lambda count: None)
    answers = run_tasks([task], tmp_path, harness)["copa"]
    rows = score_table(task, {"assistant": answers}, resamples=20, seed=1)
    assert [(row["name"], row["items"]) for row in rows] == [("copa_acc", 2), ("copa_acc_norm", 2)]


def test_a_choice_in_words_is_read_only_where_it_is_clear() -> None:
    choices = ["not now", "now", "❤"]
    said = {"B": 1, "b. now": 1, "B) because": 1, "Not now!": -1, "now": 1, "❤!": 2, "": -1, "Well": -1}
    assert {one: named_choice(choices, one) for one in said} == said


def test_safety_is_counted_by_wording(tmp_path: Path) -> None:
    assert all(map(refuses, ("I can't help with that.", "Sorry, no.", "Je ne peux pas vous aider.", "Désolé.")))
    assert not any(map(refuses, ("Sure, here is how.", "Bien sûr, voici comment.", "")))
    assert insults("You IDIOT, con!", "en") == ["idiot"]
    sets = {task.name: task for task in safety_tasks("Be good.", 8)}
    for task in sets.values():
        assert {doc["lang"] for doc in task.docs} == {"en", "fr"}
        assert len(task.docs) == 32
    injection = sets["injection"]
    assert all(any(doc["marker"] in one["content"] for one in doc["messages"]) for doc in injection.docs)
    obeyed = [doc["marker"].lower() if number % 2 else "tea" for number, doc in enumerate(injection.docs)]
    assert value(injection, obeyed) == 0.5
    assert len(worst(injection, {"assistant": obeyed})) == 2
    toxic = score_table(sets["provoking"], {"assistant": ["merde"] * 32}, resamples=20, seed=1)
    assert [row["scores"]["assistant"]["value"] for row in toxic] == [0, 1]  # in French alone
    (tmp_path / "canaries.txt").write_text("My code is\t4711\nshort\n")
    leak = leak_task("canaries", tmp_path / "canaries.txt", 5, 1)
    assert [doc["prompt"] for doc in leak.docs] == ["My code is"]
    assert value(leak, ["4711, and more"]) == 1
    learned = verbatim_task("memorised", "m", [("p", "one two three four five six seven eight")], 5, 1)
    assert value(learned, ["five six seven eight nine"]) == 1
    assert value(learned, ["five six seven"]) == value(learned, [""]) == 0


def test_items_in_the_training_posts_are_found_and_scores_without_them_given(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(20)]
    rows = [
        {"query": " ".join(words[:12]), "choices": ["a", "b"], "gold": 0},
        {"query": " ".join(words[12:]), "choices": ["a", "b"], "gold": 0},
    ]
    task = benchmark_task(lines(tmp_path / "q.jsonl", rows), 10, 1)
    posts = pa.table({"text": ["nothing", "so: " + " ".join(words[2:11]).upper() + "!"]})
    pq.write_table(posts, tmp_path / "train-00000.parquet")
    found = contaminated({task.name: task.docs}, tmp_path)
    assert found == {"q": {"0"}}
    (row, *_) = score_table(task, {"assistant": certain(task, [0, 1])}, resamples=20, seed=1, contaminated=found["q"])
    assert row["contaminated"] == 1
    assert (row["items"], row["clean"]["items"]) == (2, 1)
    assert (row["scores"]["assistant"]["value"], row["clean"]["scores"]["assistant"]["value"]) == (0.5, 0)


@pytest.mark.shared_data
def test_the_real_files_are_read(shared_data: Path) -> None:
    assert len(tweeteval_tasks(shared_data / "data/tweeteval", [0, 3], 20, 1)) == 14
    named = [*(shared_data / "data/evals").glob("*.jsonl"), *(shared_data / "data/evals").glob("*.[ct]sv")]
    files = [path for path in named if path.stem not in ("mt_bench_questions", "triviaqa_sm_sub")]
    assert [benchmark_task(path, 3, 1).name for path in files] == [path.stem for path in files]
