"""zero1 and fsdp: the training of ddp, with less memory on each rank, and checkpoints that any of them reads.

The slow tests start real ranks over gloo; the fast ones cut models for ranks that are not there.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_parts import ONE_RANK, TINY, Pattern

from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.train.deepspeed_engine import engine_config
from minimind.train.fsdp import require_even_shares
from minimind.train.objectives import Tensors, next_token
from minimind.train.optimizer import make_optimizers
from minimind.train.parallel import Ranks
from minimind.train.sharding import Layout, Zero1
from minimind.train.stage_configs import SftConfig
from minimind.train.strategy import make_strategy

CONFIG = SftConfig(tokens=1, length=24, batch_tokens=8 * 24, warmup_steps=0, optimizer="muon")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_row_is_stepped_by_exactly_one_rank_and_about_as_many_by_each(optimizer: str) -> None:
    """A row that nobody steps would never learn; one that two step would be theirs in turn."""
    stepped: dict[str, list[range]] = {}
    sizes = []
    for rank in range(3):
        model = Transformer(TINY)
        optimizers = make_optimizers(model, CONFIG.replace(optimizer=optimizer), dtype=torch.float32)
        layout = Zero1(optimizers, model, Ranks(rank, 3, torch.device("cpu"))).layout
        for piece in layout.stepped:
            stepped.setdefault(piece.name, []).append(range(piece.start, piece.stop))
        sizes.append(sum(p.numel() for o in optimizers for group in o.param_groups for p in group["params"]))
        assert sizes[-1] == sum(piece.tensor.numel() for piece in layout.stepped)
    for name, parameter in Transformer(TINY).named_parameters():
        assert sorted(row for rows in stepped[name] for row in rows) == list(range(len(parameter)))
    assert max(sizes) <= 1.2 * min(sizes)


def test_muon_gets_whole_matrices() -> None:
    """Half of a matrix is orthogonalised into something else than half of the result."""
    for rank in range(2):
        model = Transformer(TINY)
        optimizers = make_optimizers(model, CONFIG, dtype=torch.float32)
        layout = Zero1(optimizers, model, Ranks(rank, 2, torch.device("cpu"))).layout
        matrices = [piece for piece in layout.stepped if ".layers." in piece.name and piece.tensor.ndim == 2]
        assert matrices and all(piece.is_whole for piece in matrices)


def test_one_rank_divides_nothing() -> None:
    """A recipe for two ranks must run on a machine with one, checkpoints of two included."""
    model = Transformer(TINY)
    strategy = make_strategy(CONFIG.replace(parallel="fsdp"), model, ONE_RANK)
    strategy.give(make_optimizers(model, CONFIG, dtype=torch.float32))
    assert strategy.layout == Layout.whole(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 7 * 24, "optimizer": "adamw"}, "`batch_tokens` 168 holds 7 .*, which 2 ranks do not divide"),
        ({}, '`optimizer` "muon" needs whole matrices, `parallel` "fsdp" cuts them; use "zero1"'),
    ],
)
def test_what_fsdp_cannot_do_is_said_at_once(changes: dict[str, object], message: str) -> None:
    """An odd batch would leave one rank waiting for the other for ever."""
    with pytest.raises(ConfigError, match=message):
        require_even_shares(CONFIG.replace(parallel="fsdp", **changes), Ranks(0, 2, torch.device("cpu")))


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_activations_give_the_same_gradient_to_the_bit(experts: int, dtype: torch.dtype) -> None:
    """The switch says where memory goes; it must not be a part of a model's identity."""
    mixture = {"num_experts": experts, "experts_per_token": 2, "balance_coefficient": 0.1} if experts else {}
    shape = TINY.replace(**mixture)
    gradients, held = [], []
    for recompute in (False, True):
        model = Transformer(shape, compute_dtype=dtype)
        for layer in model.model.layers:
            layer.recompute = recompute
        nbytes = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal nbytes
            nbytes += tensor.nbytes
            return tensor

        batch = Tensors.of(Pattern().batch(0), torch.device("cpu"))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = next_token().loss(model, batch)
        held.append(nbytes)
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert held[1] < 0.6 * held[0]


