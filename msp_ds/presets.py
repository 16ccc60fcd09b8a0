"""Models with the optimiser, the schedule and the task options that suit them, by name."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msp_ds.config import LengthBuckets, ModelConfig, OptimConfig, StageSchedule, TaskOptions
from msp_ds.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model with the optimiser and the schedule that suit it."""

    model: ModelConfig
    optim: OptimConfig
    schedule: dict[str, StageSchedule]
    """Schedules by the name of a stage (token, phrase, sentence) or of a benchmark."""
    tasks: TaskOptions = field(default_factory=TaskOptions)
    length_buckets: LengthBuckets = "auto"
    fine_tuning: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-5, warmup_ratio=0.1, clip_norm=5.0))
    """The optimiser on a benchmark (section 4.4; docs/evaluation.md, Fine-tuning schedule)."""


_BENCHMARKS = {"vqa": (6, 32), "gqa": (5, 32), "nlvr2": (8, 32), "retrieval": (8, 32)}
"""Fine-tuning epochs and batch size (docs/evaluation.md, Fine-tuning schedule); retrieval batches count captions."""
_TINY_BENCHMARKS = {"vqa": (4, 32), "gqa": (4, 32), "nlvr2": (2, 32), "retrieval": (1, 32)}
"""For the 7,051 to 11,507 questions, statements or captions of the demo world: about two and a half minutes on one
core. More epochs would help: VQA accuracy is 58, 64, 68 and 73 % after each epoch."""


def _schedule(
    token: tuple[int, int], phrase: tuple[int, int], sentence: tuple[int, int], *, benchmarks: Mapping[str, Any]
) -> dict[str, StageSchedule]:
    rows = {"token": token, "phrase": phrase, "sentence": sentence, **benchmarks}
    return {name: StageSchedule(epochs=epochs, batch_size=batch) for name, (epochs, batch) in rows.items()}


# For high learning rates: see the docstrings of the fields.
_STEADY: Any = {"region_gate": "none", "topic_prior": 0.005}
# Pair and positions as in LXMERT, UNITER and VisualBERT.
_TEXT_CLS: Any = {"visual_cls": False, "positions": "pieces"}

_PAPER = Preset(
    model=ModelConfig(),
    optim=OptimConfig(),
    schedule=_schedule((10, 64), (20, 128), (20, 128), benchmarks=_BENCHMARKS),
)
_TINY = Preset(
    model=ModelConfig(
        hidden_size=128,
        num_layers=2,
        num_heads=4,
        intermediate_size=512,
        dropout=0.0,
        init_std=0.05,  # the paper's 0.02 times sqrt(768 / 128), which gives states of the same size
        **_STEADY,
    ),
    optim=OptimConfig(lr=2e-3, warmup_ratio=0.1),
    schedule=_schedule((8, 64), (4, 64), (5, 64), benchmarks=_TINY_BENCHMARKS),
    # In the few hundred steps that tiny trains, a mean over the vocabulary gives topics too little weight, and hard
    # negatives alone do not teach matching.
    tasks=TaskOptions(itm_hard_probability=0.5, weights={"titp": 50.0, "tits": 50.0, "itm_hs": 2.0}),
    length_buckets="off",  # few steps at a high rate need mixed batches
    # The paper's 5e-5 is for a model six times as wide and tens of thousands of steps. Tiny takes a few hundred to a
    # thousand, at half the rate of its pre-training.
    fine_tuning=OptimConfig(lr=1e-3, warmup_ratio=0.1, clip_norm=5.0),
)


def _on(preset: Preset, **changes: Any) -> Preset:
    """Return `preset` with changes to its model."""
    return dataclasses.replace(preset, model=dataclasses.replace(preset.model, **changes))


PRESETS: dict[str, Preset] = {
    "paper": _PAPER,
    "small": dataclasses.replace(
        _PAPER,
        model=ModelConfig(hidden_size=384, num_heads=6, intermediate_size=1536, **_STEADY),
        optim=OptimConfig(lr=1e-4),
    ),
    "tiny": _TINY,
    "lxmert": _on(_PAPER, language_layers=9, region_layers=5, region_gate="none", **_TEXT_CLS),
    "single-stream": _on(_PAPER, encoder="single-stream", num_layers=12, **_TEXT_CLS, **_STEADY),
    "tiny-lxmert": _on(_TINY, language_layers=2, region_layers=1, **_TEXT_CLS),
    "tiny-single-stream": _on(_TINY, encoder="single-stream", num_layers=4, **_TEXT_CLS),
}
"""paper: LXMERT-S as published. small: a quarter of it. tiny: trains on two CPU cores in minutes. lxmert: LXMERT's
9-5-5 layers. single-stream: of UNITER-base's size. tiny-lxmert, tiny-single-stream: these two, as small as tiny."""


DEFAULT_PRESET = "paper"
"""The preset without a flag or an entry in the shards' recipe."""


def get_preset(name: str) -> Preset:
    """Return the preset called `name`; raises InputError, which lists the presets, if there is none."""
    if name not in PRESETS:
        raise InputError(f"no preset is called {name!r}; presets are {', '.join(PRESETS)}")
    return PRESETS[name]
