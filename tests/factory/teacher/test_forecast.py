"""What a stage will take: bytes against the real trainer's, hours against numbers worked out by hand."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.gemma.sizes import SIZES, ModelShape, model_shape, parameter_count
from factory.estimates import SCORED_TOGETHER, sampling_bytes, scorer_bytes
from factory.recipe import RlStage, find_recipe, load_recipe, validate_recipe
from factory.sources import HubSource
from factory.sources.rows import RawRow, prompt_parts
from factory.teacher import forecast as module
from factory.teacher.chips import CHIPS
from factory.teacher.forecast import (
    Memory,
    attention_flops,
    decode_bytes,
    forecast,
    hours_of,
    memory_of,
    train_hours,
)
from factory.teacher.preference import ModelScorer
from factory.teacher.settings import Mesh, Rl
from tests.devices import answered

RECIPES = ("gemma3-1b-zero", "gemma3-1b-r1", "r1-full")
ONE_B = ModelShape(SIZES["1b"], parameter_count(SIZES["1b"]), downloaded=False)

TINY: dict[str, Any] = {
    "steps": 2,
    "prompts": 2,
    "samples": 4,
    "prompt_length": 24,
    "max_new_tokens": 40,
    "rows": 2,
    "rollout_batch": 16,
}


def spec(**changes: Any) -> Rl:
    return Rl.model_validate({**TINY, **changes})


# -------------------------------------------------------------------------------------- bytes, measured

_MEASURE = """
import json, sys, tempfile
from functools import partial
from pathlib import Path
import jax, numpy as np
from flax import nnx
from distill.gemma.checkpoint import load_model
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.mesh import make_mesh
from distill.in_place import TRAINING
from factory.teacher.assembly import loss_of, optimiser_of, update_shape
from distill.gemma.ahead_of_time import constrain_activations
from factory.teacher.settings import Rl
from factory.teacher.trainer import Batch, GrpoTrainer, pack_samples

spec = Rl.model_validate(json.loads(sys.argv[1]))
folder = ModelFolder.open(resolve_model("tiny-student"))
mesh = make_mesh(spec.mesh.fsdp, spec.mesh.tp)
# Tunix leaves activations unconstrained on a CPU; the forecast is about chips, where it constrains them.
constrain_activations(mesh)
shape = update_shape(spec, folder.config)
with tempfile.TemporaryDirectory() as out:
    trainer = GrpoTrainer(
        load_model(folder, dtype=spec.dtype, mesh=mesh), optimiser_of(spec),
        loss=loss_of(spec, folder.config), shape=shape, checkpoints=Path(out), mesh=mesh,
    )
    rows = pack_samples([[2, 30, 31]] * 4, [[40, 41, 1], [42, 1], [43, 1], [44, 45, 1]], shape)
    batch = Batch(rows, [3, 2, 2, 3], [0.1] * 4, [1.0, -1.0, 0.5, -0.5])
    zeros = np.zeros(rows.tokens.shape, np.float32)
    trainer.update([batch], [0], reference=[zeros])

    def held(module):
        leaves = [x for x in jax.tree.leaves(nnx.state(module)) if isinstance(x, jax.Array)]
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)

    step = nnx.jit(trainer.create_train_step_fn(), donate_argnames=TRAINING)
    inputs = trainer._inputs(batch, 1, None, zeros)
    if mesh is not None:
        from tunix.sft.sharding_utils import shard_input
        with mesh:
            inputs = shard_input(inputs, (None, "fsdp"))
    with trainer._mesh():
        found = step.lower(trainer.model, trainer.optimizer, inputs)
        analysis = found.compile().memory_analysis()
    print(json.dumps({
        "weights": held(trainer.model), "optimiser": held(trainer.optimizer),
        "arguments": analysis.argument_size_in_bytes, "temporary": analysis.temp_size_in_bytes,
    }))
    trainer.close()
