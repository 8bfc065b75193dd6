"""What the card warns of: each threshold fires on a planted case, and nothing on a healthy one."""

from collections.abc import Mapping, Sequence

from minimind.evaluate.card.card import Curve, Mixture, Share, Training
from minimind.evaluate.card.data import mixture_findings
from minimind.evaluate.card.trainings import training_findings
from minimind.evaluate.findings import findings
from minimind.evaluate.results import (
    Baselines,
    Evaluation,
    Figure,
    Interval,
    ModelResult,
    RewardScore,
    Task,
    TaskResult,
)


def figure(value: float, *, n: int = 300, half: float = 0.04) -> Figure:
    return Figure(value=value, interval=Interval(low=value - half, high=value + half), n=n)


SAID = {"repetition": figure(0.1), "tokens": figure(5), "ended": figure(0.9)}


def model(bits: float = 1.0, *, preference: Figure | None = None, **changes: object) -> ModelResult:
    tasks = {
        "text": TaskResult(figures={"bits_per_byte": figure(bits)}, leaked=0),
        "preference": TaskResult(figures={"accuracy_per_token": preference or figure(0.8)}, leaked=0),
        "exam": TaskResult(figures={"accuracy": figure(0.6, n=50)}, leaked=0),
    }
    result = ModelResult(fingerprint="f", parameters=1, context=8, tasks=tasks, said=SAID)
    return result.replace(**changes)


def evaluation(**changed: ModelResult) -> Evaluation:
    """One with nothing to warn of, but for the models that are given."""
    reward = RewardScore(reference="sft", accuracy=0.8, interval=Interval(low=0.7, high=0.9), margin=1.0)
    tasks = {
        "text": Task(kind="text", items=300, about="", ngram={"bits_per_byte": figure(1.7)}),
        "preference": Task(kind="preference", items=300, about=""),
        "exam": Task(kind="choices", items=50, about="", chance={"accuracy": 0.25}),
    }
    models = {"pretrain": model(), "sft": model(), "dpo": model(reward=reward), "lora": model(), **changed}
    return Evaluation(tasks=tasks, models=models, baselines=Baselines(ngram_order=6, train_bytes=9, xz_after_train=1.9))


def with_task(name: str, result: TaskResult) -> ModelResult:
    healthy = model()
    return healthy.replace(tasks={**healthy.tasks, name: result})


def test_a_healthy_evaluation_warns_of_nothing():
    """A card that always warns is not read."""
    assert findings(evaluation()) == []


def test_text_that_counting_predicts_better_is_told():
    """The first question to a loss is whether it is better than none of the machinery."""
    told = findings(evaluation(pretrain=model(1.8)))
    assert told[0].startswith("Worse than counting") and told[0].endswith(
        "pretrain (1.800). Train longer, or on more text."
    )
    assert findings(evaluation(pretrain=model(1.72)))[0].startswith("No better than counting")  # the interval has both
    assert (
        "Repeated text"
        in findings(evaluation().replace(baselines=Baselines(ngram_order=6, train_bytes=9, xz_after_train=1.2)))[0]
    )


def test_what_a_later_stage_forgot_is_told_beyond_the_interval():
    """sft may lose some, dpo and lora hardly; a loss that the interval of sft covers is no news."""
    assert "Forgetting: sft needs 80% more" in findings(evaluation(sft=model(1.8)))[0]
    assert "Drift: dpo lost 5.0%" in findings(evaluation(dpo=model(1.05)))[0]
    assert findings(evaluation(dpo=model(1.03))) == []


def test_preferences_at_chance_are_told():
    """A preference training that changed nothing looks like a success without the interval."""
    assert "No better than chance" in findings(evaluation(dpo=model(preference=figure(0.52))))[0]
    reward = RewardScore(reference="sft", accuracy=0.5, interval=Interval(low=0.4, high=0.6), margin=0.0)
    assert "No evidence of learning" in findings(evaluation(dpo=model(reward=reward)))[0]


