"""The project file: what it means and how it refuses what it does not understand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingspan.errors import InputError
from wingspan.model.shape import ModelShape, shape_of
from wingspan.project import ModelSection
from wingspan.project_file import load_project

MINIMAL = '[project]\nname = "p"\n\n[model]\nstart = "scratch"\ndepth = 2\n'


def write(folder: Path, text: str) -> Path:
    (folder / "wingspan.toml").write_text(text)
    return folder


@pytest.mark.parametrize("example", ["laptop", "scratch", "frontier"])
def test_the_examples_are_valid_and_declare_their_rights(example: str) -> None:
    project = load_project(Path(__file__).parents[1] / "examples" / example)
    assert project.project.name == example
    assert project.rights is not None


def test_the_template_of_init_is_valid() -> None:
    import wingspan

    text = (Path(wingspan.__file__).parent / "template.toml").read_text()
    assert "my-assistant" in text
    load_project(Path(wingspan.__file__).parent / "template.toml")


def test_an_override_replaces_a_value_with_its_toml_type(tmp_path: Path) -> None:
    project = load_project(
        write(tmp_path, MINIMAL), ["train.tokens=4_096", "train.optimizer.name=muon", "prepare.held_out=0.2"]
    )
    assert project.train.tokens == 4096
    assert project.train.optimizer.name == "muon"
    assert project.prepare.held_out == 0.2


@pytest.mark.parametrize(
    ("text", "problem", "line", "remedy"),
    [
        (MINIMAL + "[train]\ntokns = 4\n", "unknown key 'train.tokns'", 8, "Did you mean 'tokens'?"),
        (MINIMAL + "[trian]\ntokens = 4\n", "unknown key 'trian'", 7, "Did you mean 'train'?"),
        (
            MINIMAL + "[train]\ntokens = -4\n",
            "'train.tokens': input should be greater than 0 (given: -4)",
            8,
            "more than 0",
        ),
        (MINIMAL + "[train]\ntokens = 1.6\n", "'train.tokens'", 8, "a whole number, such as 2"),
        (MINIMAL + "[fleet]\npue = nan\n", "'fleet.pue': input should be a finite number", 8, "to a number"),
        (MINIMAL + "[fleet]\npue = 12\n", "'fleet.pue'", 8, "Set fleet.pue to at most 3"),
        (MINIMAL + "[fleet]\nprice_per_device_hour = 1e9\n", "'fleet.price_per_device_hour'", 8, "at most 1000"),
        (MINIMAL + '[fleet]\ncooling = "ice"\n', "'fleet.cooling'", 8, "to 'liquid' or 'air'"),
        (
            MINIMAL + '[[prepare.posts]]\nname = "a"\npath = "x"\nlicence = "MIT"\nreader = "jsonl"\n'
            '[[prepare.posts]]\nname = "b"\npth = "x"\nlicence = "MIT"\nreader = "jsonl"\n',
            "'prepare.posts.1.path' is missing",
            None,
            "Add it",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_remedy(
    tmp_path: Path, text: str, problem: str, line: int | None, remedy: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_project(write(tmp_path, text))
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    if line:
        assert caught.value.where.endswith(f"wingspan.toml:{line}")


def test_a_mistake_in_an_override_names_the_override(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_project(write(tmp_path, MINIMAL), ["trian.tokens=4"])
    assert caught.value.where == "--set trian.tokens=4"
    with pytest.raises(InputError, match="not of the form"):
        load_project(tmp_path, ["tokens"])


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no project file"):
        load_project(tmp_path / "nowhere")
    (tmp_path / "wingspan.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_project(tmp_path)
    (tmp_path / "wingspan.toml").write_text("[project\n")
    with pytest.raises(InputError, match="not valid TOML"):
        load_project(tmp_path)


@given(depth=st.integers(1, 128), vocab=st.integers(256, 200_000))
def test_the_depth_dial_gives_a_sound_shape(depth: int, vocab: int) -> None:
    shape = shape_of(ModelSection(depth=depth, vocab=vocab))
    assert shape.heads * shape.head_dim == shape.hidden
    assert shape.parameters == shape.active_parameters > shape.embedding_parameters
    assert ModelShape.from_hf_config(shape.to_hf_config()) == shape


def test_the_open_model_has_its_published_size() -> None:
    assert shape_of(ModelSection(start="asset:smollm2-135m-instruct")).parameters == 134_515_008


def test_an_unknown_asset_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="smollm2-135m-instruct"):
        shape_of(ModelSection(start="asset:nothing"))
