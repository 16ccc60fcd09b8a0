"""--set reaches what it names and nothing else, and says what there is where it names nothing."""

from __future__ import annotations

import dataclasses

import pytest

from msp_ds.config import OptimConfig, RunConfig, TaskOptions
from msp_ds.errors import InputError
from msp_ds.presets import PRESETS
from msp_ds.training.settings import with_settings


def a_run() -> RunConfig:
    preset = PRESETS["tiny"]
    return RunConfig(
        curriculum="tps",
        preset="tiny",
        model=preset.model,
        optim=preset.optim,
        schedule=preset.schedule,
        tasks=TaskOptions(weights={"titp": 50.0}),
        shards="shards",
        vocabulary_sha256="0" * 64,
    )


def test_settings_change_only_what_they_name() -> None:
    settings = ["moc_target=all", "token_probability=0.3", "itm_skip_nearest=2", "topic_attributes=true"]
    tasks = TaskOptions(
        moc_target="all", token_probability=0.3, itm_skip_nearest=2, topic_attributes=True, weights={"titp": 50.0}
    )
    assert with_settings(a_run(), settings) == dataclasses.replace(a_run(), tasks=tasks)


@pytest.mark.parametrize("setting", ['weights={"mlm": 2}', "weights.mlm=2"])
def test_a_weight_is_added_to_those_of_the_preset(setting: str) -> None:
    assert with_settings(a_run(), [setting]).tasks.weights == {"titp": 50.0, "mlm": 2.0}


def test_a_stage_and_a_task_can_differ_from_the_others() -> None:
    changed = with_settings(a_run(), ["heads=carried", "heads_of.sentence=fresh", "mismatch_losses_of.tits=drop"]).tasks
    assert (changed.heads, changed.heads_of) == ("carried", {"sentence": "fresh"})
    assert (changed.mismatch_losses, changed.mismatch_losses_of) == ("keep", {"tits": "drop"})


def test_model_and_optimiser_are_reached_by_their_names() -> None:
    changed = with_settings(a_run(), ["model.topic_head=plain", "optim.warmup_ratio=0.25", "optim.betas=[0.5, 0.75]"])
    assert changed.model == dataclasses.replace(a_run().model, topic_head="plain")
    assert changed.optim == OptimConfig(lr=2e-3, warmup_ratio=0.25, betas=(0.5, 0.75))
    assert changed.tasks == a_run().tasks


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("moc_target", "--set moc_target: write it name=value"),
        ("moc_targets=all", "--set moc_targets: nothing is called that; tasks has token_probability, mlm_unit, "),
        ("moc_targets=all", "(and model.NAME, optim.NAME)"),
        ("model.topic=plain", "--set model.topic: nothing is called that; model has hidden_size, "),
        ("modal.topic_head=plain", "--set modal.topic_head: nothing is called that"),
        ("moc_target.x=all", "--set moc_target.x: nothing is called that"),
        ("topic_head=plain", "--set topic_head: nothing is called that"),
        ("moc_target=some", "--set.moc_target: 'some' is none of masked, all"),
        ("token_probability=2", "token_probability 2.0 is not between 0 and 1"),
        ("itm_skip_nearest=two", "--set.itm_skip_nearest: expected int, got 'two'"),
        ("optim.warmup_ratio=2", "warmup_ratio 2.0"),
        ("model.num_heads=0", "--set model: num_heads 0 is not in 1 to 32,768"),
        ("model.num_layers=1000000", "--set model: num_layers 1000000 is not in 1 to 256"),
        ("model.hidden_size=-768", "--set model: hidden_size -768 is not in 1 to 32,768"),
        ("model.hidden_size=101", "--set model: hidden_size 101 is not a multiple of num_heads"),
        ("model.hidden_size=1e400", "--set model.hidden_size: 1e400 is beyond the range of float64"),
        ("model.hidden_size=32768", "weights; at most 2,500,000,000 are possible here"),
        ("model.dropout=NaN", "--set model.dropout: NaN is not a JSON number"),
        ("model.init_std=1e400", "--set model.init_std: 1e400 is beyond"),
        ("model.layer_norm_eps=Infinity", "--set model.layer_norm_eps: Infinity is not a JSON number"),
        ("model.topic_prior=NaN", "--set model.topic_prior: NaN is not a JSON number"),
        ("weights.mml=2", "no task is called 'mml'"),
        ("weights=2", "expected a table"),
        ("mismatch_losses_of.itm_hs=drop", "no task is called 'itm_hs'; tasks are mlm, mrfr, moc, ifrs, titp, tits"),
        ("mismatch_losses_of.mlm=half", "--set.mismatch_losses_of.mlm: 'half' is none of keep, drop"),
        ("heads=carry", "--set.heads: 'carry' is none of fresh, carried"),
        ("heads_of.s=carried", "no stage is called 's'; stages are token, phrase, sentence"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(setting: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        with_settings(a_run(), [setting])
    assert part in str(caught.value)


@pytest.mark.parametrize("name", ["vocab_size", "feature_width", "num_objects", "num_attributes"])
def test_what_the_shards_decide_cannot_be_set(name: str) -> None:
    with pytest.raises(InputError, match=f"--set model.{name}: the shards decide it"):
        with_settings(a_run(), [f"model.{name}=7"])