RANKS = """
import dataclasses, json, math, sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from training_parts import TINY, Pattern
from minimind.model.lora import apply_lora
from minimind.model.transformer import Transformer
from minimind.train.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from minimind.train.loop import Progress, Training, train
from minimind.train.objectives import Tensors, next_token
from minimind.train.optimizer import make_optimizers
from minimind.train.parallel import join
from minimind.train.stage_configs import SftConfig
from minimind.train.strategy import make_strategy

def trained(case, ranks, *, steps, directory, resume=False):
    config = SftConfig(tokens=1, length=24, batch_tokens=8 * 24, micro_tokens=48, warmup_steps=0, lr=1e-2, log_every=1,
                       **{k: case[k] for k in ("parallel", "optimizer", "deepspeed")})
    model = Transformer(TINY.replace(num_experts=case["experts"], experts_per_token=min(2, case["experts"])))
    for layer in model.model.layers:
        layer.recompute = case["recompute"]
    if case["lora"]:
        apply_lora(model, rank=2, alpha=4, targets=("q_proj",), seed=0)
    strategy = make_strategy(config, model, ranks)
    strategy.give(make_optimizers(model, config, dtype=torch.float32))
    optimizers = strategy.optimizers
    progress = Progress()
    if resume:
        found, _ = find_checkpoint(directory, run="this")
        with strategy.to_load() as (layout, states):
            progress = load_checkpoint(found, model=model, optimizers=states, ranks=ranks, layout=layout)
    objective = next_token()
    if case["bad_step"] is not None:
        function = objective.function
        def once_infinite(model, batch):
            found = function(model, batch)
            return found._replace(sum=found.sum * (math.inf if progress.step == case["bad_step"] else 1))
        objective = dataclasses.replace(objective, function=once_infinite)
    training = Training(config=config, total_steps=6, model=model, objective=objective, batches=Pattern(),
                        optimizers=optimizers, gradients=strategy.gradients, ranks=ranks, events=None)
    if steps < 6:
        def stop(progress):
            if progress.step == steps:
                with strategy.to_save() as (layout, states):
                    assert save_checkpoint(directory, progress, run="this", model=model, optimizers=states,
                                           ranks=ranks, events_offset=0, layout=layout) is None
                raise KeyboardInterrupt
        training = dataclasses.replace(training, save=stop, config=config.replace(checkpoint_steps=steps))
    loss = None
    try:
        loss = train(training, progress)["loss"]
    except KeyboardInterrupt:
        pass
    state = sum(v.nbytes for o in optimizers for s in o.state.values() for v in s.values())
    whole = strategy.whole_model()
    weights = torch.cat([p.detach().flatten() for p in whole.parameters()]) if ranks.is_first else None
    return weights, loss, state

with join("cpu") as ranks:
    results = []
    for number, case in enumerate(json.loads(Path(sys.argv[2]).read_text())):
        directory = Path(sys.argv[3]) / case.get("from", f"{case['parallel']}{number}")
        ranks.from_first(0)
        results.append(trained(case, ranks, directory=directory, steps=case.get("steps", 6), resume="from" in case))
    if ranks.is_first:
        torch.save([tuple(r) for r in results], sys.argv[4])
"""


def ranks_train(
    processes: int, cases: list[dict[str, object]], directory: Path
) -> list[tuple[torch.Tensor, float, int]]:
    """Weights, last loss, and bytes of optimizer state on the first rank, of each case."""
    script, plan, out = directory / "ranks.py", directory / "plan.json", directory / "results.pt"
    script.write_text(RANKS)
    plain = {"parallel": "ddp", "optimizer": "adamw", "deepspeed": None, "experts": 0}
    plain |= {"lora": False, "recompute": False, "bad_step": None}
    plan.write_text(json.dumps([plain | case for case in cases]))
    command = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes), str(script)]
    arguments = [str(Path(__file__).parent), str(plan), str(directory), str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).norm()) < 1e-5 * float(other.norm())