def test_loops_and_endless_answers_are_told():
    """Both make a chat useless, and no loss shows them."""
    alike = {**model().tasks, "open_ended": TaskResult(figures={"same": figure(0.6)})}
    assert "from sft (60%)" in findings(evaluation(sft=model().replace(tasks=alike)))[0]
    loop, endless = {**SAID, "repetition": figure(0.9)}, {**SAID, "ended": figure(0.1)}
    assert "said before by sft (90%)" in findings(evaluation(sft=model(said=loop)))[0]
    assert "Endless answers" in findings(evaluation(sft=model(said=endless)))[0]
    assert findings(evaluation(pretrain=model(said=endless))) == []  # a text has no end


def test_figures_of_few_items_are_told():
    """An interval of twenty points is easily overlooked."""
    told = findings(evaluation(sft=model(preference=figure(0.8, n=12))))
    assert told == [told[0]] and "preference (12)" in told[0]
    assert (
        "exam (9)" in findings(evaluation(sft=with_task("exam", TaskResult(figures={"accuracy": figure(0.6, n=9)}))))[0]
    )


def test_items_that_were_seen_are_told_with_what_is_left_without_them():
    """A figure on items that were learnt by heart says nothing of new ones."""
    seen = {"accuracy": figure(0.6, n=50)}
    some = TaskResult(figures=seen, clean={"accuracy": figure(0.4, n=40)}, leaked=10)
    told = findings(evaluation(sft=with_task("exam", some), dpo=model(reward=evaluation().models["dpo"].reward)))
    assert len(told) == 1 and told[0].startswith(
        "Seen before: 10 of 50 items of exam stand in what sft was trained on; "
    )
    assert "on the 40 others accuracy of sft is 40.0% instead of 60.0%" in told[0]
    every = TaskResult(figures=seen, leaked=50)
    assert "say nothing of new ones" in findings(evaluation(lora=with_task("exam", every)))[0]
    few = TaskResult(figures={"bits_per_byte": figure(1.0)}, leaked=2)
    assert findings(evaluation(sft=with_task("text", few))) == []  # 2 of 300


def training(
    loss: Sequence[float], validation: Sequence[float], *, figures: Mapping[str, int] | None = None
) -> Training:
    """Losses of every hundredth step."""
    curves = [
        Curve(metric=name, steps=[100 * (at + 1) for at in range(len(values))], values=list(values))
        for name, values in (("loss", loss), ("validation_loss", validation))
    ]
    return Training(stage="sft", seconds=1.0, figures=dict(figures or {}), curves=curves)


def test_healthy_curves_warn_of_nothing():
    """A last look is at all held-out rows and those before at a sample: its jump is none."""
    falling = training([3.0, 2.5, 2.2, 2.1, 2.0], [3.1, 2.7, 2.4, 2.3, 2.45], figures={"loss_spikes": 0})
    assert list(training_findings([falling, training([2.0], []).replace(curves=[])])) == []


def test_overfitting_is_told_by_the_rise_and_by_the_gap():
    """Either the held-out loss rises again, or the training loss goes far below it."""
    (risen,) = training_findings([training([3.0, 2.0, 1.5, 1.4, 1.3], [3.1, 2.0, 2.1, 2.3, 2.3])])
    assert risen.startswith("Overfit: the validation loss of sft rose by 15%, from 2.000 at step 200 to 2.300.")
    (gap,) = training_findings([training([3.0, 1.5, 0.8, 0.5, 0.4], [3.1, 2.4, 2.3, 2.2, 2.2])])
    assert "a loss of 0.400 on what it is trained on and of 2.200" in gap


def test_loss_spikes_are_told():
    """They are counted in training; the card says what to do."""
    (told,) = training_findings([training([2.0], [2.1], figures={"loss_spikes": 3})])
    assert told.startswith("Loss spikes") and "sft (3)" in told


def mixture(*trained: int) -> Mixture:
    shares = [
        Share(source=f"s{at}", rows=1, bytes=1, tokens=count, trained_tokens=count, share=count / sum(trained))
        for at, count in enumerate(trained)
    ]
    return Mixture(kind="chat", sources=shares)


def test_a_source_that_is_nearly_all_is_told():
    """One alone is what was asked for; one beside others that hardly count is not."""
    assert list(mixture_findings([mixture(100), mixture(80, 20)])) == []
    (told,) = mixture_findings([mixture(97, 2, 1)])
    assert told.startswith("Imbalance: of the trained tokens 97.0% of chat rows are of s0")
