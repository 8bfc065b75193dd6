"""`minimind verify`: what it runs, what it says, and that it says no where bits differ."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minimind.artifact import Store
from minimind.cli import app
from minimind.errors import ConfigError
from minimind.tokens.token_set import TokenSet
from minimind.train import verify
from minimind.train.stage_configs import CONFIGS, TrainRun
from minimind.train.trial import LENGTH, Trial
from minimind.train.verify import Outcome, Subject, prove_invariance, prove_resume


def quiet(line: str) -> None:
    """Says nothing."""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[TrainRun]:
    """Trainings that are not run: weights are those of `exact`, ranks and size of a micro-batch as promised."""
    started: list[TrainRun] = []

    def train(run: TrainRun, name: str, moments: object, tell: object, *, then: object = None) -> Outcome:
        started.append(run)
        return outcome(name, run.config.num_micro, f"{run.config.num_micro}")

    monkeypatch.setattr(verify, "_train", train)
    monkeypatch.setattr(Trial, "_make_inputs", lambda self: dict.fromkeys(("tokens", "tokenizer", "model"), self.root))
    return started


def outcome(name: str, micro_batches: int, weights: str, *, loss: float = 2.0) -> Outcome:
    return Outcome(
        name=name,
        ranks=1,
        accumulated=1,
        micro_batches=micro_batches,
        kills=[],
        seconds=1.0,
        loss=loss,
        weights=weights,
        optimizer="o",
        metrics="m",
    )


def test_layouts_cut_one_batch_into_the_same_micro_batches(runs: list[TrainRun], tmp_path: Path) -> None:
    """Else the proof would compare trainings on different batches, or of different rounding."""
    proof = prove_invariance(tmp_path, Subject("sft", {}), layouts=[(1, 4), (2, 2), (4, 1)], seed=0, tell=quiet)
    assert proof.equal and len(proof.outcomes) == 5
    assert [o.name for o in proof.outcomes[3:]] == ["1 × 4, then 2 × 2", "2 × 2, then 4 × 1"]
    assert len({run.config.batch_tokens for run in runs}) == 1
    assert {run.config.num_micro for run in runs} == {4}
    assert [run.config.processes for run in runs] == [1, 2, 4, 1, 2]
    assert all(run.config.exact for run in runs)


def test_micro_batches_of_other_sizes_need_equal_losses_only(
    runs: list[TrainRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 × 4 and 1 × 2 round differently, and that is said."""
    layouts = [(1, 4), (1, 2)]
    proof = prove_invariance(tmp_path, Subject("sft", {}), layouts=layouts, seed=0, tell=quiet)
    assert proof.equal and "apart" in proof.verdict
    losses = iter((2.0, 2.1))
    monkeypatch.setattr(
        verify, "_train", lambda run, *_, **__: outcome("", run.config.num_micro, "", loss=next(losses))
    )
    (tmp_path / "again").mkdir()
    assert not prove_invariance(tmp_path / "again", Subject("sft", {}), layouts=layouts, seed=0, tell=quiet).equal


@pytest.mark.parametrize("what", ["weights", "optimizer", "metrics"])
def test_one_differing_digest_is_a_no_and_exit_code_1(
    what: str, runs: list[TrainRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof that cannot fail proves nothing."""
    found = iter((outcome("a", 2, "w"), outcome("b", 2, "w").replace(**{what: "other"})))
    monkeypatch.setattr(verify, "_train", lambda *_, **__: next(found))
    result = CliRunner().invoke(app, ["verify", "resume", "--stage", "sft", "--json"])
    assert result.exit_code == 1
    proof = json.loads(result.stdout)
    assert not proof["equal"] and "OTHER BITS" in proof["verdict"]


def test_kills_come_at_other_moments_with_another_seed() -> None:
    """And at the same ones with the same, so that a failure can be looked for again."""
    moments = verify._moments(5, 0)
    assert moments == verify._moments(5, 0) != verify._moments(5, 1)
    assert [step for step, _ in moments] == sorted({step for step, _ in moments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "--stage", "sfd"], "give one of pretrain, sft, dpo, lora, distill"),
        (["resume", "--kills", "0"], "--kills 0: give 1 to 19"),
        (["resume", "--ranks", "9"], "--ranks 9: give 1 to 8"),
        (["invariance", "--world", "1,2"], "give as many of both"),
        (["invariance", "--world", "1,2", "--accum", "4,two"], "write numbers with commas"),
        (["invariance", "--world", "3", "--accum", "1"], "ranks are 1, 2, 4, 8"),
        (["invariance", "--world", "1,1", "--accum", "7,61"], "a batch of 854 rows, above 256"),
        (["resume", "--stage", "distill", "--recipe", "quickstart"], r"has no section [distill]"),
    ],
)
def test_what_cannot_be_proven_is_refused(arguments: list[str], message: str) -> None:
    """Before minutes are spent."""
    if "--accum" not in arguments and arguments[0] == "invariance":
        arguments = [*arguments, "--accum", "4"]
    result = CliRunner().invoke(app, ["verify", *arguments])
    assert isinstance(result.exception, ConfigError) and result.exception.exit_code == 2
    assert message in str(result.exception)


@pytest.mark.parametrize("stage", ["pretrain", "dpo"])
def test_the_rows_of_a_trial_fit_and_are_the_same_again(stage: str, tmp_path: Path) -> None:
    """Twice from nothing: the token sets have the same fingerprint, and no row is too long."""
    fingerprints = set()
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        trial = Trial(root, stage)  # type: ignore[arg-type]
        settings = verify._settings(Subject(stage, {}), rows=8, micro_rows=2, exact=True)  # type: ignore[arg-type]
        run = trial.run("run", settings)
        assert isinstance(run.config, CONFIGS[stage]) and run.config.num_micro == 4
        tokens = TokenSet.open(run.inputs["tokens"] / "train")
        assert tokens.num_documents > 64 and (stage == "pretrain" or tokens.longest_document <= LENGTH)
        assert TokenSet.open(run.inputs["tokens"] / "val").num_documents
        fingerprints.add(next(a.fingerprint for a in Store(root).all() if a.kind == "tokens"))
    assert len(fingerprints) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "ranks"), [("sft", 1), ("pretrain", 2)])
def test_resume_is_proven_with_real_kills(stage: str, ranks: int, tmp_path: Path) -> None:
    """The whole way, on this machine."""
    proof = prove_resume(tmp_path, Subject(stage, {}), kills=2, ranks=ranks, seed=3, tell=quiet)  # type: ignore[arg-type]
    assert proof.equal and len(proof.outcomes[1].kills) == 2


@pytest.mark.slow
def test_invariance_is_proven_with_real_processes(tmp_path: Path) -> None:
    """One rank, two, and a change in mid-run under a kill."""
    proof = prove_invariance(tmp_path, Subject("dpo", {}), layouts=[(1, 4), (2, 2)], seed=0, tell=quiet)
    assert proof.equal and len(proof.outcomes) == 3 and len(proof.outcomes[2].kills) == 1
