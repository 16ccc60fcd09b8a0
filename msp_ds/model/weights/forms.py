"""The forms in which others keep such weights: their table of names, their single rows, what in them is not ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msp_ds.errors import InputError
from msp_ds.model.weights.fine_tuned import PRETRAINED_ANSWERS
from msp_ds.model.weights.lxmert_names import BERT, LXMERT, LXMERT_S
from msp_ds.model.weights.names import NameTable

BERT_CLS_ID = 101
"""Of [CLS] in bert-base-uncased."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of a table of theirs, which is a vector of ours: the other rows are never read."""

    ours: str
    theirs: str
    row: Literal["first", "cls"]
    """The row of token type 0, which every token has, or that of the piece [CLS]."""
    num_rows: int | None
    """Of their table; None: as many as word pieces."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A foreign form of weights."""

    name: str
    title: str
    """In a sentence: `weights of …`."""
    table: NameTable
    rows: tuple[TableRow, ...]
    not_ours: dict[str, str] = field(default_factory=dict)
    """How their names begin -> why such tensors are left out."""
    counts_pieces: bool = True
    """Whether its positions count word pieces from 0, rather than whole words."""
    fine_tuned: bool = True
    """Whether there are fine-tuned models of it, whose heads are known."""
    config: Literal["none", "in folders", "always"] = "none"
    """Where a config.json must lie beside the weights, which says how many attention heads they have."""

    def row_of_ours(self, name: str) -> TableRow | None:
        """Where their form keeps our tensor `name` as a row of a table."""
        return next((row for row in self.rows if row.ours == name), None)

    def row_of_theirs(self, name: str) -> TableRow | None:
        """Which of our tensors is a row of their table `name`."""
        return next((row for row in self.rows if row.theirs == name), None)


_TYPES = TableRow(
    ours="backbone.text.type_vector", theirs="bert.embeddings.token_type_embeddings.weight", row="first", num_rows=2
)
_VISUAL_CLS = TableRow(
    ours="backbone.regions.cls_feature", theirs="bert.word_embeddings.weight", row="cls", num_rows=None
)

_BUFFERS = {
    "bert.embeddings.position_ids": "numbers 0, 1, 2, ..., nothing learned",
    "bert.embeddings.token_type_ids": "zeros, nothing learned",
    "cls.predictions.decoder.bias": "cls.predictions.bias by another name",
}
_ANSWERS = {
    PRETRAINED_ANSWERS: "LXMERT's head for question answering; name its answers with --answers all_ans.json to take it",
}
_NEXT_SENTENCE = {
    "cls.seq_relationship.": "BERT's next-sentence head: index 0 says yes there, in the match head here index 1 does; "
    "it answers another question, so it is not taken"
}

LXMERT_S_FORM = Form(
    name="lxmert-s",
    title="the released LXMERT-S",
    table=LXMERT_S,
    rows=(_TYPES, _VISUAL_CLS),
    not_ours={**_BUFFERS, **_ANSWERS},
    counts_pieces=False,
)
LXMERT_FORM = Form(name="lxmert", title="LXMERT", table=LXMERT, rows=(_TYPES,), not_ours={**_BUFFERS, **_ANSWERS})
HF_LXMERT_FORM = Form(
    name="hf-lxmert",
    title="Hugging Face's LXMERT",
    table=LXMERT,
    rows=(_TYPES,),
    not_ours={**_BUFFERS, **_ANSWERS},
    config="always",
)
BERT_FORM = Form(
    name="bert",
    title="BERT",
    table=BERT,
    rows=(_TYPES,),
    not_ours={**_BUFFERS, **_NEXT_SENTENCE},
    fine_tuned=False,
    config="in folders",
)

FORMS: dict[str, Form] = {form.name: form for form in (LXMERT_S_FORM, LXMERT_FORM, BERT_FORM, HF_LXMERT_FORM)}
"""By the name that the command line gives them."""


def get_form(name: str) -> Form:
    """The form called `name`; InputError lists them if there is none."""
    if name not in FORMS:
        raise InputError(f"no form of weights is called {name!r}; forms are {', '.join(FORMS)}")
    return FORMS[name]
