"""The model card of exported weights: the model, how to load it, and its training."""

from collections.abc import Iterable, Sequence
from typing import Literal

from msp_ds.config import ModelConfig
from msp_ds.training.checkpointing.weights_folder import History, TrainedStage, WeightsCard
from msp_ds.training.monitoring.metric_texts import plain

ExportForm = Literal["hf", "safetensors", "lxmert-s"]

_STATES_LIKE_OURS = '''\
import torch
from safetensors.torch import load_file
from transformers import LxmertModel

model = LxmertModel.from_pretrained(FOLDER).eval()
extra = load_file(f"{FOLDER}/msp_ds.safetensors")


def encode(token_ids, word_positions, token_mask, features, boxes, region_mask):
    """Text states, region states and the pair. token_ids, word_positions: int64 [B, T]; token_mask: bool [B, T];
    features: float32 [B, R, F]; boxes: float32 [B, R, 4], fractions of the image; region_mask: bool [B, R]."""
    count = len(token_ids)
    # The word positions, in place of 0, 1, 2, ... which transformers adds.
    table = model.embeddings.position_embeddings.weight
    words = model.embeddings.word_embeddings(token_ids) + table[word_positions] - table[: token_ids.shape[1]]
    # The visual [CLS]: one region more, whose box is the whole image.
    first = extra["backbone.regions.cls_feature"].expand(count, 1, -1)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(count, 1, 4)
    states = model(
        inputs_embeds=words,
        attention_mask=token_mask.float(),
        visual_feats=torch.cat((first, features), dim=1),
        visual_pos=torch.cat((whole, boxes), dim=1),
        visual_attention_mask=torch.cat((torch.ones(count, 1), region_mask.float()), dim=1),
    )
    cls = states.vision_output[:, 0]
    pooled = torch.tanh(cls @ extra["backbone.region_pooler.weight"].T + extra["backbone.region_pooler.bias"])
    return states.language_output, states.vision_output[:, 1:], states.pooled_output * pooled
'''

_LOADING: dict[ExportForm, str] = {
    "hf": """\
`transformers` reads this folder:

```python
from transformers import AutoTokenizer, LxmertForPreTraining, LxmertModel

tokenizer = AutoTokenizer.from_pretrained(FOLDER)  # where vocab.txt lies in it
backbone = LxmertModel.from_pretrained(FOLDER)
model = LxmertForPreTraining.from_pretrained(FOLDER)  # with the heads
```
""",
    "safetensors": """\
`weights.safetensors` holds fp32 tensors by the names of msp-ds, `model.json` the configuration. The decoder of the
token head is the table of word embeddings and is stored once. msp-ds reads the folder:

    msp-ds train --curriculum s --init FOLDER
    msp-ds evaluate --checkpoint FOLDER
""",
    "lxmert-s": """\
`lxmert_s_LXRT.pth` is a plain state dict under the names of the released LXMERT-S code, which loads it as
`encoder.load("FOLDER/lxmert_s")`; `torch.load(file, weights_only=True)` reads it too. The table
`bert.word_embeddings.weight` is as large as that code expects and zero but for the row of [CLS], the only one it reads.
""",
}


