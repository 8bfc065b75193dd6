"""lm-eval driven by our scorer: the figures of its own backend, and its requests answered by the definition."""

import importlib
import json
import random
import sys
from os.path import commonprefix
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import chinese, english
from engine_parts import recomputed
from export_parts import DENSE, model_directory

from minimind.errors import ConfigError, MissingError, ServiceError
from minimind.infer.generate import load_pair
from minimind.tokens.chat import render, render_prompt
from minimind.tokens.tokenizer import Tokenizer

TASK = """
task: quiz
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def model_dir(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"), DENSE, tokenizer)


@pytest.fixture(scope="module")
def lm(model_dir: Path) -> Any:
    """The model as the harness has it; imported here, for the harness takes a second."""
    pytest.importorskip("lm_eval")
    from minimind.evaluate.lm_eval import MiniMindLM

    return MiniMindLM(model_dir, device="cpu", precision="fp32", context=128)


@pytest.fixture
def quiz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task of 20 made-up questions, half of them Chinese; nothing of it needs a network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rng = random.Random(5)
    rows = []
    for number in range(20):
        made = english if number % 2 else chinese
        choices = [made(rng)[: rng.randint(4, 30)].strip() for _ in range(2 + number % 3)]
        rows.append({"question": made(rng), "choices": choices, "answer": rng.randrange(len(choices))})
    file = tmp_path / "quiz" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (file.parent / "quiz.yaml").write_text(TASK.format(file=file), encoding="utf-8")
    return file.parent


def request(kind: str, *arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def by_definition(model_dir: Path, prefix: list[int], ids: list[int]) -> tuple[float, bool]:
    """Log-probability of `ids` behind `prefix`, and whether each was the likeliest: one plain forward pass."""
    model, _ = load_pair(model_dir, "cpu")
    with torch.inference_mode():
        log_probs_TV = model(torch.tensor([prefix + ids]))[0].double().log_softmax(-1)[len(prefix) - 1 : -1]
    own = log_probs_TV.gather(1, torch.tensor(ids)[:, None])
    return float(own.sum()), bool((log_probs_TV.argmax(-1) == torch.tensor(ids)).all())


@pytest.mark.slow
def test_the_harness_gets_the_figures_of_its_own_backend(quiz: Path, model_dir: Path, tmp_path: Path):
    """Same weights, same ids: so what we publish can be compared with what others measured with lm-eval.

    The stock tokenizer is told to put <|endoftext|> first, as documents have it in training.
    """
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    from minimind.evaluate.lm_eval import run_lm_eval
    from minimind.export.exporting import export_model
    from minimind.export.settings import ExportConfig

    folder = tmp_path / "hf"
    export_model(model_dir, folder, config=ExportConfig(to=("hf",), dtype="fp32"))
    stock = AutoTokenizer.from_pretrained(str(folder), bos_token="<|endoftext|>", add_bos_token=True)
    theirs = HFLM(str(folder), tokenizer=stock, add_bos_token=True, dtype="float32", device="cpu", batch_size=4)
    tasks = TaskManager(include_path=str(quiz), include_defaults=False)
    expected = simple_evaluate(theirs, tasks=["quiz"], task_manager=tasks)
    found = run_lm_eval(model_dir, ["quiz"], include_path=quiz, device="cpu", precision="fp32")
    assert expected is not None

    def scores(results: Any) -> list[list[tuple[float, bool]]]:
        samples = sorted(results["samples"]["quiz"], key=lambda sample: sample["doc_id"])
        return [sample["filtered_resps"] for sample in samples]

    pairs = list(zip(scores(found), scores(expected), strict=True))
    assert len(pairs) == 20
    for ours, others in pairs:
        assert [log_p for log_p, _ in ours] == pytest.approx([log_p for log_p, _ in others], abs=1e-4)
        assert [greedy for _, greedy in ours] == [bool(greedy) for _, greedy in others]
    for metric in ("acc,none", "acc_norm,none", "acc_stderr,none"):
        assert found["results"]["quiz"][metric] == expected["results"]["quiz"][metric]
    assert found["config"]["model_dtype"] == "torch.float32"


def test_continuations_are_scored_by_the_definition_whatever_their_order(lm: Any, model_dir: Path):
    """Requests are grouped by context and come back in the order in which they were asked.

    A piece of the vocabulary that reaches from a context into what follows (of 今天天气 there is one) is scored whole.
    """
    tokenizer = Tokenizer.load(model_dir)
    start = tokenizer.specials.end_of_text
    asked = [("The boat", " sails"), ("", "The"), ("The boat", " sails over a river"), ("今天", "天气很好")]
    found = lm.loglikelihood([request("loglikelihood", *pair) for pair in asked])
    for (context, continuation), (log_p, greedy) in zip(asked, found, strict=True):
        whole = [start, *tokenizer.encode(context + continuation)]
        prefix = commonprefix([[start, *tokenizer.encode(context)], whole])
        expected = by_definition(model_dir, prefix, whole[len(prefix) :])
        assert log_p == pytest.approx(expected[0], abs=1e-4) and greedy == expected[1]


def test_greedy_continuations_are_told(lm: Any, model_dir: Path):
    """Tasks like LAMBADA count nothing else."""
    model, tokenizer = load_pair(model_dir, "cpu")
    prompt = [tokenizer.specials.end_of_text, *tokenizer.encode("The boat")]
    likeliest = recomputed(model, prompt, 1)
    text = tokenizer.decode(likeliest)
    other = "z" if text != "z" else "q"
    assert tokenizer.encode(f"The boat{text}") == [*prompt[1:], *likeliest]
    pairs = [("The boat", text), ("The boat", other)]
    assert [greedy for _, greedy in lm.loglikelihood([request("loglikelihood", *p) for p in pairs])] == [True, False]


def test_blanks_at_the_end_of_a_context_belong_to_the_continuation(lm: Any):
    """As in the harness's own backends: the same text cut elsewhere is not scored otherwise."""
    one, other = lm.loglikelihood(
        [request("loglikelihood", "The boat ", "sails"), request("loglikelihood", "The boat", " sails")]
    )
    assert one == other


