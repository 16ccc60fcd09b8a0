"""`msp-ds import`: weights of other projects under our names, in a folder for train --init and evaluate."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msp_ds.config import ModelConfig, read_json
from msp_ds.data.format.vocabulary import Vocabulary, parse_vocabulary, read_vocabulary
from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import ALL_HEADS, BENCHMARK_HEADS, HEADS, build_heads
from msp_ds.model.weights.conversion import (
    ANSWER_DECODER,
    ConversionOptions,
    ConversionReport,
    check_fit,
    head_of,
    rename_weights,
    sizes_of,
)
from msp_ds.model.weights.forms import BERT_CLS_ID, Form, get_form
from msp_ds.model.weights.tensor_files import EXTRA_FILE, find_tensor_files, read_tensors
from msp_ds.preparation.texts.answer_vocabulary import AnswerVocabulary, answers_data
from msp_ds.preparation.texts.answer_vocabulary import read_vocabulary as read_answers
from msp_ds.presets import DEFAULT_PRESET, get_preset
from msp_ds.stateless_random import BACKBONE_WEIGHTS, IMPORTED_HEADS, key_of
from msp_ds.storage.checksums import sha256_of_file
from msp_ds.storage.small_files import read_small_bytes
from msp_ds.training.checkpointing.weights_folder import (
    ANSWERS_FILE,
    MODEL_FILE,
    VOCAB_FILE,
    StoredWeights,
    WeightsCard,
    prepared_folder,
    read_card,
    require_free,
    write_card,
    write_weights,
)
from msp_ds.training.settings import changed_model

BERT_VOCABULARY_SIZE = 30522
"""Vocabulary size of bert-base-uncased, whose [CLS] is piece 101."""
_CONFIG_FILES = ("config.json", "bert_config.json")
_THEIR_FIELDS = {
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
    "x_layers": "num_layers",
}
"""Key of config.json -> field of ModelConfig that must be equal."""


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """The options of an import."""

    source: Path
    """A file or folder."""
    form: str
    """A name of FORMS."""
    out: Path
    preset: str | None = None
    """Preset of the model. None: the model of our own export, else the default preset."""
    settings: Sequence[str] = ()
    """Changes of the model: `num_layers=3`, `model.region_gate=none`."""
    vocab: Path | None = None
    """Vocabulary file of the weights."""
    answers: Path | None = None
    """Answers of a question-answering head: LXMERT's trainval_label2ans.json, or all_ans.json."""
    seed: int = 9595
    """Seed of the parameters that are initialised at random."""
    drop_unknown: bool = False
    overwrite: bool = False


def import_weights(plan: ImportPlan) -> WeightsCard:
    """Write the weights folder `plan.out`; return its card with the report on every tensor.

    Our own exports keep their cards. Raises InputError for a source that cannot be read or belongs to another model,
    before anything is written.
    """
    require_free(plan.out, overwrite=plan.overwrite)
    form = get_form(plan.form)
    files = find_tensor_files(plan.source)
    # Only a folder can hold a card.
    own = read_card(plan.source) if (plan.source / MODEL_FILE).is_file() else None
    model = changed_model(_base_model(plan, own), plan.settings)
    needed = form.config == "always" or (form.config == "in folders" and plan.source.is_dir())
    _check_config(plan.source, model, needed=needed)
    tensors = _read_all([*files, *(file for file in (plan.source / EXTRA_FILE,) if file.is_file())])
    vocabulary = _vocabulary(plan.vocab, plan.source)
    answers = _answers(plan, own)
    reading = ConversionOptions(
        form=form,
        model=frozenset(model_shapes(dataclasses.replace(model, num_answers=1), ALL_HEADS)),
        cls_id=_cls_id(vocabulary, tensors),
        where=str(plan.source),
        with_answers=answers is not None,
        drop_unknown=plan.drop_unknown,
    )
    taken = rename_weights(tensors, reading)
    sizes: dict[str, Any] = sizes_of(taken.weights)
    decoder = taken.weights.get(ANSWER_DECODER)
    if decoder is not None:
        sizes["num_answers"] = len(decoder) if decoder.ndim else 1
    model = dataclasses.replace(model, **sizes)
    _check_words(model, vocabulary, own, where=str(plan.source))
    _check_answers(model, answers, own, where=str(plan.source))
    heads = [*HEADS, *sorted({head for name in taken.weights if (head := head_of(name)) in BENCHMARK_HEADS})]
    report = check_fit(taken, reading, shapes=model_shapes(model, heads))
    if own is None:
        report = dataclasses.replace(report, remarks=_remarks(form, model, report))
    card = own or WeightsCard(
        model=model,
        vocabulary_sha256=None,
        source=f"{form.name} {plan.source.name}",
        inputs_sha256={file.name: sha256_of_file(file) for file in files},
        report=report,
    )
    words = card.vocabulary_sha256 if vocabulary is None else vocabulary.sha256
    chosen = card.answers_sha256 if answers is None else answers.sha256
    stored = StoredWeights(
        card=dataclasses.replace(card, model=model, vocabulary_sha256=words, answers_sha256=chosen),
        weights=taken.weights | _fresh(report, model, plan.seed),
        vocabulary=None if vocabulary is None else vocabulary.data,
        answers=None if answers is None else answers_data(answers.answers),
    )
    with prepared_folder(plan.out, overwrite=plan.overwrite) as prepared:
        write_weights(prepared, stored)
        write_card(prepared, stored)
    return dataclasses.replace(stored.card, report=report)