"""


def measured(what: Rl) -> dict[str, int]:
    """Bytes of the real trainer on the tiny student, after a step, in a process with as many devices."""
    found: dict[str, int] = answered(
        _MEASURE, what.model_dump(mode="json", exclude={"rewards"}), what.mesh.devices
    )
    return found


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"fsdp": 1}, {"fsdp": 4}])
def test_bytes_are_those_of_the_real_trainer(mesh: dict[str, int]) -> None:
    """What lies on a device to the byte; the temporaries of the step within a quarter."""
    pytest.importorskip("tunix")
    what = spec(mesh=mesh, rows=4)
    real, predicted = measured(what), memory_of(what, model_shape("tiny-student"))
    assert predicted.how == "compiled"
    assert (predicted.weights, predicted.optimiser) == (real["weights"], real["optimiser"])
    assert predicted.reference == predicted.weights
    peak = real["arguments"] + real["temporary"]  # what comes out lies where it went in
    ours = predicted.weights + predicted.optimiser + predicted.update
    assert ours == pytest.approx(peak, rel=0.25)


@pytest.mark.train
@pytest.mark.slow
def test_one_billion_on_eight_chips_fits() -> None:
    pytest.importorskip("tunix")
    stage = load_recipe(find_recipe("gemma3-1b-zero")).teacher["zero"]
    assert isinstance(stage, Rl)
    found = memory_of(stage, ONE_B)
    assert found.how == "compiled"
    # Float32 numbers, an eighth on each chip, but for norm scales, which are whole.
    assert found.weights == pytest.approx(4 * ONE_B.parameters / 8, rel=0.01)
    assert found.optimiser == pytest.approx(2 * found.weights, rel=0.001)
    assert found.state < found.peak < CHIPS["v5e"].memory


def test_settings_that_change_no_byte_share_a_compilation() -> None:
    assert module._what_decides(spec()) == module._what_decides(
        spec(temperature=0.7, clip_low=10.0, clip_high=10.0, template="plain:r1", seed=3)
    )
    assert module._what_decides(spec()) != module._what_decides(spec(rows=4))


def test_without_jax_a_formula_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.compiled.can_compile", lambda: False)
    found = forecast(spec(), "tiny-student")
    shape = model_shape("tiny-student")
    assert found.memory.how == "estimated" and found.hours is None
    assert found.memory.weights == 4 * shape.parameters and found.memory.peak > found.memory.state
    assert "2 steps, 16 samples, 640 tokens at most" in found.work
    refilled = forecast(spec(dynamic_sampling={"max_rounds": 3}), "tiny-student")
    assert (
        refilled.work == "2 steps, 16 samples (48 with all rounds of dynamic sampling), 1,920 tokens at most"
    )


# ----------------------------------------------------------------------------------------------- hours


def of_one_billion(**changes: Any) -> Any:
    """A hundred steps of 512 samples on eight chips."""
    return spec(
        steps=100,
        prompts=32,
        samples=16,
        prompt_length=256,
        max_new_tokens=768,
        mesh={"fsdp": 8, "chip": "v5e"},
        **changes,
    )


def test_hours_by_hand() -> None:
    what = of_one_billion(rollout_batch=512, remat="layer", compute="bfloat16")
    hours = hours_of(what, ONE_B, CHIPS["v5e"])
    n = 999_885_952
    attention = 2 * 26 * 4 * 256 * 1024
    # Eight for two forward passes and a backward one, two for the reference.
    update = 100 * 512 * 1024 * 10 * (n + attention) / (8 * 197e12 * 0.3)
    token = 2 * n + 2 * 26 * 256 * 1024 * 64 * 2 + 6 * 4 * 64 * 262_144
    rollout = 100 * 768 * token / (819e9 * 0.6)
    assert hours.update * 3600 == pytest.approx(update)
    assert hours.rollout * 3600 == pytest.approx(rollout)
    assert hours.total == hours.update + hours.rollout


def test_known_speeds() -> None:
    """R1's table of chips: at 40 % of a v5e 1B learns 12.8k tokens a second, so 9.6k at 30 % (attention left out)."""
    tokens = 9_600 * 3600
    assert train_hours(tokens, ONE_B, Mesh(chip="v5e"), row=0) == pytest.approx(1.0, rel=0.03)
    assert train_hours(tokens, ONE_B, Mesh(), row=0) is None
    assert attention_flops(SIZES["1b"], 1024, None) == 2 * 26 * 1024 * 1024
    # 22 layers see 512 cells back, of a chunk's first query; 4 see the whole row.
    assert attention_flops(SIZES["1b"], 8192, 256) == 2 * (22 * 768 + 4 * 8192) * 1024
    assert attention_flops(SIZES["1b"], 700, 256) == attention_flops(SIZES["1b"], 700, None)


