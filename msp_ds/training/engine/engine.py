"""The DeepSpeed engine, its optimiser and schedule, with workarounds for silent faults of DeepSpeed 0.19.8."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
from deepspeed.utils import groups
from torch import Tensor, nn
from torch.distributed import distributed_c10d

from msp_ds.config import OptimConfig
from msp_ds.training.distributed.runtime import COLLECTIVE_TIMEOUT, COMPILING_TIMEOUT, Runtime
from msp_ds.training.engine.execution import Execution, deepspeed_config, grad_scaler_settings
from msp_ds.training.engine.gradient_average import GradientAverage

log = logging.getLogger(__name__)

NEVER_CLIPS = 1e30  # replaces a clip norm of 0, with which DeepSpeed would not compute the norm at all
_AT_LOWEST_SCALE = "loss scale already at minimum"
"""Part of the message of the bare Exception that DeepSpeed raises."""


def learning_rate(optim: OptimConfig, *, step: int, num_steps: int) -> float:
    """The learning rate of step `step` (from 0) of `num_steps`: linear warm-up, then linear decay to zero."""
    warmup = max(1, round(optim.warmup_ratio * num_steps))
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    return optim.lr * (num_steps - step) / max(1, num_steps - warmup)


def build_optimizer(module: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW with weight decay for matrices and embeddings, without it for biases, LayerNorms and vectors."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    parameter_groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(parameter_groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


class Engine:
    """A DeepSpeed engine; each workaround has a test in tests/training/engine/test_traps.py or test_engine.py."""

    def __init__(
        self, module: nn.Module, *, optim: OptimConfig, execution: Execution, batch_size: int, runtime: Runtime
    ) -> None:
        config = deepspeed_config(
            execution, batch_size=batch_size, world_size=runtime.world_size, clip_norm=optim.clip_norm or NEVER_CLIPS
        )
        module.to(runtime.device)
        self.engine: Any = deepspeed.initialize(
            model=module, optimizer=build_optimizer(module, optim), config=config, dist_init_required=False
        )[0]
        if self.scaler is not None:  # DeepSpeed builds it with torch's defaults and ignores the configuration
            settings: Any = grad_scaler_settings(execution)
            self.engine.torch_autocast_z0_gradscaler = torch.amp.GradScaler(runtime.device.type, **settings)
        self.execution = execution
        self.optim = optim
        self.grad_norm = torch.zeros((), device=runtime.device)
        """The global gradient norm of the last step, before clipping."""
        self._checked = execution.zero_stage == 3  # which releases the weights between two backward passes
        self._average: GradientAverage | None = None
        self._apply_workarounds(runtime)

    def _apply_workarounds(self, runtime: Runtime) -> None:
        # DeepSpeed's data-parallel group has torch's timeout of 30 minutes; a dead rank must end the run within two.
        ranks = groups._get_sequence_data_parallel_group()
        if runtime.world_size > 1:
            timeout = COMPILING_TIMEOUT if self.execution.compile else COLLECTIVE_TIMEOUT
            for group in (distributed_c10d._get_default_group(), ranks):
                distributed_c10d._set_pg_timeout(timeout, group)
        if self.execution.zero_stage > 0:
            return
        self.engine.clip_fp32_gradients = self._clip
        # With one rank there is nothing to reduce, yet DeepSpeed would copy every gradient into a bucket and back.
        self.engine.enable_backward_allreduce = runtime.world_size > 1
        if runtime.world_size > 1:
            ends_step = self.engine.is_gradient_accumulation_boundary
            average = self._average = GradientAverage(self.engine.module, ranks, ends_step=ends_step)
            self.engine.buffered_allreduce_fallback = lambda **_: average.finish()

    def _clip(self) -> None:
        """Clip as DeepSpeed does, and keep the norm, which DeepSpeed discards at ZeRO stage 0."""
        self.grad_norm = nn.utils.clip_grad_norm_(self.engine.module.parameters(), self.engine.gradient_clipping())
        if self.scaler is None:
            # A gradient that is not finite would write NaN into all weights; fused AdamW skips the step where found_inf
            # is 1. The norm is that of the reduced gradients, so all ranks agree. A GradScaler sets found_inf itself.
            self.engine.optimizer.found_inf = (~self.grad_norm.isfinite()).float()

    @property
    def scaler(self) -> Any:
        """The gradient scaler of fp16 at ZeRO stage 0, else None."""
        return self.engine.torch_autocast_z0_gradscaler

    @property
    def loss_scale(self) -> float:
        """The factor that losses are multiplied by before the backward pass."""
        if self.scaler is not None:
            return float(self.scaler.get_scale())
        return float(getattr(self.engine.optimizer, "loss_scale", 1.0)) if self.execution.precision == "fp16" else 1.0

    @property
    def lowest_loss_scale(self) -> float:
        """The scale at which a further overflow ends the run."""
        return float(self.execution.fp16_scale.min_loss_scale)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step, for every parameter group."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro batch; the first of a stage are compared with their expected value."""
        if self._checked:
            self.engine.backward(loss)
        else:
            self._checked = self._checked_backward(loss)

    def _checked_backward(self, loss: Tensor) -> bool:
        """Run a backward pass and compare one gradient with loss scale x true gradient / accumulation steps.

        DeepSpeed has dropped the loss scale silently before (its issue 8393). Returns whether there was something to
        compare: the first scales of fp16 may overflow.

        Raises: RuntimeError when the two differ by more than 5 %.
        """
        probe = self.engine.module.backbone.regions.feature_norm.bias  # every task of every stage reaches it
        # Scaled before the backward pass, not after: in fp16 the true gradient may underflow.
        expected_scale = self.loss_scale / self.engine.gradient_accumulation_steps()
        (right_gradient,) = torch.autograd.grad(loss * expected_scale, probe, retain_graph=True)
        seen: list[Tensor] = []
        hook = probe.register_hook(lambda gradient: seen.append(gradient.detach().clone()))
        self.engine.backward(loss)
        hook.remove()
        norm, expected = float(seen[0].float().norm()), float(right_gradient.float().norm())
        if math.isfinite(expected) and not abs(norm - expected) <= 0.05 * expected:
            raise RuntimeError(
                f"DeepSpeed {deepspeed.__version__} scales gradients to {norm:.3g} instead of {expected:.3g} with "
                f"{self.execution}; training would go wrong silently. Use another --ds-config or version"
            )
        return math.isfinite(expected) and expected > 0

    def step(self) -> None:
        """Step the optimiser after the last micro batch of a step; after the others nothing happens.

        Raises: FloatingPointError when gradients overflow at the lowest loss scale of fp16 with ZeRO.
        """
        try:
            self.engine.step()
        except Exception as error:
            if _AT_LOWEST_SCALE not in str(error):
                raise
            raise FloatingPointError(
                f"gradients overflow at the lowest loss scale, {self.lowest_loss_scale:g}; continue with --resume and "
                "a bf16 or fp32 --ds-config, or start again with a smaller --lr"
            ) from None
        if self.execution.zero_stage > 0:
            norm = self.engine.get_global_grad_norm()
            self.grad_norm = torch.as_tensor(0.0 if norm is None else norm)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the module into evaluation mode inside the block."""
        self.engine.eval()
        # Compiled layers run in eager mode: validation has other batch sizes, each of which would be compiled.
        with torch.compiler.set_stance("force_eager") if self.execution.compile else nullcontext():
            yield
        self.engine.train()

    def close(self) -> None:
        """Release what the engine holds, before the next stage builds its own."""
        if self._average is not None:
            self._average.close()
        self.engine.destroy()
        self.engine.optimizer = None
        self.engine.module = None
