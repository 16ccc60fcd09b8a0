"""Commands that import and export weights."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from msp_ds.errors import InputError
from msp_ds.progress import bars
from msp_ds.terminal import Terminal

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write over weights that were exported there before.")]


def import_weights(
    source: Annotated[Path, typer.Argument(help="File or folder that holds the weights.")],
    form: Annotated[
        Literal["lxmert-s", "lxmert", "bert", "hf-lxmert", "vg-detector"],
        typer.Option("--from", help="Form of the weights."),
    ],
    out: Annotated[Path, typer.Option(help="Weights folder to write.")],
    preset: Annotated[str | None, typer.Option(help="Preset of the model. [as exported, else paper]")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the model: num_layers=3; may be repeated.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(help="Their vocab.txt, or bert-base-uncased. [that in the folder]")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Answers of its answer head: trainval_label2ans.json, all_ans.json.")
    ] = None,
    objects_vocab: Annotated[Path | None, typer.Option(help="Object labels of a detector, one per line.")] = None,
    attributes_vocab: Annotated[Path | None, typer.Option(help="Attribute labels of a detector, one per line.")] = None,
    seed: Annotated[int, typer.Option(help="Seed for parameters that are initialised at random.")] = 9595,
    drop_unknown: Annotated[bool, typer.Option("--drop-unknown", help="Leave out tensors of unknown name.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Import weights that others trained. train --init and evaluate accept the folder that it writes, regions that of a
    detector."""
    labels = {"objects": objects_vocab, "attributes": attributes_vocab}
    if form == "vg-detector":
        flags = {"preset": preset, "set": setting, "vocab": vocab, "answers": answers, "drop-unknown": drop_unknown}
        _import_detector(source, labels, out, overwrite=overwrite, misplaced=[name for name in flags if flags[name]])
        return
    if any(labels.values()):
        raise InputError("--objects-vocab and --attributes-vocab are for --from vg-detector; leave them out")
    from msp_ds.exchange.import_table import import_lines, import_table
    from msp_ds.exchange.weights_import import ImportPlan
    from msp_ds.exchange.weights_import import import_weights as write

    plan = ImportPlan(
        source=source,
        form=form,
        out=out,
        preset=preset,
        settings=tuple(setting or ()),
        vocab=_vocab_file(vocab),
        answers=answers,
        seed=seed,
        drop_unknown=drop_unknown,
        overwrite=overwrite,
    )
    with bars(f"importing {source}", is_drawn=False):
        card = write(plan)
    Terminal().print(import_table(card))
    Terminal(soft_wrap=True).print(*import_lines(card), f"written to {out}", sep="\n")


def _import_detector(
    source: Path, labels: dict[str, Path | None], out: Path, *, overwrite: bool, misplaced: list[str]
) -> None:
    from msp_ds.regions.detectors.vg_weights import import_vg_detector

    if misplaced:
        raise InputError(f"--{misplaced[0]} is not for --from vg-detector; leave it out")
    objects, attributes = labels["objects"], labels["attributes"]
    if objects is None or attributes is None:
        raise InputError("--from vg-detector needs the labels: --objects-vocab FILE --attributes-vocab FILE")
    card = import_vg_detector(source, objects=objects, attributes=attributes, out=out, overwrite=overwrite)
    Terminal(soft_wrap=True).print(f"a detector in the layout of {card.layout}", f"written to {out}", sep="\n")


def _vocab_file(vocab: Path | None) -> Path | None:
    """Return the file that --vocab means: for bert-base-uncased, the one on this machine."""
    from msp_ds.data.format.vocabulary import BERT_BASE_UNCASED, default_hf_home, find_bert_vocabulary

    if str(vocab) != BERT_BASE_UNCASED:
        return vocab
    return Path(find_bert_vocabulary(hf_home=default_hf_home(os.environ)).name)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run, a checkpoint or a weights folder.")],
    to: Annotated[Literal["hf", "safetensors", "lxmert-s"], typer.Option(help="Form of the weights.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    vocab: Annotated[Path | None, typer.Option(help="Its vocab.txt, where its shards are out of reach.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the model card.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export weights with a model card. The forms are Hugging Face, plain safetensors and the names of LXMERT-S."""
    from msp_ds.exchange.weights_export import ExportPlan, export_weights

    plan = ExportPlan(source=checkpoint, form=to, out=out, vocab=vocab, licence=licence, overwrite=overwrite)
    with bars(f"exporting {checkpoint}", is_drawn=False):
        done = export_weights(plan)
    written = f"written to {done.folder}: {', '.join(done.files)}"
    Terminal(soft_wrap=True).print(*done.remarks, written, sep="\n")