def test_thousands_of_continuations_of_nothing_do_not_become_one_row(model_dir: Path, lm: Any):
    """Metrics that subtract the unconditional log-probability ask so; attention over one row would be quadratic."""
    from minimind.evaluate.continuations import encode_question
    from minimind.evaluate.lm_eval import _parts

    words = [f"word {number}" for number in range(300)]
    question, _ = encode_question(Tokenizer.load(model_dir), "", words, max_tokens=64)
    runs = list(_parts(question, 100))
    assert [number for run in runs for number in range(300)[run]] == list(range(300))
    assert all(sum(map(len, question.choices[run])) < 100 for run in runs) and len(runs) > 10
    few = lm.loglikelihood([request("loglikelihood", "", word) for word in words[:2]])
    many = lm.loglikelihood([request("loglikelihood", "", word) for word in words])
    assert [log_p for log_p, _ in many[:2]] == pytest.approx([log_p for log_p, _ in few], abs=1e-4)


def test_whole_texts_are_scored_from_their_start(lm: Any, model_dir: Path):
    """What perplexities of lm-eval are made of; one token of a document is given, <|endoftext|>."""
    tokenizer = Tokenizer.load(model_dir)
    text = "The boat sails. 今天天气很好。"
    (found,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    expected, _ = by_definition(model_dir, [tokenizer.specials.end_of_text], tokenizer.encode(text))
    assert found == pytest.approx(expected, abs=1e-4)


def test_answers_are_greedy_and_end_before_a_stop_string(lm: Any, model_dir: Path):
    """Generation tasks compare strings, so what stands before the stop string is all that may come back."""
    model, tokenizer = load_pair(model_dir, "cpu")
    prompt = [tokenizer.specials.end_of_text, *tokenizer.encode("The boat")]
    text = tokenizer.decode_bytes(recomputed(model, prompt, 12)).decode("utf-8", "replace")
    stop = text[len(text) // 2 :][:2]
    plain, stopped = lm.generate_until(
        [
            request("generate_until", "The boat", {"until": [], "max_gen_toks": 12}),
            request("generate_until", "The boat", {"until": [stop, ""], "max_gen_toks": 12, "do_sample": False}),
        ]
    )
    assert plain == text and stopped == text[: text.index(stop)]


def test_settings_of_a_request_reach_the_sampler(lm: Any, caplog: pytest.LogCaptureFixture):
    """A task that samples must not be answered greedily, and what is ignored is said."""
    from minimind.evaluate.lm_eval import _sampling

    told = {"do_sample": True, "temperature": 0.5, "top_k": 7, "until": "\n", "max_new_tokens": 9, "num_beams": 2}
    sampling = _sampling(told)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.stop) == (0.5, 7, 1.0, ("\n",))
    assert sampling.max_tokens == 9 and "num_beams" in caplog.text
    assert _sampling({"temperature": 0.5, "do_sample": False}).temperature == 0
    with pytest.raises(ConfigError, match="lm-eval's generation_kwargs: `top_p`"):
        _sampling({"do_sample": True, "temperature": 1.0, "top_p": 7})
    with pytest.raises(ConfigError, match="200 new tokens .*sees 128 at once"):
        lm.generate_until([request("generate_until", "a", {"until": [], "max_gen_toks": 200})])


def test_chats_are_asked_with_the_ids_of_the_chat_format(lm: Any, model_dir: Path):
    """The harness hands the rendered text back; reading its tags as text would ask something else."""
    tokenizer = Tokenizer.load(model_dir)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say <|im_end|> twice."}]
    context = lm.apply_chat_template(turns)
    assert context.endswith("<|im_start|>assistant\n") and lm.chat_template(True) and lm.tokenizer_name
    ((found, _),) = lm.loglikelihood([request("loglikelihood", context, "Bread")])
    expected, _ = by_definition(model_dir, render_prompt(turns, tokenizer), tokenizer.encode("Bread"))
    assert found == pytest.approx(expected, abs=1e-4)
    begun = [*turns, {"role": "assistant", "content": "The answer is"}]
    open_context = lm.apply_chat_template(begun, add_generation_prompt=False)
    ids = render(begun, tokenizer).ids
    cut = ids[: len(ids) - 1 - ids[::-1].index(tokenizer.specials.im_end)]
    ((found, _),) = lm.loglikelihood([request("loglikelihood", open_context, " bread")])
    expected, _ = by_definition(model_dir, cut, tokenizer.encode(" bread"))
    assert open_context.endswith("The answer is") and found == pytest.approx(expected, abs=1e-4)


def test_unknown_tasks_are_one_line(lm: Any, model_dir: Path, quiz: Path):
    """The mistake everybody makes first; the harness itself answers with a traceback."""
    from lm_eval.tasks import TaskManager

    from minimind.evaluate.lm_eval import _named, run_lm_eval

    tasks = TaskManager(include_path=str(quiz), include_defaults=False)  # its own tasks take half a minute to list
    assert _named("qu*", tasks) == ["quiz"] and _named(str(quiz / "quiz.yaml"), tasks) == [str(quiz / "quiz.yaml")]
    with pytest.raises(ConfigError, match=r"lm-eval has no task `quizz` \(did you mean `quiz`\?\)"):
        _named("quizz", tasks)
    with pytest.raises(ConfigError, match="no task `physics`; `lm_eval ls tasks` lists"):
        _named("physics", tasks)
    with pytest.raises(ConfigError, match="is no folder"):
        run_lm_eval(model_dir, ["quiz"], include_path=quiz / "gone")


def test_data_sets_out_of_reach_are_one_line(
    lm: Any, model_dir: Path, quiz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Most tasks fetch theirs when they are first run."""
    import datasets

    from minimind.evaluate.lm_eval import run_lm_eval

    text = TASK.format(file="none").replace("dataset_path: json", "dataset_path: nobody/nothing")
    (quiz / "quiz.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ServiceError, match="lm-eval quiz: a data set cannot be fetched .*nobody/nothing.*HF_HOME"):
        run_lm_eval(model_dir, ["quiz"], include_path=quiz, device="cpu", precision="fp32")


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch):
    """The harness is no dependency of the pipeline; who has it not is told the command."""
    monkeypatch.delitem(sys.modules, "minimind.evaluate.lm_eval", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingError, match=r"no module lm_eval.*pip install 'minimind-pipeline\[lm-eval\]'"):
        importlib.import_module("minimind.evaluate.lm_eval")
