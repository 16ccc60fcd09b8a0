"""Compiled layers give what they give as written; validation leaves them alone; what cannot compile says so."""

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
from msp_ds.training.engine.compiling import as_written, compile_layers, compiled_graphs
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


def two_learners(name: str, *, dropout: float = 0.0) -> tuple[PretrainingModel, PretrainingModel]:
    """The same model, as written and with compiled layers; the backend traces all and runs torch's own kernels."""
    models = []
    for compiles in (False, True):
        torch.manual_seed(3)
        backbone = Backbone(dataclasses.replace(tiny.FAMILY[name], dropout=dropout))
        if compiles:
            compile_layers(backbone, CPU, backend="aot_eager")
        models.append(PretrainingModel(backbone, curriculum("s")[0].tasks, tiny.context()).train())
    return models[0], models[1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", tiny.FAMILY)
def test_losses_and_gradients_are_those_of_the_layers_as_written(name: str) -> None:
    written, compiled = two_learners(name)
    for counts in ((6, 4, 5), (8, 8, 3)):
        batch = tiny.a_batch(counts)
        for model in (written, compiled):
            model.zero_grad()
            model(batch, curriculum("s")[0].tasks, 0).total.backward()
        for (part, one), (_, other) in zip(written.named_parameters(), compiled.named_parameters(), strict=True):
            # Attention is summed up in two ways; a key's bias has no gradient but what rounding leaves.
            assert (other.grad - one.grad).norm() <= 1e-9 * one.grad.norm() + 1e-12, part
    assert compiled_graphs() > 0
    assert list(written.state_dict()) == list(compiled.state_dict())


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


def test_in_validation_layers_run_as_written() -> None:
    _, model = two_learners("LXMERT")
    with as_written(), torch.no_grad():
        model.eval()(tiny.a_batch((6, 4, 5)), curriculum("s")[0].tasks, 0)
    assert compiled_graphs() == 0


def test_without_a_compiler_a_run_ends_before_it_leaves_anything(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = refusal("train", "--shards", small_shards, "--run-dir", tmp_path / "run", "--compile")
    assert said.startswith("compiling for a CPU needs a C++ compiler, and there is no no-such-compiler; leave out")
    assert not (tmp_path / "run").exists()


def test_zero_3_is_not_compiled_and_the_name_says_what_is() -> None:
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
def test_a_run_with_compiled_layers_learns_what_one_without_learns(small_shards: Path, tmp_path: Path) -> None:
    flags = ("--shards", small_shards, "--curriculum", "t", "--batch-size", 16, "--max-steps", 2)
    flags = (*flags, "--set", "model.num_layers=1")
    weights = []
    for folder, more in (("written", ()), ("compiled", ("--compile",))):
        assert run("train", *flags, "--run-dir", tmp_path / folder, *more).exit_code == 0
        weights.append(read_weights(find_checkpoint(tmp_path / folder / "1-token")))
    assert weights[0].keys() == weights[1].keys()
    for name, one in weights[0].items():
        torch.testing.assert_close(weights[1][name], one, atol=1e-4, rtol=1e-3)
