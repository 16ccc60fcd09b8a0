"""The tokenizer of an export in the files of transformers' AutoTokenizer."""

import json
from pathlib import Path
from typing import Any

from tokenizers import decoders, models, processors

from msp_ds.data.format.vocabulary import Vocabulary, bert_tokenizer
from msp_ds.storage.atomic_files import write_durably

_SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def write_tokenizer(folder: Path, vocabulary: Vocabulary, *, max_tokens: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    It splits texts as msp-ds does, except that transformers reads [MASK] and the like in a text as special pieces.
    """
    numbers = {piece: number for number, piece in enumerate(vocabulary.pieces)}
    tokenizer = bert_tokenizer(models.WordPiece(vocab=numbers, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(_SPECIAL.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(piece, numbers[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "clean_up_tokenization_spaces": True,
        "model_max_length": max_tokens,
        **_SPECIAL,
    }
    write_durably(folder / "tokenizer.json", f"{tokenizer.to_str(pretty=True)}\n".encode())
    for name, table in {"tokenizer_config.json": settings, "special_tokens_map.json": _SPECIAL}.items():
        write_durably(folder / name, f"{json.dumps(table, indent=2)}\n".encode())
