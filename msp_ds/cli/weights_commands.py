"""The commands that bring weights in and take them out, for cli.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from msp_ds.progress import bars
from msp_ds.terminal import Terminal, one_line_errors
from msp_ds.train import Debug

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write over weights that were exported there before.")]


def import_weights(
    source: Annotated[Path, typer.Argument(help="File or folder that holds the weights.")],
    form: Annotated[Literal["lxmert-s", "lxmert", "bert", "hf-lxmert"], typer.Option("--from", help="Whose they are.")],
    out: Annotated[Path, typer.Option(help="Weights folder to write.")],
    preset: Annotated[
        str | None, typer.Option(help="Whose model it is. [what an export of ours says, else paper]")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Of the model: num_layers=3; repeatable.")] = None,
    vocab: Annotated[
        Path | None, typer.Option(help="Their vocab.txt, or bert-base-uncased. [that in the folder]")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="What its answer head chooses from: trainval_label2ans.json, all_ans.json.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what stays fresh.")] = 9595,
    drop_unknown: Annotated[bool, typer.Option("--drop-unknown", help="Leave out tensors of unknown name.")] = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Bring weights in that others trained: train --init and evaluate take the folder that it writes."""
    from msp_ds.exchange.import_table import import_lines, import_table
    from msp_ds.exchange.weights_import import ImportPlan
    from msp_ds.exchange.weights_import import import_weights as write

    with one_line_errors(debug=debug):
        plan = ImportPlan(
            source=source,
            form=form,
            out=out,
            preset=preset,
            settings=tuple(setting or ()),
            vocab=_words(vocab),
            answers=answers,
            seed=seed,
            drop_unknown=drop_unknown,
            overwrite=overwrite,
        )
        with bars(f"importing {source}", is_drawn=False):
            card = write(plan)
    Terminal().print(import_table(card))
    Terminal(soft_wrap=True).print(*import_lines(card), f"written to {out}", sep="\n")


def _words(vocab: Path | None) -> Path | None:
    """The file that --vocab means: for bert-base-uncased, the one on this machine."""
    from msp_ds.data.format.vocabulary import BERT_BASE_UNCASED, default_hf_home, find_bert_vocabulary

    if str(vocab) != BERT_BASE_UNCASED:
        return vocab
    return Path(find_bert_vocabulary(hf_home=default_hf_home(os.environ)).name)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run, a checkpoint or a weights folder.")],
    to: Annotated[Literal["hf", "safetensors", "lxmert-s"], typer.Option(help="The form.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    vocab: Annotated[Path | None, typer.Option(help="Its vocab.txt, where its shards are out of reach.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights, for the model card.")] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Take weights out, with a model card: for Hugging Face, as plain safetensors, or by LXMERT-S's names."""
    from msp_ds.exchange.weights_export import ExportPlan, export_weights

    with one_line_errors(debug=debug):
        plan = ExportPlan(source=checkpoint, form=to, out=out, vocab=vocab, licence=licence, overwrite=overwrite)
        with bars(f"exporting {checkpoint}", is_drawn=False):
            done = export_weights(plan)
    told = (*done.remarks, f"written to {done.folder}: {', '.join(done.files)}")
    Terminal(soft_wrap=True).print(*told, sep="\n")