def model_card(card: WeightsCard, form: ExportForm, *, heads: Sequence[str]) -> str:
    """Return README.md in Markdown, a function of its arguments alone. heads: names of the exported heads."""
    parts = [
        f"---\nlicense: other\ntags: [vision-and-language, lxmert, msp]\n---\n\n# {plain(card.source)}, by msp-ds",
        f"Weights of msp-ds (multi-stage pre-training, ACL 2021), from {plain(card.source)}.",
        _model(card.model, heads) + (f" Regions by {plain(card.detector.describe())}." if card.detector else ""),
        f"## Loading\n\n{_LOADING[form]}",
    ]
    noted = remarks(card.model, form, heads=heads)
    if noted:
        parts.append("## Differences between this form and the model\n\n" + "\n".join(f"* {line}" for line in noted))
    if form == "hf" and card.model.visual_cls:
        parts.append(f"This gives the states of msp-ds:\n\n```python\n{_STATES_LIKE_OURS}```")
    parts += _history(card.history) if card.history else [_imported(card)]
    unknown = "Not stated by the author of these weights. The training data has terms of its own."
    licence = plain(card.licence) if card.licence else unknown
    parts.append(f"## Licence\n\n{licence}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def remarks(model: ModelConfig, form: ExportForm, *, heads: Sequence[str]) -> tuple[str, ...]:
    """Return the differences between a form and the model, for those who load it."""
    if form == "safetensors":
        return ()
    found = (_remarks_on_hf if form == "hf" else _remarks_on_lxmert_s)(model, heads)
    if model.layer_norm_eps != 1e-12:
        found.append(f"LayerNorms have eps {model.layer_norm_eps:g} here and 1e-12 there")
    return tuple(found)


def _remarks_on_hf(model: ModelConfig, heads: Sequence[str]) -> list[str]:
    found = []
    if model.visual_cls:
        found.append(
            "transformers has no visual [CLS]: its feature and its pooler lie in msp_ds.safetensors; the states agree "
            "when the feature is given as the first region, with the box 0 0 1 1"
        )
    if model.positions == "words":
        found.append(
            "transformers counts word pieces from 0; here [CLS] and [SEP] have position 1, all pieces of the k-th word "
            "(from 0) k + 2, and padding 0"
        )
    if "match" in heads and model.visual_cls:
        found.append(
            "cross_relationship_score reads the pooled text alone, the match head here the pair: apply "
            "cls.seq_relationship to the pair (index 1 says matched in both)"
        )
    if "region" in heads and model.region_gate == "pair":
        found.append("obj_predict_head decodes the transformed region there, here its product with the pair")
    known = ("token", "region", "match")
    found += [
        f"the {head} head has no place there and lies in msp_ds.safetensors" for head in heads if head not in known
    ]
    absent = [head for head in known if head not in heads]
    if absent:
        found.append(
            f"without {' and '.join(absent)} head among these weights, transformers initialises its own at random"
        )
    return found


def _remarks_on_lxmert_s(model: ModelConfig, heads: Sequence[str]) -> list[str]:
    found = []
    if "region" in heads and model.region_gate != "pair":
        found.append("the released code multiplies a region by the pair before it decodes it; this model does not")
    if "topic" in heads and model.topic_head == "plain":
        found.append("the topic head is a plain linear layer here, LayerNorm(GELU(Linear)) there")
    known = ("token", "region", "topic", "match")
    found += [f"the {head} head stands under the names of msp-ds" for head in heads if head not in known]
    return found


def _model(model: ModelConfig, heads: Sequence[str]) -> str:
    return (
        f"Hidden size {model.hidden_size}, {model.num_layers} layers in which text and regions meet, {model.num_heads} "
        f"attention heads, {model.vocab_size} word pieces, region features {model.feature_width} wide, "
        f"{model.num_objects} object and {model.num_attributes} attribute labels. "
        f"Heads among the weights: {', '.join(heads) or 'none'}. "
        "Index 1 of the match head says that text and image match."
    )


def _imported(card: WeightsCard) -> str:
    lines = ["## Origin", "", "These weights were trained elsewhere and imported from:", ""]
    lines += [f"* {plain(name)}, sha256 {plain(sha256)}" for name, sha256 in sorted(card.inputs_sha256.items())]
    if card.report is not None:
        lines += ["", f"{len(card.report.taken)} tensors were imported, {len(card.report.left_out)} left out."]
        if card.report.fresh:
            lines += ["", f"Initialised at random: {plain(', '.join(card.report.fresh))}."]
        lines += ["", *(f"* {plain(line)}" for line in card.report.remarks)]
    return "\n".join(lines)


def _history(history: History) -> list[str]:
    start = "initialised at random" if history.init is None else f"from {plain(history.init)}"
    drop = f", without {plain(', '.join(history.drop))}" if history.drop else ""
    stages = [
        (stage.name, ", ".join(stage.tasks), f"{stage.epochs} x {stage.batch_size}", _steps(stage))
        for stage in history.stages
    ]
    data = [
        (
            one.name,
            *(_or_unknown(count) for count in (one.num_images, one.num_pairs)),
            one.extractor or "?",
            one.index_sha256[:16],
        )
        for one in history.data
    ]
    metrics = [
        (name, *(_number(stage.validation[name]) if name in stage.validation else "" for stage in history.stages))
        for name in sorted({name for stage in history.stages for name in stage.validation})
    ]
    grades = [
        f"{plain(grade.task)} ({plain(grade.protocol)}):\n\n"
        + _table(
            ("", "value"), ((name.removeprefix("grades."), _number(value)) for name, value in grade.values.items())
        )
        for grade in history.grades
    ]
    return [
        f"## Training\n\nCurriculum {plain(history.curriculum)}{drop}, preset {plain(history.preset)}, "
        f"seed {history.seed}, backbone {start}, code {plain(history.git_commit)}.",
        _table(("stage", "tasks", "epochs x batch", "steps"), stages),
        "## Data\n\n" + _table(("shard set", "images", "pairs", "features by", "sha256 of its index"), data),
        "## Metrics\n\nOn held-out pairs, at the end of each stage:\n\n"
        + _table(("metric", *(stage.name for stage in history.stages)), metrics),
        *grades,
    ]


def _steps(stage: TrainedStage) -> str:
    return f"{stage.steps}" if stage.finished else f"{stage.steps}, not finished"


def _or_unknown(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; its cells are escaped."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(map(plain, line))} |" for line in lines)
