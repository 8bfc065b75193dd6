"""The documentation says what the code does: keys and defaults, fields of files, commands, links, examples.

The texts are read as they stand, so a setting, a field or a command that changes without its documentation fails
here. README.md is checked like the others where it is there. Not here: whether a sentence is true.
"""

import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import typer
from pydantic.fields import FieldInfo
from training_parts import TINY, Pattern

from minimind.artifact import Artifact, Manifest, Store, Summary
from minimind.cli import app
from minimind.config import WHERE, Config
from minimind.data.documents import SCHEMAS, RowKind
from minimind.data.reading.sources import SourceConfig
from minimind.data.rules.settings import CleanRules
from minimind.data.spec import DataSpec
from minimind.evaluate.card.card import Report
from minimind.evaluate.config import EvaluateConfig, GateConfig, PublishSection
from minimind.evaluate.gate import Verdict
from minimind.evaluate.results import Evaluation
from minimind.events import Event
from minimind.infer.batch_figures import PieceFigures
from minimind.model.config import PRESETS, ModelConfig, count_active_parameters, count_parameters
from minimind.model.transformer import Transformer
from minimind.recipe import DistillSection, Recipe, TokensSection
from minimind.stage import build
from minimind.sweep.comparison import Comparison
from minimind.tokens.token_set import TokenSet, TokensInfo
from minimind.tokens.tokenizer_training import TokenizerConfig
from minimind.train import preference_losses
from minimind.train.checkpoint import Header
from minimind.train.config import TrainConfig
from minimind.train.forecast import Forecast
from minimind.train.objectives import Tensors, pair_log_probs, preference
from minimind.train.stage_configs import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, SftConfig
from tasks.registry import Registration

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md"), *(CHECKOUT / "data_specs").rglob("*.md")])
PATH, FORMATS = CHECKOUT / "docs" / "path.md", CHECKOUT / "docs" / "formats.md"
SECTIONS: dict[str, type[Config]] = {
    "`[tokenizer]`": TokenizerConfig,
    "`[tokens]`": TokensSection,
    "`[model]`": ModelConfig,
    "`[pretrain]` and every other training": TrainConfig,
    "`[sft]`": SftConfig,
    "`[dpo]`": DpoConfig,
    "`[lora]`": LoraConfig,
    "`[distill]`": DistillSection,
    "`[evaluate]`": EvaluateConfig,
    "`[gate]`": GateConfig,
    "`[publish]`": PublishSection,
}
"""Heading in docs/path.md → the class whose keys its table lists."""
FILES: dict[type[Config], tuple[str, ...]] = {
    Manifest: ("An artifact", "The fingerprint"),
    Summary: ("An artifact",),
    Event: ("events.jsonl",),
    TokensInfo: ("Token sets",),
    Header: ("Checkpoints",),
    Forecast: ("Estimates",),
    Evaluation: ("evaluation.json",),
    Report: ("report.json", "evaluation.json"),
    Comparison: ("Sweeps",),
    Registration: ("Registry notes",),
    Verdict: ("Verdicts",),
    PieceFigures: ("Answers",),
}
"""What is in a file → where in docs/formats.md its fields are."""

all_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())


