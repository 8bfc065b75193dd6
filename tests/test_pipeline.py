"""The whole path for real: a Prefect server, MLflow on SQLite, torchrun children; then reruns.

One pipeline of a micro recipe is run once for the module; the tests look at what it left.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_DEFAULT_SERIALIZER,
    temporary_settings,
)
from rich.console import Console

from flows.full_pipeline import full_pipeline
from flows.local import promote, removal
from flows.local_plan import because, planned
from flows.serve import prefect_for_one_run
from flows.stages import lora
from minimind.artifact import Store
from minimind.errors import ConfigError
from minimind.forget.report import forget_rows, forget_sources
from minimind.infer.generate import complete, load
from minimind.infer.sampling import Sampling
from minimind.train.history import trainings
from tasks.pipeline import planning
from tasks.tracking import Tracker

WORDS = [
    "the",
    "cat",
    "dog",
    "house",
    "tree",
    "runs",
    "jumps",
    "over",
    "under",
    "red",
    "blue",
    "big",
    "small",
    "happy",
    "sad",
    "and",
    "but",
    "with",
    "near",
    "far",
]
STAGES = [
    *(f"{stage}-{kind}" for stage in ("ingest", "clean", "shard") for kind in ("pretrain", "chat", "preference")),
    "tokenizer",
    *(f"tokens-{kind}" for kind in ("pretrain", "chat", "preference")),
    *("pretrain", "sft", "dpo", "lora", "evaluate", "publish"),
]
TRAINING = 'epochs = 1\nlength = 128\nbatch_tokens = 2048\nwarmup_steps = 2\nprecision = "fp32"\nlog_every = 1\n'
RECIPE = f"""
[tokenizer]
vocab_size = 400
[model]
hidden_size = 32
num_layers = 2
num_heads = 2
num_kv_heads = 1
max_positions = 512
[pretrain]
{TRAINING}
[sft]
{TRAINING}
[dpo]
{TRAINING}
[lora]
{TRAINING}
[evaluate]
max_documents = 10
max_pairs = 10
answer_tokens = 4
prompts = ["Say cat"]
built_in = ["tools"]
resamples = 100
[gate]
enabled = false
"""
SPEC = """
validation_fraction = 0.1
[[source]]
name = "text"
rows = "pretrain"
path = "text.jsonl"
[[source]]
name = "chat"
rows = "chat"
path = "chat.jsonl"
[[source]]
name = "pairs"
rows = "preference"
path = "pairs.jsonl"
"""


def write_project(directory: Path) -> dict[str, str]:
    """A data spec with three small files (one bad row among them) and a recipe; the flow's parameters for them."""
    chance = random.Random(0)

    def sentence() -> str:
        return " ".join(chance.choices(WORDS, k=12)) + "."

    def write(name: str, rows: list[dict]) -> None:
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def turns(question: str, answer: str) -> list[dict]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    write("text.jsonl", [{"text": f"Document {i}. {' '.join(sentence() for _ in range(4))}"} for i in range(200)])
    with (directory / "text.jsonl").open("a") as file:
        file.write("this is not json\n")
    write("chat.jsonl", [{"conversations": turns(f"Say {w} {i}", sentence())} for i in range(9) for w in WORDS])
    pairs = [(turns(f"Q {i}?", f"yes {sentence()}"), turns(f"Q {i}?", f"no {sentence()}")) for i in range(100)]
    write("pairs.jsonl", [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs])
    (directory / "spec.toml").write_text(SPEC)
    (directory / "micro.toml").write_text(RECIPE)
    return {"recipe": str(directory / "micro.toml"), "data": str(directory / "spec.toml")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with data, recipe and store, and a real Prefect server for as long as the module runs."""
    directory = tmp_path_factory.mktemp("project")
    home = directory / "home"
    settings = {
        PREFECT_HOME: home / "prefect",
        PREFECT_LOCAL_STORAGE_PATH: home / "prefect" / "storage",
        PREFECT_RESULTS_DEFAULT_SERIALIZER: "json",
    }
    with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
        patch.setenv("MINIMIND_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        write_project(directory)
        with prefect_for_one_run(Console(quiet=True), share=False):
            yield directory


@pytest.fixture(scope="module")
def parameters(project: Path) -> dict[str, str]:
    return {"recipe": str(project / "micro.toml"), "data": str(project / "spec.toml")}


@pytest.fixture(scope="module")
def published(project: Path, parameters: dict[str, str]) -> str:
    """The URI that a full run of the micro recipe gave."""
    return full_pipeline(**parameters)


@pytest.fixture
def tracker(project: Path, published: str) -> Tracker:
    return Tracker(project / "home")


def plan(parameters: dict[str, str], *overrides: str) -> dict[str, bool]:
    """Stage → whether it would be reused."""
    with planning() as steps:
        full_pipeline.fn(**parameters, overrides=list(overrides))
    return {step.label: step.reused for step in steps}


def would_run(parameters: dict[str, str], *overrides: str) -> set[str]:
    return {label for label, reused in plan(parameters, *overrides).items() if not reused}


def test_raw_text_becomes_a_registered_model_that_answers(project: Path, published: str, tracker: Tracker):
    assert published == "models:/minimind-chat/1"
    artifact = tracker.resolve(published, Store())
    loaded = load(artifact.dir)
    assert complete(loaded, [1, 2, 3], sampling=Sampling(max_tokens=3, temperature=0)).tokens
    for file in ("report.md", "report.html", "report.json", "model.safetensors", "tokenizer.json"):
        assert (artifact.dir / file).stat().st_size > 0


def test_every_stage_is_a_finished_run_under_one_parent_with_its_metrics(tracker: Tracker):
    runs = {run.info.run_name: run for run in tracker.client.search_runs([tracker.experiment_id])}
    parent = next(run for name, run in runs.items() if name.startswith("full-pipeline"))
    children = {name: run for name, run in runs.items() if run is not parent}
    assert set(children) == set(STAGES)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    for stage in ("pretrain", "sft", "dpo", "lora"):
        history = tracker.client.get_metric_history(children[stage].info.run_id, "loss")
        assert [m.step for m in history] == list(range(1, len(history) + 1)), stage
        assert children[stage].data.tags["prefect_run"].startswith("http")
    lineage = tracker.client.get_run(children["sft"].info.run_id)
    assert len(lineage.inputs.model_inputs) == 2 and len(lineage.outputs.model_outputs) == 1


def test_every_stage_of_the_registry_has_a_version(tracker: Tracker):
    kinds = ("", "-chat", "-preference")
    data = {f"minimind-{name}{kind}" for name in ("corpus", "tokens") for kind in kinds}
    models = {f"minimind-{name}" for name in ("tokenizer", "pretrain", "sft", "dpo", "lora", "chat")}
    assert tracker.registered_names() == data | models


def test_the_published_models_are_the_champions(published: str, tracker: Tracker):
    for name in ("chat", "pretrain", "sft", "dpo", "lora"):
        assert tracker.resolve(f"models:/minimind-{name}@champion", Store())


def test_the_bad_row_is_kept_aside_with_file_line_and_reason(project: Path, published: str):
    logs = (project / "home" / "artifacts" / "shard").glob("*/dropped/dropped.jsonl")
    (row,) = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    assert (row["line"], row["reason"], row["text"]) == (201, "bad_json", "this is not json")
    assert row["file"].endswith("text.jsonl")


def test_the_flow_run_is_completed_and_its_page_has_figures_and_the_link(published: str):
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        assert {run.state_name for run in runs} == {"Completed"}
        artifacts = {artifact.key: artifact.data for artifact in client.read_artifacts()}
    assert "MLflow run" in artifacts["sft"]
    assert "report-card" in artifacts
    for stage in ("pretrain", "sft", "dpo", "lora"):
        assert artifacts[f"{stage}-curve"].startswith(f"![loss of {stage} by step](data:image/png;base64,iVBOR")
    rows = [line for line in artifacts["stages"].splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows[1:]] == STAGES
    assert all("| made |" in row and "/#/experiments/" in row for row in rows[1:])


def test_a_second_run_runs_nothing(parameters: dict[str, str], published: str, tracker: Tracker):
    before = len(tracker.client.search_runs([tracker.experiment_id]))
    assert would_run(parameters) == set()
    assert full_pipeline(**parameters) == published
    after = tracker.client.search_runs([tracker.experiment_id])
    assert len(after) == before + 1  # the parent of the second run, without a child
    with get_client(sync_client=True) as client:
        states = [run.state_name for run in client.read_task_runs()]
    assert states.count("Cached") == len(STAGES)


AFTER_SFT = {"sft", "dpo", "lora", "evaluate", "publish"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dpo.lr=1e-4", {"dpo", "evaluate", "publish"}),
        ("lora.rank=4", {"lora", "evaluate", "publish"}),
        ("sft.lr=1e-4", AFTER_SFT),
        ("pretrain.seed=1", {"pretrain", *AFTER_SFT}),
        ("evaluate.max_pairs=9", {"evaluate", "publish"}),
        ("sft.processes=2", set()),
        ("pretrain.log_every=7", set()),
        (
            "tokenizer.vocab_size=420",
            {"tokenizer", *(s for s in STAGES if s.startswith("tokens")), "pretrain", *AFTER_SFT},
        ),
    ],
)
def test_one_changed_setting_reruns_exactly_what_depends_on_it(
    parameters: dict[str, str], published: str, override: str, expected: set[str]
):
    assert would_run(parameters, override) == expected


def test_a_plan_names_the_versions_it_would_read_and_how_long_it_took_before(
    parameters: dict[str, str], published: str
):
    """What runs again, of which versions, because of what: without a server, before anything starts."""
    steps = {step.label: step for step in planned({**parameters, "overrides": ["sft.lr=1e-4"]})}
    assert steps["pretrain"].uri == "models:/minimind-pretrain/1" and steps["pretrain"].seconds == 0
    sft = steps["sft"]
    assert sft.reads == {"tokens": "models:/minimind-tokens-chat/1", "model": "models:/minimind-pretrain/1"}
    assert sft.seconds > 0 and sft.seconds_from == "last time"
    assert steps["dpo"].reads["model"] == "sft (new)"
    alone = planned({"recipe": parameters["recipe"], "overrides": ["lora.rank=2"]}, "lora")
    assert [(step.label, step.reused, step.reads["model"]) for step in alone] == [
        ("lora", False, "models:/minimind-sft/1")
    ]
    lines = because(sft)
    assert lines == ["config lr: 0.0005 → 0.0001", "reads  tokens-chat/1, pretrain/1"]


def test_changed_conversations_do_not_retrain_the_base_model(project: Path, parameters: dict[str, str], published: str):
    path = project / "chat.jsonl"
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b"cat", b"cow", 1))
        chain = {f"{stage}-chat" for stage in ("ingest", "clean", "shard", "tokens")}
        assert would_run(parameters) == chain | AFTER_SFT
    finally:
        path.write_bytes(before)


def test_what_forget_plans_is_what_the_pipeline_would_run(project: Path, parameters: dict[str, str], published: str):
    """It is told from the manifests alone, without the recipe and the data spec."""
    listed, spec = project / "leaked.jsonl", project / "without.toml"
    listed.write_text((project / "chat.jsonl").read_text().splitlines()[0])
    told = forget_rows(listed, Store(), trainings(Store()))
    spec.write_text(f'forget = "{listed}"\n{SPEC}')
    again = {stage.label for stage in told.rerun.again}
    assert again == would_run({**parameters, "data": str(spec)})
    assert again == {"clean-chat", "shard-chat", "tokens-chat", *AFTER_SFT}
    told = forget_sources(["pairs"], Store(), trainings(Store()))
    spec.write_text(SPEC.partition('[[source]]\nname = "pairs"')[0])
    assert {stage.label for stage in told.rerun.again} == would_run({**parameters, "data": str(spec)})
    assert "dpo" in told.rerun.gone and told.rerun.commands[1] == "minimind run --recipe micro.toml --data spec.toml"


@pytest.mark.parametrize(
    ("stage", "overrides", "expected"),
    [
        ("sft", ["sft.lr=1e-4"], ["sft", "dpo", "lora", "evaluate", "publish"]),
        ("dpo", ["dpo.beta=0.3"], ["dpo", "evaluate", "publish"]),
        ("evaluate", ["evaluate.max_pairs=9"], ["evaluate", "publish"]),
    ],
)
def test_downstream_goes_the_rest_of_the_way_the_whole_pipeline_would(
    parameters: dict[str, str], published: str, stage: str, overrides: list[str], expected: list[str]
):
    """With the newest inputs being those of the pipeline, one stage and what follows from it are the same artifacts."""
    whole = {step.label: step.parts.fingerprint() for step in planned({**parameters, "overrides": overrides})}
    alone = planned({"recipe": parameters["recipe"], "overrides": overrides, "downstream": True}, stage)
    assert [step.label for step in alone] == expected
    assert {step.label: step.parts.fingerprint() for step in alone} == {label: whole[label] for label in expected}


def test_downstream_of_rows_leads_through_tokenizer_and_base_model(parameters: dict[str, str], published: str):
    steps = planned({**parameters, "kind": "pretrain", "downstream": True}, "clean")
    labels = [step.label for step in steps]
    assert labels[:3] == ["ingest-pretrain", "clean-pretrain", "shard-pretrain"]
    assert labels[3:] == STAGES[STAGES.index("tokenizer") :]
    chat = planned({**parameters, "kind": "chat", "downstream": True}, "shard")
    assert {step.label for step in chat} >= {"tokens-chat", *AFTER_SFT}
    assert not {"tokenizer", "pretrain", "tokens-pretrain"} & {step.label for step in chat}


def test_a_stage_run_alone_takes_its_inputs_from_the_registry(
    parameters: dict[str, str], published: str, tracker: Tracker
):
    uri = lora(recipe=parameters["recipe"], lr=5e-4)
    version = tracker.client.get_model_version("minimind-lora", uri.rpartition("/")[2])
    assert uri == "models:/minimind-lora/2"
    assert version.tags["pipeline"] == "lora"
    assert tracker.client.get_run(version.run_id).data.params["lr"] == "0.0005"


def rows_for_lora(project: Path) -> str:
    """A data spec like the module's, with conversations for LoRA beside the others; some chats are among them."""
    chats = (project / "chat.jsonl").read_text().splitlines(keepends=True)
    (project / "own.jsonl").write_text("".join([*chats[:30], *(row.replace("Say", "Sing") for row in chats[:30])]))
    path = project / "own.toml"
    path.write_text(f'{SPEC}[[source]]\nname = "own"\nrows = "lora"\npath = "own.jsonl"\n')
    return str(path)


def test_lora_reads_rows_of_its_own_where_the_data_spec_has_any(
    project: Path, parameters: dict[str, str], published: str
):
    """And nothing else does: all other stages are what they were."""
    steps = {step.label: step for step in planned({**parameters, "data": rows_for_lora(project)})}
    new = [f"{stage}-lora" for stage in ("ingest", "clean", "shard", "tokens")]
    assert [label for label, step in steps.items() if not step.reused] == [*new, "lora", "evaluate", "publish"]
    assert steps["lora"].reads == {"tokens": "tokens-lora (new)", "model": "models:/minimind-sft/1"}
    assert steps["sft"].uri == "models:/minimind-sft/1"
    chats = {step.label: step for step in planned({**parameters, "overrides": ["lora.rank=2"]})}
    assert chats["lora"].reads["tokens"] == "models:/minimind-tokens-chat/1"
    mixed = {**parameters, "data": str(project / "own.toml"), "overrides": ["lora.mix.chat=0.5"]}
    read = {step.label: step.reads for step in planned(mixed)}["lora"]
    assert (read["tokens"], read["tokens_chat"]) == ("tokens-lora (new)", "models:/minimind-tokens-chat/1")
    assert "lora" not in {step.label for step in planned({**mixed, "data": parameters["data"]})}


def test_preference_training_reads_text_where_its_settings_ask_for_it(parameters: dict[str, str], published: str):
    """The tokens that the base model learnt from, beside the pairs; nothing before it changes."""
    steps = {step.label: step for step in planned({**parameters, "overrides": ["dpo.beside.pretrain=0.5"]})}
    assert [label for label, step in steps.items() if not step.reused] == ["dpo", "evaluate", "publish"]
    assert steps["dpo"].reads["tokens_pretrain"] == "models:/minimind-tokens/1"
    assert "tokens_pretrain" not in {step.label: step for step in planned(parameters)}["dpo"].reads


@pytest.mark.slow
def test_gc_keeps_what_the_registry_names_and_finds_what_it_left_behind(
    parameters: dict[str, str], published: str, tracker: Tracker
):
    """A model that an alias has left is no use to anybody; all that the aliases stand on stays."""
    assert {one.kind for one in removal(unfinished_days=0).leftovers} <= {"rest"}
    before = lora(recipe=parameters["recipe"], lr=3e-3)
    after = lora(recipe=parameters["recipe"], lr=4e-3)
    assert before != after
    paths = {one.path for one in removal(unfinished_days=0).leftovers if one.kind == "artifact"}
    old, new = (tracker.resolve(uri, Store()).fingerprint for uri in (before, after))
    assert f"lora/{old}" in paths and f"lora/{new}" not in paths
    assert {path.partition("/")[0] for path in paths} == {"lora"}


@pytest.mark.slow
def test_a_stage_goes_on_downstream_only_if_asked(parameters: dict[str, str], published: str, tracker: Tracker):
    names = ("lora", "chat")
    before = {name: tracker.client.get_registered_model(f"minimind-{name}").aliases["candidate"] for name in names}
    assert (
        lora(recipe=parameters["recipe"], lr=6e-4, downstream=True)
        == f"models:/minimind-chat/{int(before['chat']) + 1}"
    )
    chat = tracker.resolve("models:/minimind-chat@candidate", Store())
    newest = tracker.resolve("models:/minimind-lora@candidate", Store())
    assert chat.manifest.parents["lora"] == newest.fingerprint
    lora(recipe=parameters["recipe"], lr=7e-4)
    assert tracker.resolve("models:/minimind-chat@candidate", Store()).fingerprint == chat.fingerprint


def test_a_champion_is_what_was_promoted(parameters: dict[str, str], published: str, tracker: Tracker):
    first = tracker.resolve("models:/minimind-lora/1", Store())
    done = promote("models:/minimind-lora/1", force=True)
    assert done.now == "models:/minimind-lora/1" and done.before is not None
    assert tracker.resolve("models:/minimind-lora@champion", Store()).fingerprint == first.fingerprint
    again = promote(str(first.dir))
    assert (again.before, again.now) == (done.now, done.now)
    with pytest.raises(ConfigError, match="is a tokenizer, not a model"):
        promote("models:/minimind-tokenizer/1")


@pytest.mark.slow
def test_lora_learns_from_rows_of_its_own(project: Path, parameters: dict[str, str], published: str, tracker: Tracker):
    """From the files to the model; then the stage alone takes them too. It stands last: the registry knows of them."""
    full_pipeline(recipe=parameters["recipe"], data=rows_for_lora(project))
    model = tracker.resolve("models:/minimind-lora@candidate", Store())
    tokens = tracker.resolve("models:/minimind-tokens-lora@candidate", Store())
    assert tracker.resolve("models:/minimind-corpus-lora@candidate", Store()).label == "shard-lora"
    assert model.manifest.parents["tokens"] == tokens.fingerprint
    (alone,) = planned({"recipe": parameters["recipe"], "overrides": ["lora.rank=2"]}, "lora")
    assert alone.reads["tokens"] == "models:/minimind-tokens-lora/1"
    given = {"recipe": parameters["recipe"], "tokens": "models:/minimind-tokens-chat@candidate"}
    (told,) = planned(given, "lora")
    assert told.reads["tokens"] == "models:/minimind-tokens-chat/1"
    (chats,) = planned(
        {"recipe": parameters["recipe"], "overrides": ["lora.length=64"], "corpus": "models:/minimind-corpus-chat/1"},
        "tokens",
    )
    assert chats.reused, "what LoRA does not read does not follow from its length"
