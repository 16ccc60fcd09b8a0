"""Foreign forms of weights: their tables of names, tables of which one row is used, and tensors that are left out."""

from dataclasses import dataclass, field
from typing import Literal

from msp_ds.errors import InputError
from msp_ds.model.weights.fine_tuned import PRETRAINED_ANSWERS
from msp_ds.model.weights.lxmert_names import BERT, LXMERT, LXMERT_S
from msp_ds.model.weights.names import NameTable

BERT_CLS_ID = 101
"""Id of [CLS] in bert-base-uncased."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of a foreign table that is a vector here; the other rows are never used."""

    ours: str
    theirs: str
    row: Literal["first", "cls"]
    """The row of token type 0, which every token has, or the row of the piece [CLS]."""
    num_rows: int | None
    """Rows of the foreign table; None for as many as word pieces."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A foreign form of weights."""

    name: str
    title: str
    """Name in messages, as in `part of TITLE`."""
    table: NameTable
    rows: tuple[TableRow, ...]
    not_ours: dict[str, str] = field(default_factory=dict)
    """Prefix of foreign names -> why such tensors are left out."""
    counts_pieces: bool = True
    """Whether positions count word pieces from 0 and not whole words."""
    fine_tuned: bool = True
    """Whether there are fine-tuned models of this form, whose heads are known."""
    config: Literal["none", "in folders", "always"] = "none"
    """When a config.json, which has the number of attention heads, must be beside the weights."""

    def row_of_ours(self, name: str) -> TableRow | None:
        """Return the table row that holds our tensor `name`."""
        return next((row for row in self.rows if row.ours == name), None)

    def row_of_theirs(self, name: str) -> TableRow | None:
        """Return the row of the foreign table `name` that is one of our tensors."""
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
"""Forms by their names on the command line."""


def get_form(name: str) -> Form:
    """Return the form called `name`; raises InputError, which lists the forms, if there is none."""
    if name not in FORMS:
        raise InputError(f"no form of weights is called {name!r}; forms are {', '.join(FORMS)}")
    return FORMS[name]
