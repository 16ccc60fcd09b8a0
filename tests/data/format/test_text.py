"""Word pieces, whole-word positions, labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_files import PIECES, ids, vocabulary

from msp_ds.data.format.text import WordPieces, build_vocabulary_tables, is_blank, load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.errors import InputError


@pytest.fixture
def pieces() -> WordPieces:
    return WordPieces(vocabulary())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is the horse's tail on?", "is2 the3 horse4 '4 s4 tail5 on6 ?6"),
        ("a #1 sign", "a2 #3 13 sign4"),
        ("a wearing  man", "a2 wear3 ##ing3 man4"),
        ("ball , ball", "ball2 ,3 ball4"),
        ("\t Dog\u00a0ball\n", "dog2 ball3"),
        ("zebra", "[UNK]2"),
        ("h\u00f6rse hat", "horse2 hat3"),
        ("", ""),
        # Chinese characters are words of their own; punctuation, hiragana and Hangul are not.
        ("\u6211\u4eec", "[UNK]2 [UNK]3"),
        ("a\u6211b dog", "a2 [UNK]3 [UNK]4 dog5"),
        ("dog\u6211,\u4eec.", "dog2 [UNK]3 ,4 [UNK]5 .6"),
        ("\u3044\u306c dog", "[UNK]2 dog3"),
        ("\ud55c\uae00 dog", "[UNK]2 dog3"),
        # Control characters are dropped before words are split: they part none.
        ("dog,\x0bball hat", "dog2 ,2 ball2 hat3"),
        ("\u200bdog \u200b ball", "dog2 ball3"),
        # A word of accents alone leaves no piece, but is counted.
        ("dog \u0301 ball", "dog2 ball4"),
        ("dog\u2028ball", "dog2 ball3"),
    ],
)
def test_all_pieces_of_a_white_space_word_share_its_position(pieces: WordPieces, text: str, expected: str) -> None:
    encoded = pieces.encode(text, max_tokens=20)
    inner = zip(encoded.token_ids[1:-1], encoded.word_positions[1:-1], strict=True)
    assert " ".join(f"{PIECES[number]}{position}" for number, position in inner) == expected
    assert (encoded.token_ids[0], encoded.token_ids[-1]) == tuple(ids("[CLS]", "[SEP]"))
    assert (encoded.word_positions[0], encoded.word_positions[-1]) == (1, 1)


@pytest.mark.parametrize(
    "text", ["", " \u3000\u2028", "\u200b\ufeff\u202e", "\x1b\x7f\x85", "\u0301", "\ufffd", "\ue000"]
)
def test_a_text_of_which_the_tokenizer_leaves_nothing_is_blank(pieces: WordPieces, text: str) -> None:
    assert (is_blank(text), pieces.ids_of(text)) == (True, [])
    assert not is_blank(f"{text}.")
    assert pieces.ids_of(f"{text}.") != []


def test_a_text_is_cut_to_the_limit_and_says_so(pieces: WordPieces) -> None:
    assert pieces.encode("a red dog", max_tokens=5) == (
        ids("[CLS]", "a", "red", "dog", "[SEP]"),
        [1, 2, 3, 4, 1],
        False,
    )
    assert pieces.encode("a red dog", max_tokens=4) == (ids("[CLS]", "a", "red", "[SEP]"), [1, 2, 3, 1], True)


def test_special_pieces_in_a_text_are_plain_text(pieces: WordPieces) -> None:
    assert not set(pieces.ids_of("[MASK] [SEP] [PAD]")) & set(ids("[MASK]", "[SEP]", "[PAD]"))


def test_pieces_are_those_of_bert_written_out(real_data: Path) -> None:
    """Against a second implementation: greedy longest match, written here."""
    words = read_vocabulary(real_data / "vocab" / "bert-base-uncased-vocab.txt")
    known = {piece: number for number, piece in enumerate(words.pieces)}

    def greedy(word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in known), 0)
            if not end:
                return [known["[UNK]"]]
            found.append(known[prefix + word[start:end]])
            start = end
        return found

    text = "a skateboarder grinds a handrail near rhododendrons unphotographable"
    expected = [number for word in text.split() for number in greedy(word)]
    assert WordPieces(words).ids_of(text) == expected


def test_a_tables_holds_the_pieces_of_each_label(pieces: WordPieces) -> None:
    tables = build_vocabulary_tables(pieces, (("dog", "hound"), ("red hat",)), (("red",), ("big", "red dog")))
    dog, hound, red, hat, big = ids("dog", "hound", "red", "hat", "big")
    assert tables.object_pieces.tolist() == [[dog, -1], [red, hat]]
    assert tables.object_pieces_all.tolist() == [[dog, hound], [red, hat]]
    assert tables.attribute_pieces.tolist() == [[red], [big]]
    assert (tables.vocab_size, tables.cls_id, tables.sep_id, tables.mask_id) == (len(PIECES), 2, 3, 4)


def test_function_pieces_are_specials_punctuation_single_characters_and_stop_words(pieces: WordPieces) -> None:
    flags = build_vocabulary_tables(pieces, (("dog",),), (("red",),)).is_function_piece.tolist()
    content = ["red", "blue", "dog", "hound", "ball", "hat", "horse", "tail", "man", "wear", "##ing", "sign", "big"]
    assert [piece for piece, flag in zip(PIECES, flags, strict=True) if not flag] == content


def test_labels_have_synonyms_behind_commas_and_no_final_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("stop sign,stopsign\ntshirt, t-shirt,t shirt\r\ndog")
    labels = (("stop sign", "stopsign"), ("tshirt", "t-shirt", "t shirt"), ("dog",))
    assert load_labels(tmp_path / "a.txt") == labels
    (tmp_path / "a.txt").write_text("stop sign,stopsign\ntshirt,t-shirt,t shirt\ndog\n")
    assert load_labels(tmp_path / "a.txt") == labels


@pytest.mark.parametrize(("data", "line"), [(b"", 1), (b"dog\n\nball", 2), (b"dog\n,", 2), (b"dog\n\n", 2)])
def test_an_empty_label_is_refused_with_its_line(tmp_path: Path, data: bytes, line: int) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=rf"a.txt line {line} is empty"):
        load_labels(tmp_path / "a.txt")


def test_unreadable_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"a.txt is not UTF-8"):
        load_labels(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"b.txt cannot be read"):
        load_labels(tmp_path / "b.txt")


def test_the_detectors_vocabularies_have_1600_and_400_labels(real_data: Path) -> None:
    objects, attributes = (load_labels(real_data / "vocab" / f"{name}_vocab.txt") for name in ("objects", "attributes"))
    assert (len(objects), len(attributes)) == (1600, 400)
    assert (sum(len(label) > 1 for label in objects), sum(len(label) > 1 for label in attributes)) == (24, 9)
