"""Texts as word pieces with whole-word positions, and label names as word pieces.

V vocabulary size, C object labels, A attribute labels, P pieces of the longest label.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tokenizers import models
from torch import Tensor

from msp_ds.data.format.vocabulary import SPECIAL_PIECES, Vocabulary, bert_tokenizer
from msp_ds.errors import InputError
from msp_ds.records import IGNORE, VocabularyTables
from msp_ds.storage.small_files import read_small_bytes

Label = tuple[str, ...]
"""The names of a label, the usual one first: ("stop sign", "stopsign")."""

SPECIAL_POSITION = 1
"""Word position of [CLS] and [SEP]; padding has 0."""
FIRST_WORD_POSITION = 2

# English words that name nothing visible; topic_words=content excludes them, punctuation and single characters.
FUNCTION_WORDS = """
    a about above after again against all along also am an and another any are as at away back be been before behind
    being below beneath beside between both but by can could did do does doing down during each either else every few
    for from further had has have having he her here hers him his how i if in into is it its itself just like many me
    more most much my near nearby next no nor not of off on one only onto or other our out outside over own per same
    several she should so some such than that the their them themselves then there these they this those through to
    together too toward towards under underneath until up upon us very was we were what when where which while who
    whose why will with within without would you your
    """


_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""First and last of the characters that BERT's tokenizer treats as Chinese."""
_CLEANED = frozenset({"Cc", "Cf", "Co", "Cs", "Mn"})
"""Unicode categories that BERT's tokenizer removes."""


class EncodedText(NamedTuple):
    """The input of the model for a text."""

    token_ids: list[int]
    """[CLS] pieces [SEP]."""
    word_positions: list[int]
    """1 for [CLS] and [SEP], k + 2 for the pieces of word k, counted from 0; a Chinese character is a word."""
    truncated: bool


class WordPieces:
    """Splits texts into the pieces of a vocabulary as bert-base-uncased does: cleaned, lower-cased, without accents."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ids = {piece: number for number, piece in enumerate(vocabulary.pieces)}
        self._tokenizer = bert_tokenizer(models.WordPiece(vocab=self._ids, unk_token="[UNK]"))
        self.cls_id, self.sep_id, self.mask_id = (self._ids[piece] for piece in ("[CLS]", "[SEP]", "[MASK]"))

    @property
    def size(self) -> int:
        """V."""
        return len(self._ids)

    def ids_of(self, text: str) -> list[int]:
        """Return the piece ids of a text, without [CLS] and [SEP]."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, text: str, *, max_tokens: int) -> EncodedText:
        """Encode a text as at most `max_tokens` pieces, [CLS] and [SEP] included."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        kept = max_tokens - 2
        positions = _word_positions(text, encoding.offsets[:kept])
        return EncodedText(
            token_ids=[self.cls_id, *encoding.ids[:kept], self.sep_id],
            word_positions=[SPECIAL_POSITION, *positions, SPECIAL_POSITION],
            truncated=len(encoding.ids) > kept,
        )


def is_blank(text: str) -> bool:
    """Return whether BERT's tokenizer removes all of a text: spaces, invisible characters and single accents."""
    return all(one.isspace() or one == "\ufffd" or unicodedata.category(one) in _CLEANED for one in text)


def _word_positions(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The position of each piece's white-space word, by where the piece ends in the text."""
    if text.isascii() and text.isprintable():  # nearly all texts: only blanks separate pieces and words
        ends = [spans[0][0] if spans else 0, *(end for _, end in spans)]
        gaps = (start > end for (start, _), end in zip(spans, ends, strict=False))
        return [FIRST_WORD_POSITION + gaps_before for gaps_before in accumulate(gaps)]
    words = list(accumulate(_starts_of_words(text)))
    return [FIRST_WORD_POSITION - 1 + words[end - 1] for _, end in spans]


def _starts_of_words(text: str) -> Iterator[bool]:
    """For each character, whether a word begins with it, as in BERT's tokenizer.

    It drops control characters and puts a blank on either side of every Chinese character before it splits at white
    space, so each of them is a word. Punctuation is split off later, within the word.
    """
    before = " "
    for character in text:
        kind = _kind_of_character(character)
        yield kind == "ideograph" or (kind == "other" and before != "other")
        if kind != "dropped":
            before = kind


@lru_cache(maxsize=4096)
def _kind_of_character(character: str) -> Literal[" ", "dropped", "ideograph", "other"]:
    if character in "\t\n\r":
        return " "
    if character == "\ufffd" or unicodedata.category(character).startswith("C"):
        return "dropped"
    if character.isspace():
        return " "
    code = ord(character)
    return "ideograph" if any(first <= code <= last for first, last in _IDEOGRAPHS) else "other"


def parse_labels(data: bytes, *, name: str, may_be_empty: bool = False) -> tuple[Label, ...]:
    """Return the labels in a vocabulary of one label per line, line number = id, synonyms after commas.

    may_be_empty: whether an empty file means no labels, as in a set whose regions have none.

    Raises: InputError for an empty file or line.
    """
    if may_be_empty and not data:
        return ()
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text; it should hold one label a line") from None
    labels = tuple(tuple(part.strip() for part in line.split(",") if part.strip()) for line in lines)
    if not all(labels):
        raise InputError(f"{name} line {labels.index(()) + 1} is empty; the line number is the label's id")
    return labels


def load_labels(path: Path, *, may_be_empty: bool = False) -> tuple[Label, ...]:
    """Return the labels in a file. Raises: InputError when it is missing, and as `parse_labels`."""
    return parse_labels(read_label_bytes(path), name=str(path), may_be_empty=may_be_empty)


def read_label_bytes(path: Path) -> bytes:
    """Return the bytes of a label vocabulary. Raises: InputError when it is missing or plainly something else."""
    try:
        return read_small_bytes(path, what="a text of one label a line")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should hold one label a line") from None


def build_vocabulary_tables(
    pieces: WordPieces, objects: Sequence[Label], attributes: Sequence[Label]
) -> VocabularyTables:
    """Return the tables of a vocabulary that the tasks need."""
    return VocabularyTables(
        vocab_size=pieces.size,
        cls_id=pieces.cls_id,
        sep_id=pieces.sep_id,
        mask_id=pieces.mask_id,
        object_pieces=_piece_table(pieces.ids_of(label[0]) for label in objects),
        object_pieces_all=_piece_table(_pieces_of_all_names(pieces, label) for label in objects),
        attribute_pieces=_piece_table(pieces.ids_of(label[0]) for label in attributes),
        is_function_piece=torch.tensor([_is_function_piece(piece) for piece in pieces.vocabulary.pieces]),
    )


def _pieces_of_all_names(pieces: WordPieces, label: Label) -> list[int]:
    """The pieces of all names, each once, in order."""
    return list(dict.fromkeys(number for name in label for number in pieces.ids_of(name)))


def _piece_table(rows: Iterable[list[int]]) -> Tensor:
    """int64 [labels, P], IGNORE beyond a row's end."""
    rows = list(rows)
    width = max((len(row) for row in rows), default=1)
    return torch.tensor([row + [IGNORE] * (width - len(row)) for row in rows], dtype=torch.int64).reshape(-1, width)


def _is_function_piece(piece: str) -> bool:
    bare = piece.removeprefix("##")
    if piece in SPECIAL_PIECES or len(bare) <= 1 or piece in FUNCTION_WORDS.split():
        return True
    return not any(character.isalnum() for character in bare)