def sections(page: Path) -> dict[str, str]:
    """Heading → the text below it, down to the next heading of any level; code blocks are no headings."""
    parts = re.split(
        r"^#+ (.+)$", re.sub(r"^(```.*?^```)$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S), flags=re.M
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def key_table(heading: str) -> dict[str, tuple[str, str]]:
    """Key → (default, counts) of the first table below a heading of docs/path.md."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (yes|no) \|", sections(PATH)[heading], flags=re.M)
    return {key: (default, counts) for key, default, counts in rows}


def own_fields(cls: type[Config]) -> dict[str, FieldInfo]:
    """The fields of a section; of a training those that `[pretrain]` lacks or has with another default."""
    fields = dict(cls.model_fields)
    if issubclass(cls, TrainConfig) and cls is not TrainConfig:
        common = TrainConfig.model_fields
        return {name: f for name, f in fields.items() if name not in common or f.default != common[name].default}
    return fields


def is_default(shown: str, field: FieldInfo) -> bool:
    """Whether a cell of the column *default* says what the class says."""
    if shown in ("required", "derived"):
        return field.is_required()
    if shown == "–":
        return field.default is None
    if counted := re.fullmatch(r"(\d+) \w+", shown):
        return len(field.default) == int(counted[1])
    value = tomllib.loads(f"value = {shown.strip('`')}")["value"]
    return value == (list(field.default) if isinstance(field.default, tuple) else field.default)


def test_every_key_of_a_recipe_is_documented() -> None:
    """A key nobody can find is a key nobody has."""
    text = PATH.read_text(encoding="utf-8")
    classes = (TrainConfig, PretrainConfig, DpoConfig, LoraConfig, DistillConfig, *SECTIONS.values())
    missing = {f"{cls.__name__}.{name}" for cls in classes for name in cls.model_fields if f"`{name}`" not in text}
    assert not missing
    headings = set(re.findall(r"`\[(\w+)\]`", "\n".join(sections(PATH))))
    assert set(Recipe.model_fields) - headings == {"name", "description"}
    assert {"name", "description"} == set(key_table("At the top"))


@pytest.mark.parametrize(("heading", "cls"), SECTIONS.items(), ids=[cls.__name__ for cls in SECTIONS.values()])
def test_the_table_of_a_section_gives_its_keys_defaults_and_what_counts(heading: str, cls: type[Config]) -> None:
    """A table with an old default is worse than none."""
    table, fields = key_table(heading), own_fields(cls)
    assert set(table) - {"preset"} == set(fields)
    assert not {name: table[name][0] for name, field in fields.items() if not is_default(table[name][0], field)}
    assert not {name for name, field in fields.items() if (table[name][1] == "no") != (WHERE in field.metadata)}


def test_the_keys_called_required_are_those_without_which_a_model_has_no_shape() -> None:
    """All sizes are fields without a default; only some of them must be given."""
    shown = {key: default for key, (default, _) in key_table("`[model]`").items()}
    required = {key for key, default in shown.items() if default == "required"}
    shape = {**dict.fromkeys(required, 4), "hidden_size": 64}
    ModelConfig.model_validate(shape)
    for name in required:
        with pytest.raises(ValueError, match=name):
            ModelConfig.model_validate({key: value for key, value in shape.items() if key != name})
    assert {key for key, default in shown.items() if default == "derived"} == {
        name for name, field in ModelConfig.model_fields.items() if field.is_required() and name not in required
    }


def test_the_presets_are_listed_with_their_parameter_counts() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \| ([\d,]+) \|", sections(PATH)["`[model]`"], flags=re.M)
    listed = {name: (int(total.replace(",", "")), int(active.replace(",", ""))) for name, total, active in rows}
    assert listed == {name: (count_parameters(c), count_active_parameters(c)) for name, c in PRESETS.items()}


@pytest.mark.parametrize("cls", [DataSpec, SourceConfig, CleanRules])
def test_every_field_of_a_data_spec_is_documented(cls: type[Config]) -> None:
    text = (CHECKOUT / "data_specs" / "README.md").read_text(encoding="utf-8")
    names = set(cls.model_fields) - {"source", "clean"}  # they are the two headings
    assert not {name for name in names if f"`{name}`" not in text}


def nested(cls: type[Config]) -> Iterator[type[Config]]:
    """A class and the config classes in its fields."""
    yield cls
    for hint in get_type_hints(cls).values():
        for inner in (hint, *getattr(hint, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Config):
                yield from nested(inner)


@pytest.mark.parametrize(("cls", "headings"), FILES.items(), ids=[cls.__name__ for cls in FILES])
def test_every_field_of_a_file_is_documented(cls: type[Config], headings: tuple[str, ...]) -> None:
    """What is written to disk is read by others, in years and in other languages."""
    text = "".join(sections(FORMATS)[heading] for heading in headings)
    missing = {f"{c.__name__}.{name}" for c in nested(cls) for name in c.model_fields if f"`{name}`" not in text}
    assert not missing


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_column_of_a_row_is_documented(kind: RowKind) -> None:
    text = sections(FORMATS)["Rows and the corpus"]
    assert not {name for name in SCHEMAS[kind].names if f"`{name}`" not in text}


def example(page: Path, name: str, *, language: str = "python") -> str:
    """The code block below the comment `<!-- test: name -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    assert found, f"{page} has no tested example named {name}"
    return found[1]


@pytest.mark.parametrize("kind", ["pretrain", "chat", "preference"])
def test_the_numpy_example_reads_a_token_set(kind: RowKind, token_artifacts: dict[RowKind, Artifact]) -> None:
    """The format needs none of our code to be read."""
    namespace: dict[str, Any] = {}
    exec(example(FORMATS, "read a token set"), namespace)
    for split in ("train", "val"):
        directory = token_artifacts[kind].dir / split
        documents, labels = namespace["read_tokens"](directory)
        known = TokenSet.open(directory)
        assert len(documents) == known.num_documents
        assert all(np.array_equal(ids, known.document(number)) for number, ids in enumerate(documents))
        assert len(labels) == known.num_tokens
        assert int((labels != -100).sum()) == known.info.trained_tokens
        learnt = labels != -100
        assert np.array_equal(labels[learnt], known.tokens[1:][learnt])
        assert known.trained is None or np.array_equal(learnt, known.trained[1:])


def test_the_example_stage_can_be_built(token_artifacts: dict[RowKind, Artifact], tmp_path: Path) -> None:
    """A newcomer's first stage starts from this text."""
    namespace: dict[str, Any] = {"__name__": "conftest", "Path": Path}  # a module on the path, whose code counts
    exec(example(CHECKOUT / "CONTRIBUTING.md", "a stage"), namespace)
    stage, config = namespace["LENGTHS"], namespace["LengthsConfig"](bins=4)
    artifact, reused = build(stage, config, {"tokens": token_artifacts["chat"]}, store=Store(tmp_path))
    assert not reused
    assert (artifact.dir / "lengths.json").exists()
    assert artifact.summary().figures["documents"] == TokenSet.open(token_artifacts["chat"].dir / "train").num_documents


def test_the_example_objective_is_the_one_that_runs() -> None:
    """SimPO as it is shown is SimPO as it is; it is its formula, and its recipe trains a model to prefer."""
    shown = example(CHECKOUT / "CONTRIBUTING.md", "an objective")
    assert shown == inspect.getsource(preference_losses.simpo)
    namespace = dict(vars(preference_losses))
    exec(shown, namespace)
    table = tomllib.loads(example(CHECKOUT / "CONTRIBUTING.md", "its recipe", language="toml"))
    config = DpoConfig.model_validate(table["dpo"])
    objective = preference(partial(namespace["simpo"], **config.loss_settings))
    model, batch = Transformer(TINY), Pattern(pairs=True).batch(0)
    tensors = Tensors.of(batch, torch.device("cpu"))
    first, sums = objective.loss(model, tensors)
    with torch.no_grad():
        chosen_P, rejected_P, _ = pair_log_probs(model, tensors)
    lengths = torch.from_numpy((batch.labels_BT != -100).sum(1))
    margins = 2.0 * (chosen_P / lengths[: len(chosen_P)] - rejected_P / lengths[len(chosen_P) :])
    wanted = -torch.log(torch.sigmoid(margins - 1.0)).sum()
    torch.testing.assert_close(first.detach(), wanted, rtol=1e-5, atol=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(4):
        optimizer.zero_grad()
        loss, sums = objective.loss(model, tensors)
        loss.backward()
        optimizer.step()
    assert loss < first - 0.5 and sums["reward_margin"] > margins.sum()


def slug(heading: str) -> str:
    """The anchor that the usual renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@all_pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        path = (page.parent / place) if place else page
        if not path.exists() or (anchor and anchor not in map(slug, sections(path))):
            broken.append(target)
    assert not broken


def spans(page: Path) -> Iterator[str]:
    """The lines of a page's code blocks, and its code between backticks."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```.*?\n(.*?)^```$", text, flags=re.M | re.S):
        yield from block.splitlines()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every `minimind …` on a page."""
    for code in spans(page):
        if found := re.match(r"(?:\$ )?(?:\S*/)?minimind(?: |$)(.*)", code):
            words = re.split(r" {2,}|  #| …", found[1])[0]
            yield shlex.split(words)


def flow_names() -> set[str]:
    """What `minimind run` takes; read as text, since importing flows takes seconds."""
    files = ("stages.py", "full_pipeline.py", "generate.py")
    source = "".join((CHECKOUT / "flows" / name).read_text("utf-8") for name in files)
    return set(re.findall(r'@flow\(name="([\w-]+)"', source))


@all_pages
def test_every_command_that_is_mentioned_exists(page: Path) -> None:
    """Nothing annoys like a first command that is not there: commands, their options, stages and settings."""
    commands = typer.main.get_command(app).commands
    for words in command_lines(page):
        if not words or words[0].startswith("-"):
            continue
        assert words[0] in commands, f"minimind {words[0]}"
        command = commands[words[0]]
        if isinstance(command, typer.core.TyperGroup) and len(words) > 1:
            assert words[1] in command.commands, f"minimind {words[0]} {words[1]}"
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"--help"}
        assert options <= known, f"minimind {' '.join(words)}"
        if words[0] == "run" and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]*", words[1]):
            assert words[1] in flow_names()
        for option, value in zip(words, words[1:], strict=False):
            if option in ("-o", "--override") and "." in value:
                assert_is_setting(value.partition("=")[0])


def assert_is_setting(dotted: str) -> None:
    section, key = dotted.split(".")
    annotation = Recipe.model_fields[section].annotation
    classes = [c for c in (annotation, *getattr(annotation, "__args__", ())) if isinstance(c, type)]
    assert any(key in c.model_fields for c in classes if issubclass(c, Config)) or dotted == "model.preset", dotted


def test_every_command_is_in_the_list_of_commands() -> None:
    listed = re.findall(r"^\| `minimind (\w+)` \|", sections(PATH)["Commands"], flags=re.M)
    assert sorted(listed) == sorted(typer.main.get_command(app).commands)


@all_pages
def test_every_make_target_that_is_mentioned_exists(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (CHECKOUT / "Makefile").read_text("utf-8"), flags=re.M))
    mentioned = {found[1] for code in spans(page) if (found := re.match(r"(?:\$ )?make (\w+)", code))}
    assert mentioned <= targets


@all_pages
def test_no_page_names_a_place_of_one_machine_or_a_package_registry(page: Path) -> None:
    """Such a name works for its writer alone, and tells where he works."""
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.}/-])/(?:work|root|home|Users|tmp|mnt|opt)\b\S*", text)
    assert not re.findall(r"\S*(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|index-url)\S*", text)