def test_tp_divides_weights_and_heads_where_it_can() -> None:
    whole = decode_bytes(ONE_B, Mesh(), rows=8, slots=0, unit=2)
    half = decode_bytes(ONE_B, Mesh(tp=2), rows=8, slots=0, unit=2)
    assert half == pytest.approx(whole / 2, rel=1e-6)
    one_head = decode_bytes(ONE_B, Mesh(tp=2), rows=8, slots=100, unit=2) - half
    assert one_head == 2 * 26 * 256 * 100 * 8 * 2  # one key-value head: it lies whole on both


def test_limits_that_rise_count_by_step() -> None:
    what = spec(steps=10, longer=[{"from_step": 8, "max_new_tokens": 80}])
    assert module._limits(what) == {40: 8, 80: 2}


def test_rows_are_computed_whole_before_the_limit_rises() -> None:
    """A row is compiled for the longest limit: 1,792 cells, of which a sample of 1,024 leaves 768 empty."""
    what = of_one_billion(longer=[{"from_step": 80, "max_new_tokens": 1536}], rows=32, kl=0.0)
    flops = 6 * (ONE_B.parameters + 2 * 26 * 4 * 256 * 1792)
    update = 100 * 512 * 1792 * flops / (8 * 197e12 * 0.3)
    assert hours_of(what, ONE_B, CHIPS["v5e"]).update * 3600 == pytest.approx(update)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, 8 * 64),
        ({"row_length": 150}, 4 * 150),  # two samples of 64 in a row
        ({"row_length": 200}, 4 * 200),  # three: three rows, and an empty one to fill the second micro-batch
        ({"row_length": 150, "minibatches": 2, "rows": 3}, 2 * 3 * 150),  # two rows of three, twice
        ({"row_length": 150, "rows": 1, "mesh": {"fsdp": 3}}, 6 * 150),  # a row for each device, used or not
        ({"prompts": 5, "minibatches": 3, "rows": 8}, 3 * 8 * 64),  # four samples, eight, eight
    ],
)
def test_cells_of_a_step(changes: dict[str, Any], cells: int) -> None:
    assert module._update_cells(spec(**changes), 40) == cells


# --------------------------------------------------------------------------------------------- scorers


def test_scorers_lie_beside_whatever_a_stage_does() -> None:
    memory = Memory(weights=1, optimiser=2, reference=3, update=40, rollout=50, how="estimated", scorers=7)
    assert memory.peak == 6 + 7 + 50
    assert replace(memory, scoring=60).peak == 6 + 7 + 60


def test_bytes_of_the_models_that_rewards_ask() -> None:
    recipe = load_recipe(find_recipe("gemma3-1b-r1"))
    zero, align = recipe.teacher["zero"], recipe.teacher["align"]
    assert isinstance(zero, RlStage) and isinstance(align, RlStage)
    assert scorer_bytes(zero, recipe) == (0, 0)
    shape = model_shape("google/gemma-3-270m")
    layer = 12 * 640 + 3 * 2048 + 2 * 4 * 1024
    assert scorer_bytes(align, recipe) == (2 * 4 * shape.parameters, 4 * 32 * 1024 * layer)


def test_a_judge_is_held_and_a_pattern_is_not() -> None:
    recipe = validate_recipe(
        {
            "name": "scored",
            "prompts": {"sources": [{"kind": "files", "path": "questions.jsonl"}]},
            "teacher": {
                "rl": {
                    "kind": "rl",
                    "base": "tiny-teacher",
                    "steps": 1,
                    "rewards": {
                        "rubric": {"weight": 1.0, "scorer": "asked", "criteria": ["It is short."]},
                        "harmlessness": {"weight": 1.0, "scorer": "words"},
                    },
                }
            },
            "scorers": {
                "asked": {"kind": "rubric", "model": "tiny-teacher", "batch_size": 4},
                "words": {"kind": "pattern", "sees": "response", "pattern": "please"},
            },
            "generate": {"model": "tiny-teacher"},
        },
        "test",
    )
    stage = recipe.teacher["rl"]
    assert isinstance(stage, RlStage)
    held = 4 * model_shape("tiny-teacher").parameters
    weights, scoring = scorer_bytes(stage, recipe)
    assert weights == held and weights + scoring == sampling_bytes("tiny-teacher", 4, 2048 + 512)


def test_reward_models_score_as_many_together_as_is_counted() -> None:
    default = inspect.signature(ModelScorer.__init__).parameters["rows"].default
    assert default == SCORED_TOGETHER