@pytest.mark.slow
def test_zero1_is_ddp_to_the_bit_with_half_the_state(tmp_path: Path) -> None:
    """Each element goes through the same arithmetic, only on one rank instead of on all."""
    cases = [
        {"parallel": parallel, **case}
        for case in ({"optimizer": "muon"}, {"optimizer": "adamw"}, {"optimizer": "muon", "experts": 4}, {"lora": True})
        for parallel in ("ddp", "zero1")
    ]
    results = ranks_train(2, cases, tmp_path)
    for (weights, loss, state), (shared, shared_loss, shared_state) in zip(results[::2], results[1::2], strict=True):
        assert torch.equal(weights, shared)
        assert loss == shared_loss
        assert shared_state < 0.6 * state


@pytest.mark.slow
def test_fsdp_is_ddp_but_for_the_order_of_sums(tmp_path: Path) -> None:
    """Four micro-batches a step, of which the last one sends; a tied embedding that is used twice; frozen weights."""
    kinds = ({}, {"experts": 4}, {"lora": True})
    cases = [
        {**case, **how}
        for case in kinds
        for how in ({"parallel": "ddp"}, {"parallel": "fsdp"}, {"parallel": "fsdp", "recompute": True})
    ]
    results = ranks_train(2, cases, tmp_path)
    for whole, *shared in zip(results[::3], results[1::3], results[2::3], strict=True):
        for weights, loss, state in shared:
            assert close(weights, whole[0])
            assert loss == pytest.approx(whole[1], rel=1e-6)
            assert state < 0.6 * whole[2]


@pytest.mark.slow
def test_a_checkpoint_goes_on_at_another_number_of_ranks_and_another_kind(tmp_path: Path) -> None:
    """ddp, zero1 and fsdp write; two ranks and one read, each kind what the others wrote."""
    written = [{"parallel": kind, "steps": 3} for kind in ("ddp", "zero1", "fsdp")]
    ranks_train(2, written, tmp_path)
    names = ["ddp0", "zero11", "fsdp2"]
    assert len(list((tmp_path / "fsdp2" / "step-00000003").glob("*-of-00002.safetensors"))) == 4
    whole, *resumed = ranks_train(
        2, [{}, *({"parallel": kind, "from": name} for name in names for kind in ("ddp", "zero1", "fsdp"))], tmp_path
    )
    for number, (weights, loss, _) in enumerate(resumed):
        assert close(weights, whole[0]), number
        assert loss == pytest.approx(whole[1], rel=1e-6)
    for weights, _, _ in (resumed[0], resumed[1], resumed[3], resumed[4]):  # ddp and zero1 among themselves
        assert torch.equal(weights, whole[0])
    for weights, loss, _ in ranks_train(1, [{"parallel": "fsdp", "from": name} for name in names], tmp_path):
        assert close(weights, whole[0])
        assert loss == pytest.approx(whole[1], rel=1e-6)
    ranks_train(1, [{"parallel": "ddp", "steps": 3}], tmp_path)  # one rank writes, two go on
    for weights, loss, _ in ranks_train(
        2, [{"parallel": kind, "from": "ddp0"} for kind in ("zero1", "fsdp")], tmp_path
    ):
        assert close(weights, whole[0])
        assert loss == pytest.approx(whole[1], rel=1e-6)


def zero(stage: int, *, table: dict[str, object] | None = None, **case: object) -> dict[str, object]:
    """A case under DeepSpeed."""
    return {"parallel": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage, **(table or {})}}, **case}


@pytest.mark.slow
def test_deepspeed_is_ddp_but_for_the_order_of_sums(tmp_path: Path) -> None:
    """All stages: a tied embedding used twice, frozen weights, activations made again, a step that is skipped."""
    pytest.importorskip("deepspeed")
    kinds: list[dict[str, object]] = [{}, {"lora": True}, {"experts": 4}, {"recompute": True}, {"bad_step": 3}]
    offloaded = {"offload_optimizer": {"device": "cpu"}}
    cases = [zero(stage, **kind) for kind in kinds for stage in (1, 2, 3)]
    cases += [zero(stage, table=offloaded, **kind) for kind in kinds[::4] for stage in (2, 3)]
    results = dict(enumerate(ranks_train(2, [*kinds, *cases], tmp_path)))
    for number, case in enumerate(cases, len(kinds)):
        kind = {key: value for key, value in case.items() if key not in ("parallel", "deepspeed")}
        weights, loss, state = results[number]
        whole = results[kinds.index(kind)]
        assert close(weights, whole[0]), case
        assert loss == pytest.approx(whole[1], rel=1e-6), case
        assert 0 < state < 0.6 * whole[2], case


