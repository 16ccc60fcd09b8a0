"""Heads of the authors' fine-tuned models, whose names differ from those of pre-training.

VQA, GQA and NLVR2 have `logit_fc`, a sequence of Linear, GELU, LayerNorm and Linear; LXMERT's pre-training had the same
as `answer_head.logit_fc`, for 9,500 answers; retrieval of LXMERT-S has `seq_relationship_new`, two logits of which the
second says matched. Beneath `cls.` that name is the topic head's.
"""

from collections.abc import Mapping

from torch import Tensor

PRETRAINED_ANSWERS = "answer_head."
_PARTS = {"0": "dense", "2": "norm", "3": "decoder"}
"""Index in the sequence -> name in AnswerHead."""


def named_as_ours(names: Mapping[str, str], tensors: Mapping[str, Tensor], *, with_answers: bool) -> dict[str, str]:
    """Return our names of the tensors of fine-tuned heads, by their normalised names.

    names: normalised name -> name in the file. with_answers: whether the answers of LXMERT's pre-trained head are
    known; it is left out if not.
    """
    first = names.get("logit_fc.0.weight")
    # The head of NLVR2 reads two pairs side by side, so its first Linear is square.
    two_pairs = first is not None and tensors[first].ndim == 2 and len(set(tensors[first].shape)) == 1
    head = "statement" if two_pairs else "answer"
    return {name: ours for name in names if (ours := _our_name(name, head=head, with_answers=with_answers))}


def _our_name(name: str, *, head: str, with_answers: bool) -> str | None:
    if name.startswith(PRETRAINED_ANSWERS) and with_answers:
        head, name = "answer", name.removeprefix(PRETRAINED_ANSWERS)
    module, _, rest = name.partition(".")
    number, _, ending = rest.partition(".")
    if module == "seq_relationship_new":
        return f"heads.match.dense.{rest}"
    return f"heads.{head}.{_PARTS[number]}.{ending}" if module == "logit_fc" and number in _PARTS else None
