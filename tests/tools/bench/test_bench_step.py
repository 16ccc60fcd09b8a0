"""The bench of a training step compares equals: each way to take the step has the same loss; memory is counted."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from msp_ds.config import ModelConfig
from msp_ds.tasks import TASKS
from msp_ds.tasks.task import corrupt
from msp_ds.training.pretraining_model import PretrainingModel
from tools.bench.common.figures import Clock
from tools.bench.common.step_peers import ReleasedManner
from tools.bench.common.step_pool import LONGEST, PAIRS, Draw, Pool, a_context
from tools.bench.step import LXMERT_TASKS, Variant, as_lxmert, measure_memory, measured, ours, subjects

SMALL = ModelConfig(
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    vocab_size=1200,
    feature_width=8,
    num_objects=11,
    num_attributes=7,
)
CPU = torch.device("cpu")
SENTENCE = (*LXMERT_TASKS, "tits")
ATTENTION = {"query": "query", "key": "key", "value": "value", "output": "dense", "norm": "norm"}


@pytest.fixture(scope="module")
def draw() -> Draw:
    return Pool(SMALL, batch_size=8).draws(1)[0]


def released_names(config: ModelConfig) -> dict[str, str]:
    """Our model's names -> those of the released way, weights and biases apart."""
    names = {
        "backbone.text.norm": "text_norm",
        "backbone.text_pooler": "text_pooler",
        "backbone.region_pooler": "region_pooler",
    }
    names |= {f"backbone.regions.{part}": part for part in ("feature", "box", "feature_norm", "box_norm")}
    for layer in range(config.num_layers):
        for block in ("cross", "text_self", "region_self"):
            names |= {
                f"backbone.layers.{layer}.{block}.{our}": f"layers.{layer}.{block}.{their}"
                for our, their in ATTENTION.items()
            }
        for stream in ("text", "region"):
            names |= {
                f"backbone.layers.{layer}.{stream}_feed_forward.{our}": f"layers.{layer}.{stream}_think.{their}"
                for our, their in {"widen": "wide", "narrow": "narrow", "norm": "norm"}.items()
            }
    for head, stem in (("token", "token_transform"), ("region", "region_transform")):
        names |= {f"heads.{head}.transform.dense": f"{stem}.0", f"heads.{head}.transform.norm": f"{stem}.2"}
    names |= {f"heads.region.{kind}_decoder": f"{kind}s" for kind in ("object", "attribute", "feature")}
    return names | {"heads.topic.dense": "topics.0", "heads.topic.norm": "topics.2", "heads.match.dense": "match"}


@torch.no_grad()
def released_like(model: PretrainingModel, config: ModelConfig) -> ReleasedManner:
    """The released way with the model's weights; of its table of visual [CLS] features row 101 is read."""
    released, weights = ReleasedManner(config), model.state_dict()
    theirs = {
        f"{their}.{kind}": weights[f"{our}.{kind}"]
        for our, their in released_names(config).items()
        for kind in ("weight", "bias")
    }
    theirs |= {"word.weight": weights["backbone.text.word.weight"], "token_bias": weights["heads.token.decoder.bias"]}
    theirs |= {"position.weight": weights["backbone.text.position.weight"]}
    theirs["kind.weight"] = weights["backbone.text.type_vector"].expand(2, -1)
    theirs["visual_word.weight"] = weights["backbone.regions.cls_feature"].expand(config.vocab_size, -1)
    released.load_state_dict(theirs)
    return released


@pytest.mark.usefixtures("float64")
def test_the_released_way_loses_what_ours_loses() -> None:
    draw = Pool(SMALL, batch_size=8).draws(1)[0]
    torch.manual_seed(1)
    config = dataclasses.replace(SMALL, dropout=0.0)
    subject = ours("ours", config, SENTENCE, CPU)
    with torch.no_grad():
        for parameter in subject.module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    released, context = released_like(subject.module, config), a_context(config)
    same = Draw(bucketed=draw.padded, padded=draw.padded)
    our_loss = subject.loss(same)
    their_loss = released(draw.padded, corrupt(draw.padded, [TASKS[name] for name in SENTENCE], context), context)
    assert their_loss.item() == pytest.approx(our_loss.item(), rel=1e-12)
    our_loss.backward()
    their_loss.backward()
    gradients = {name: part.grad for name, part in released.named_parameters()}
    names = released_names(config)
    for name, parameter in subject.module.named_parameters():
        our, kind = name.rsplit(".", 1)
        if our in names and not name.endswith("key.bias"):
            wanted = gradients[f"{names[our]}.{kind}"]
            assert (parameter.grad - wanted).norm() <= 1e-9 * wanted.norm(), name


def test_the_pool_gives_even_draws_of_like_length() -> None:
    pool = Pool(SMALL, batch_size=64)
    draws = pool.draws(5)
    slots = [draw.bucketed.token_ids.shape[1] for draw in draws]
    assert slots == sorted(slots)
    assert slots[0] < slots[-1] <= LONGEST
    assert {draw.padded.token_ids.shape for draw in draws} == {(64, LONGEST)}
    assert 12 < pool.mean_slots() < 16
    assert len(pool.lengths) == PAIRS
    assert pool.lengths.double().mean().item() == pytest.approx(13, abs=0.2)


def test_every_variant_measures_its_steps_and_its_memory() -> None:
    pool = Pool(SMALL, batch_size=4)
    variants = [Variant(subject=one, precision="fp32") for one in subjects(SMALL, CPU)]
    found = measured(variants, pool, repeat=2, clock=Clock(CPU))
    assert list(found["variants"]) == [
        "transformers fp32",
        "ours, LXMERT fp32",
        "released way fp32",
        "ours, LXMERT-S fp32",
    ]
    assert set(found["ratios"]) == {
        "ours, LXMERT fp32 to transformers fp32",
        "ours, LXMERT-S fp32 to released way fp32",
    }
    for one in found["variants"].values():
        assert one["operations_a_pair"] > 0
        assert one["saved_mib_a_pair"] > 0
    sparse, dense = (found["variants"][name] for name in ("ours, LXMERT-S fp32", "released way fp32"))
    assert sparse["operations_a_pair"] < dense["operations_a_pair"]
    assert sparse["saved_mib_a_pair"] < dense["saved_mib_a_pair"]


def test_a_step_is_the_sum_of_its_parts() -> None:
    subject = ours("ours", as_lxmert(SMALL), LXMERT_TASKS, CPU)
    variant = Variant(subject=subject, precision="fp32", forward=[0.0, 1.0], backward=[3.0, 5.0], update=[1.0, 1.0])
    assert variant.steps == [4.0, 7.0]


def test_what_is_kept_for_the_backward_pass_is_counted(draw: Draw) -> None:
    weights = torch.nn.Parameter(torch.ones(3, 4))
    subject = ours("ours", as_lxmert(SMALL), ("itm_hs",), CPU)
    subject.module = torch.nn.ParameterList([weights])
    states = torch.randn(5, 3, requires_grad=True)
    subject.loss = lambda _: ((states @ weights) * (wide := states.exp())[:, :1] + wide[:, 1:2]).sum()
    variant = Variant(subject=subject, precision="fp32")
    measure_memory(variant, draw, CPU)
    # The exp of the states and the product of states and weights, which the gradient needs, and the loss itself.
    assert variant.saved_bytes == 4 * (15 + 20 + 1)
    assert variant.flops == 3 * 2 * 5 * 3 * 4  # forward, and backward to both factors
