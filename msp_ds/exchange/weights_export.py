"""`msp-ds export`: weights in the format of another project, with a model card."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from msp_ds.config import ModelConfig
from msp_ds.data.format.vocabulary import parse_vocabulary
from msp_ds.errors import InputError
from msp_ds.exchange.tokenizer_files import write_tokenizer
from msp_ds.exchange.weights_card import ExportForm, model_card, remarks
from msp_ds.exchange.weights_import import BERT_VOCABULARY_SIZE
from msp_ds.model.weights.conversion import WORDS, head_of, to_theirs
from msp_ds.model.weights.forms import BERT_CLS_ID, HF_LXMERT_FORM, LXMERT_S_FORM
from msp_ds.model.weights.tensor_files import EXTRA_FILE, write_pickle, write_safetensors
from msp_ds.storage.atomic_files import write_durably
from msp_ds.training.checkpointing.weights_folder import (
    VOCAB_FILE,
    StoredWeights,
    prepared_folder,
    require_free,
    write_card,
    write_weights,
)
from msp_ds.training.checkpointing.weights_history import stored_weights

CARD_FILE = "README.md"
RELEASED_FILE = "lxmert_s_LXRT.pth"
"""Name in the released code, which appends `_LXRT.pth` to its argument `lxmert_s`."""
HF_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """The options of an export."""

    source: Path
    """A run, a checkpoint or a weights folder."""
    form: ExportForm
    out: Path
    vocab: Path | None = None
    """Vocabulary file, if the run's shards are not accessible."""
    licence: str | None = None
    """Licence of the weights, for the card."""
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The files that were written."""

    folder: Path
    files: tuple[str, ...]
    remarks: tuple[str, ...]
    """Differences between the form and the model."""


def export_weights(plan: ExportPlan) -> Exported:
    """Write the folder `plan.out` atomically: the weights, model.json, vocab.txt and the card README.md.

    Equal weights give equal bytes. Raises InputError for weights that the form cannot hold.
    """
    require_free(plan.out, overwrite=plan.overwrite)
    stored = stored_weights(plan.source, vocab=plan.vocab)
    if plan.licence is not None:
        stored = replace(stored, card=replace(stored.card, licence=plan.licence))
    with prepared_folder(plan.out, overwrite=plan.overwrite) as prepared:
        _WRITERS[plan.form](prepared, stored)
        write_card(prepared, stored)
        heads = sorted({head for name in stored.weights if (head := head_of(name))})
        write_durably(prepared / CARD_FILE, model_card(stored.card, plan.form, heads=heads).encode())
        files = tuple(sorted(file.name for file in prepared.iterdir()))
    return Exported(folder=plan.out, files=files, remarks=remarks(stored.card.model, plan.form, heads=heads))


def _write_lxmert_s(folder: Path, stored: StoredWeights) -> None:
    """Write a plain state dict under the released names, and under ours where these have none."""
    if "backbone.regions.cls_feature" not in stored.weights:
        raise InputError(
            f"{stored.card.source} has no visual [CLS], which the released LXMERT-S needs; "
            "export it with --to hf or safetensors"
        )
    theirs, extra = to_theirs(stored.weights, LXMERT_S_FORM, cls_id=_cls_id(stored), where=stored.card.source)
    if any(head_of(name) == "token" for name in stored.weights):
        theirs["cls.predictions.decoder.weight"] = theirs["bert.embeddings.word_embeddings.weight"]
    write_pickle(folder / RELEASED_FILE, theirs | extra)


def _cls_id(stored: StoredWeights) -> int | None:
    if stored.vocabulary is not None:
        return parse_vocabulary(stored.vocabulary, name=VOCAB_FILE).pieces.index("[CLS]")
    return BERT_CLS_ID if len(stored.weights[WORDS]) == BERT_VOCABULARY_SIZE else None


def _write_hf(folder: Path, stored: StoredWeights) -> None:
    """Write LxmertForPreTraining and its tokenizer as save_pretrained does, and all other tensors to EXTRA_FILE."""
    if stored.vocabulary is None and stored.card.vocabulary_sha256 is not None:
        raise InputError(
            f"the vocabulary of {stored.card.source} is not accessible; name its vocab.txt, which is in each of its "
            "shard sets: --vocab FILE"
        )
    theirs, extra = to_theirs(stored.weights, HF_LXMERT_FORM, cls_id=None, where=stored.card.source)
    renamed = {f"lxmert.{name[5:]}" if name.startswith("bert.") else name: tensor for name, tensor in theirs.items()}
    write_safetensors(folder / HF_FILE, renamed)
    if extra:
        write_safetensors(folder / EXTRA_FILE, extra)
    text = json.dumps(hf_config(stored.card.model, theirs), indent=2, sort_keys=True)
    write_durably(folder / "config.json", f"{text}\n".encode())
    if stored.vocabulary is not None:
        vocabulary = parse_vocabulary(stored.vocabulary, name=VOCAB_FILE)
        write_tokenizer(folder, vocabulary, max_tokens=stored.card.model.max_positions)


def hf_config(model: ModelConfig, theirs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return our model as the config.json of transformers' LxmertConfig, for tensors under LXMERT's names."""

    def count_layers(stem: str) -> int:
        return len({name.split(".")[3] for name in theirs if name.startswith(f"bert.encoder.{stem}.")})

    def has(stem: str) -> bool:
        return any(name.startswith(stem) for name in theirs)

    return {
        "architectures": ["LxmertForPreTraining"],
        "model_type": "lxmert",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.dropout,
        "max_position_embeddings": model.max_positions,
        "type_vocab_size": 2,
        "initializer_range": model.init_std,
        "l_layers": count_layers("layer"),
        "r_layers": count_layers("r_layers"),
        "x_layers": count_layers("x_layers"),
        "visual_feat_dim": model.feature_width,
        "visual_pos_dim": 4,
        "num_object_labels": model.num_objects,
        "num_attr_labels": model.num_attributes,
        "task_mask_lm": has("cls.predictions."),
        "task_matched": has("cls.seq_relationship."),
        "task_obj_predict": has("obj_predict_head."),
        "visual_obj_loss": has("obj_predict_head.decoder_dict.obj."),
        "visual_attr_loss": has("obj_predict_head.decoder_dict.attr."),
        "visual_feat_loss": has("obj_predict_head.decoder_dict.feat."),
        "task_qa": False,
        "tie_word_embeddings": True,
    }


_WRITERS: dict[ExportForm, Callable[[Path, StoredWeights], None]] = {
    "hf": _write_hf,
    "safetensors": write_weights,
    "lxmert-s": _write_lxmert_s,
}