@pytest.mark.slow
def test_a_checkpoint_of_deepspeed_goes_on_anywhere_and_is_a_resume(tmp_path: Path) -> None:
    """Two ranks write, two and three read: also stages of each other, ddp's, and parts that ranks do not divide."""
    pytest.importorskip("deepspeed")
    ranks_train(2, [zero(2, steps=3), zero(3, steps=3), {"steps": 3}], tmp_path)
    names = ["deepspeed0", "deepspeed1", "ddp2"]
    kinds = [zero(2), zero(3), {}]
    cases = [{**kind, "from": name} for kind in kinds for name in names]
    *whole, a, b, c, d, e, f, g, h, i = ranks_train(2, [*kinds, *cases], tmp_path)
    for weights, loss, _ in (a, b, c, d, e, f, g, h, i):
        assert close(weights, whole[2][0])
        assert loss == pytest.approx(whole[2][1], rel=1e-6)
    for resumed, uninterrupted in zip((a, e, i), whole, strict=True):
        assert torch.equal(resumed[0], uninterrupted[0])
        assert resumed[1] == uninterrupted[1]
    for weights, _, _ in ranks_train(1, [{**kind, "from": name} for kind in kinds[:2] for name in names], tmp_path):
        assert close(weights, whole[2][0])


def test_what_deepspeed_may_not_be_told_is_said(tmp_path: Path) -> None:
    """A setting in two places would have one of them ignored; Hugging Face's files say "auto" to all of ours."""
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps({"train_batch_size": "auto", "fp16": {"enabled": "auto"}, **zero(2)["deepspeed"]}))
    config = CONFIG.parse(
        {"tokens": 1, "length": 24, "parallel": "deepspeed", "deepspeed": str(path), "grad_clip": 0.5}, origin="recipe"
    )
    given = engine_config(config)
    assert given["zero_optimization"] == {"stage": 2}
    assert given["gradient_clipping"] == 0.5
    assert "train_batch_size" not in given
    for key, ours in (
        ("train_batch_size", "batch_tokens"),
        ("scheduler", "schedule"),
        ("gradient_clipping", "grad_clip"),
    ):
        with pytest.raises(ConfigError, match=f"`deepspeed.{key}` is said by `{ours}`"):
            engine_config(config.replace(deepspeed={key: 1}))
    with pytest.raises(ConfigError, match=r"stage` must be 1, 2 or 3"):
        engine_config(config.replace(deepspeed={"zero_optimization": {"stage": 0}}))


def test_deepspeed_that_is_not_installed_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is an extra; a traceback of an import helps nobody."""
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    config = CONFIG.replace(parallel="deepspeed", optimizer="adamw", deepspeed=zero(2)["deepspeed"])
    model = Transformer(TINY)
    strategy = make_strategy(config, model, ONE_RANK)
    with pytest.raises(ConfigError, match=r"pip install 'minimind-pipeline\[deepspeed\]'"):
        strategy.give(make_optimizers(model, config, dtype=torch.float32))


def test_what_cannot_go_with_deepspeed_is_said_before_the_data_is_read() -> None:
    table = zero(3)["deepspeed"]
    config = CONFIG.replace(parallel="deepspeed", optimizer="adamw", deepspeed=table)
    for changes, words in (
        ({"compile": "on"}, "`compile` does not go with"),
        ({"optimizer": "muon"}, '`optimizer` "muon" needs whole matrices'),
    ):
        with pytest.raises(ConfigError, match=words):
            make_strategy(config.replace(**changes), Transformer(TINY), ONE_RANK)