@pytest.mark.train
@pytest.mark.slow
def test_one_billion_and_its_reward_models_fit() -> None:
    pytest.importorskip("tunix")
    recipe = load_recipe(find_recipe("gemma3-1b-r1"))
    stage = recipe.teacher["align"]
    assert isinstance(stage, RlStage)
    scorers, scoring = scorer_bytes(stage, recipe)
    found = replace(memory_of(stage, ONE_B), scorers=scorers, scoring=scoring)
    assert found.how == "compiled" and found.peak < CHIPS["v5e"].memory


# -------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_load_and_have_r1s_ratios(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    for stage in recipe.teacher.values():
        if isinstance(stage, Rl):
            assert (stage.prompts, stage.samples, stage.kl) == (32, 16, 0.001)
            assert stage.optimiser.learning_rate == 3e-6 and stage.mesh.chip is not None
    if name != "gemma3-1b-zero":
        general = recipe.mixes["r1"].general
        assert general is not None and general.max_samples is not None
        assert recipe.mixes["r1"].select.max_samples == 3 * general.max_samples
        align = recipe.teacher["align"]
        assert isinstance(align, Rl) and align.temperature == 0.7
        assert align.rewards.helpfulness is not None
        late = align.steps - align.rewards.helpfulness.from_step
        assert late / align.steps == pytest.approx(400 / 1700, abs=0.001)


@pytest.mark.parametrize("name", ["gemma3-1b-r1", "r1-full"])
def test_general_prompts_are_for_all_scenarios_alone(name: str) -> None:
    """Reward models judge them in the last stage; a stage that learns by rules alone does not ask them."""
    recipe = load_recipe(find_recipe(name))
    [general] = [s for s in recipe.prompts.sources if isinstance(s, HubSource) and s.verifier == "none"]
    assert general.domain == "general" and set(general.quotas or ()) == {"train"}
    row = RawRow(
        "rows", 1, {"prompt": "Write a poem.", "prompt_id": "a", "chosen": [], "score_chosen": 8.0}, None, {}
    )
    parts = prompt_parts(general, row)
    assert (parts.question, parts.verifier, parts.domain) == ("Write a poem.", "none", "general")
    for stage in ("zero", "reasoning_rl", "align"):
        spec = recipe.teacher[stage]
        assert isinstance(spec, RlStage) and spec.domains is None
        asked = spec.rewards.preference_parts().values()
        assert bool(asked) == (stage == "align") and all(part.prompts == "general" for part in asked)
    assert recipe.generate.prompts == recipe.samplings["zero"].prompts == "graded"
    assert recipe.samplings["pairs"].prompts == "general"
    assert {spec.of for spec in recipe.scorers.values() if spec.kind == "reward_model"} == {"pairs"}


@pytest.mark.parametrize("name", ["gemma3-1b-r1", "r1-full"])
def test_the_cold_start_is_long_traces(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    cold, r1 = recipe.mixes["cold_start"].select, recipe.mixes["r1"].select
    assert cold.min_reasoning_tokens is not None and r1.min_reasoning_tokens is None
    assert recipe.samplings["zero"].sampling.max_new_tokens > 5 * cold.min_reasoning_tokens


def test_the_papers_figures() -> None:
    zero = load_recipe(find_recipe("r1-full")).teacher["zero"]
    assert isinstance(zero, Rl)
    assert (zero.steps, zero.minibatches, zero.reference_every) == (10_400, 16, 400)
    assert (zero.limit(8200), zero.limit(8201)) == (32_768, 65_536)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_dry_run_without_their_weights(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With bytes by the formula here; the compiled ones have a test of their own."""
    from distill.gemma import folder
    from factory.dry_run import print_plan
    from factory.pipeline import Selection

    def refuse(name: str) -> str:
        raise AssertionError(f"{name} would be downloaded")

    monkeypatch.setattr(folder, "_download", refuse)
    monkeypatch.setattr("factory.compiled.can_compile", lambda: False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    print_plan(load_recipe(find_recipe(name)), tmp_path / "run", Selection())
    printed = capsys.readouterr().out
    assert "not downloaded yet" in printed and "teach:zero" in printed and "estimated" in printed
    assert "hours in all" in printed and "scorers" in printed and "scoring" in printed
    if name != "r1-full":
        assert "it fits" in printed
    assert not (tmp_path / "run").exists()
