"""Compiled layers compute what eager layers do; validation runs eagerly; a missing compiler is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from command_line import refusal, run

from msp_ds.curriculum import curriculum
from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone
from msp_ds.training.checkpointing.checkpoint import read_weights
from msp_ds.training.checkpointing.run_folder import find_checkpoint
from msp_ds.training.engine.compiling import compile_layers
from msp_ds.training.engine.execution import Execution
from msp_ds.training.planning import with_compile
from msp_ds.training.pretraining_model import PretrainingModel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def two_learners(name: str, *, dropout: float = 0.0) -> tuple[PretrainingModel, PretrainingModel]:
    """The same model with eager and with compiled layers; the backend traces and runs torch's own kernels."""
    models = []
    for compiles in (False, True):
        torch.manual_seed(3)
        backbone = Backbone(dataclasses.replace(tiny.FAMILY[name], dropout=dropout))
        if compiles:
            compile_layers(backbone, CPU, backend="aot_eager")
        models.append(PretrainingModel(backbone, curriculum("s")[0].tasks, tiny.context()).train())
    return models[0], models[1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if name not in ("LXMERT-S", "single stream") else ())
        for name in tiny.FAMILY
    ],
)
def test_losses_and_gradients_are_those_of_eager_layers(name: str) -> None:
    eager, compiled = two_learners(name)
    for counts in ((6, 4, 5), (8, 8, 3)):
        batch = tiny.a_batch(counts)
        for model in (eager, compiled):
            model.zero_grad()
            model(batch, curriculum("s")[0].tasks, 0).total.backward()
        for (part, one), (_, other) in zip(eager.named_parameters(), compiled.named_parameters(), strict=True):
            # Attention is summed in another order; the gradient of a key's bias is rounding error only.
            assert (other.grad - one.grad).norm() <= 1e-9 * one.grad.norm() + 1e-12, part
    assert compiled_graphs() > 0
    assert list(eager.state_dict()) == list(compiled.state_dict())


@pytest.mark.full
def test_a_shape_that_comes_again_is_not_compiled_again_and_dropout_breaks_no_graph() -> None:
    _, model = two_learners("LXMERT", dropout=0.1)
    tasks = curriculum("s")[0].tasks
    model(tiny.a_batch((6, 4, 5)), tasks, 0)
    once = compiled_graphs()
    assert 0 < once <= 2 * len(list(model.backbone.layers)) + 2
    assert not torch._dynamo.utils.counters["graph_break"]
    model(tiny.a_batch((6, 4, 5)), tasks, 0)
    assert compiled_graphs() == once


def test_layers_run_eagerly_in_validation() -> None:
    _, model = two_learners("LXMERT")
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        model.eval()(tiny.a_batch((6, 4, 5)), curriculum("s")[0].tasks, 0)
    assert compiled_graphs() == 0


def test_without_a_compiler_a_run_ends_before_it_leaves_anything(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = refusal("train", "--shards", small_shards, "--run-dir", tmp_path / "run", "--compile")
    assert line.startswith("compiling for a CPU needs a C++ compiler, and there is no no-such-compiler; leave out")
    assert not (tmp_path / "run").exists()


def test_zero_3_is_not_compiled_and_the_name_of_an_execution_mentions_compiling() -> None:
    with pytest.raises(InputError, match="compile does not go with zero_stage 3"):
        with_compile(("zero3", Execution(precision="bf16", zero_stage=3)), True)
    fp32 = Execution(precision="fp32")
    assert with_compile(("cpu_fp32", fp32), False) == ("cpu_fp32", fp32)
    assert with_compile(("cpu_fp32", fp32), True) == (
        "cpu_fp32, compiled",
        Execution(precision="fp32", compile=True),
    )


@pytest.mark.full
@pytest.mark.slow
def test_a_run_with_compiled_layers_learns_the_same_weights(small_shards: Path, tmp_path: Path) -> None:
    flags = ("--shards", small_shards, "--curriculum", "t", "--batch-size", 16, "--max-steps", 2)
    flags = (*flags, "--set", "model.num_layers=1")
    weights = []
    for folder, more in (("written", ()), ("compiled", ("--compile",))):
        assert run("train", *flags, "--run-dir", tmp_path / folder, *more).exit_code == 0
        weights.append(read_weights(find_checkpoint(tmp_path / folder / "1-token")))
    assert weights[0].keys() == weights[1].keys()
    for name, one in weights[0].items():
        torch.testing.assert_close(weights[1][name], one, atol=1e-4, rtol=1e-3)