def _base_model(plan: ImportPlan, own: WeightsCard | None) -> ModelConfig:
    if plan.preset is None and own is not None:
        return own.model
    return get_preset(plan.preset or DEFAULT_PRESET).model


def _read_all(files: Sequence[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            if name in tensors:
                raise InputError(f"{file} holds {name} again; each tensor must be in one file only")
            tensors[name] = tensor
    return tensors


def _check_config(source: Path, model: ModelConfig, *, needed: bool) -> None:
    """Raise InputError when a folder's config.json is missing or describes another model."""
    path = next((source / name for name in _CONFIG_FILES if (source / name).is_file()), None)
    if path is None:
        if needed:
            raise InputError(f"{source} has no config.json; name a folder as Hugging Face's save_pretrained writes it")
        return
    config = read_json(path, what="the configuration of a Hugging Face model")
    if not isinstance(config, dict):
        raise InputError(f"{path} should be the configuration of a Hugging Face model, but is not a table")
    for theirs, ours in _THEIR_FIELDS.items():
        if theirs in config and config[theirs] != getattr(model, ours):
            raise InputError(
                f"{path} describes another model: its {theirs} is {config[theirs]}, here {ours} is "
                f"{getattr(model, ours)}; name the model that fits with --preset or --set {ours}={config[theirs]}"
            )
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"{path} has hidden_act {config['hidden_act']}; only gelu, the exact one, is supported")


def _vocabulary(path: Path | None, folder: Path) -> Vocabulary | None:
    if path is not None:
        return read_vocabulary(path)
    beside = folder / VOCAB_FILE
    return parse_vocabulary(read_small_bytes(beside), name=str(beside)) if beside.is_file() else None


def _answers(plan: ImportPlan, own: WeightsCard | None) -> AnswerVocabulary | None:
    beside = plan.source / ANSWERS_FILE  # other people's file of this name may be anything
    path = plan.answers or (beside if own and beside.is_file() else None)
    return None if path is None else read_answers(path)


def _cls_id(vocabulary: Vocabulary | None, tensors: dict[str, Tensor]) -> int | None:
    """The id of [CLS]: that of the vocabulary, else of bert-base-uncased if the number of pieces is equal."""
    if vocabulary is not None:
        return vocabulary.pieces.index("[CLS]")
    tables = (tensor for name, tensor in tensors.items() if name.endswith("embeddings.word_embeddings.weight"))
    counts = {len(tensor) if tensor.ndim else 0 for tensor in tables}
    return BERT_CLS_ID if counts == {BERT_VOCABULARY_SIZE} else None


def _check_words(model: ModelConfig, vocabulary: Vocabulary | None, own: WeightsCard | None, *, where: str) -> None:
    if vocabulary is None:
        return
    if len(vocabulary.pieces) != model.vocab_size:
        raise InputError(
            f"{where} has {model.vocab_size} word pieces, {vocabulary.name} lists {len(vocabulary.pieces)}; "
            "name the vocabulary that it was trained with: --vocab FILE"
        )
    if own is not None and own.vocabulary_sha256 not in (None, vocabulary.sha256):
        raise InputError(f"{vocabulary.name} is not the vocabulary that {where} was exported with; leave --vocab out")


def _check_answers(
    model: ModelConfig, answers: AnswerVocabulary | None, own: WeightsCard | None, *, where: str
) -> None:
    if answers is None:
        return
    if not model.num_answers:
        raise InputError(f"{where} has no head that chooses among answers; leave --answers out")
    if len(answers) != model.num_answers:
        raise InputError(
            f"{where} chooses among {model.num_answers} answers, {answers.name} lists {len(answers)}; "
            "name those that it was trained with: --answers FILE"
        )
    if own is not None and own.answers_sha256 not in (None, answers.sha256):
        raise InputError(f"{answers.name} is not what {where} was exported with; leave --answers out")


def model_shapes(model: ModelConfig, head_names: Iterable[str] = HEADS) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of each tensor of a model with these heads, by default those of pre-training."""
    with torch.device("meta"):
        backbone = Backbone(model)
        heads = build_heads(head_names, model, backbone)
    named = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    named |= {f"heads.{name}": tensor for name, tensor in heads.state_dict().items()}
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def _fresh(report: ConversionReport, model: ModelConfig, seed: int) -> dict[str, Tensor]:
    """The tensors that the weights lack, initialised as training with this seed would."""
    if not report.fresh:
        return {}
    torch.manual_seed(key_of(BACKBONE_WEIGHTS.format(seed=seed)))
    backbone = Backbone(model)
    start = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    if any(head_of(name) for name in report.fresh):
        torch.manual_seed(key_of(IMPORTED_HEADS.format(seed=seed)))
        head = build_heads(["region"], model, backbone)
        start |= {f"heads.{name}": tensor for name, tensor in head.state_dict().items()}
    return {name: start[name].clone() for name in report.fresh}


def _remarks(form: Form, model: ModelConfig, report: ConversionReport) -> tuple[str, ...]:
    """Differences in meaning between these weights here and at their source."""
    remarks = []
    if "backbone.region_pooler.weight" in report.fresh:
        remarks.append(
            "the pair was tanh(text pooler) alone; here it is multiplied by the pooled visual [CLS], which is fresh: "
            "heads that read the pair must be trained again"
        )
        if any(name.startswith("heads.region.") for name in report.taken) and model.region_gate == "pair":
            remarks.append("the region head was not gated by the pair; --set model.region_gate=none reads it as it was")
    if form.counts_pieces and model.positions == "words":
        remarks.append(
            "positions counted word pieces from 0; here [CLS] and [SEP] have position 1 and the k-th word k + 2"
        )
    return tuple(remarks)
