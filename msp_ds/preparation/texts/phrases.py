"""Phrases without verbs: the text of the phrase stage (paper section 3.2, which does not name its tagger).

Tags are the Penn Treebank's, from the pattern tagger, which needs no download. It judges words rather than phrases and
tags `bear` and the `stop` of a stop sign as verbs, so a tag counts as a verb only where a verb is possible.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

Token = tuple[str, str]
"""A word and its tag."""

VERB_TAGS = frozenset({"VB", "VBD", "VBG", "VBN", "VBP", "VBZ"})
"""Tags of verbs. Modals (MD) are not among them: in phrases without another verb they are nouns, `a can of soda`."""
NOMINAL_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
_MODIFIER_TAGS = frozenset({"DT", "PDT", "PRP$", "CD", "JJ", "JJR", "JJS"})
_ARTICLES = frozenset({"a", "an", "the", "no", "his", "her", "its", "their"})
# A base form is a verb only after these; elsewhere English would inflect it: `teddy bear` and `stop sign` are nouns.
_BEFORE_BASE_FORM = frozenset({"NNS", "NNPS", "PRP", "TO", "MD", "WDT", "WP"}) | VERB_TAGS

_REMEMBERED = 1 << 15
"""Phrases, about 6 MB."""


def normalise(phrase: str) -> str:
    """Return a phrase in lower case, with single blanks and without a final period."""
    return " ".join(phrase.lower().split()).rstrip(". ")


class VerbFilter:
    """Decides whether a phrase has a verb; recent results are cached, since phrases recur."""

    def __init__(self, tags: frozenset[str] = VERB_TAGS) -> None:
        self._tags = tags
        # Imported here: it needs 60 to 200 MB, and only the phrase stage uses it.
        from textblob.en.taggers import PatternTagger

        self._tagger = PatternTagger()
        self._has_verb = lru_cache(maxsize=_REMEMBERED)(self._compute)

    def has_verb(self, phrase: str) -> bool:
        """Whether a normalised phrase has a verb."""
        return self._has_verb(phrase)

    def _compute(self, phrase: str) -> bool:
        return any(tag in self._tags for _, tag in self.tag(phrase))

    def tag(self, phrase: str) -> list[Token]:
        """Return the words of a phrase with their tags; words that cannot be verbs at their position get JJ or NN."""
        tokens: list[Token] = self._tagger.tag(phrase)
        corrected: list[Token] = []
        for place, token in enumerate(tokens):
            before = corrected[-1] if corrected else ("", "")
            after = tokens[place + 1] if place + 1 < len(tokens) else ("", "")
            corrected.append(_corrected(token, before, after))
        return corrected


def _corrected(token: Token, before: Token, after: Token) -> Token:
    """Return a token with its tag corrected by its neighbours."""
    word, tag = token
    if tag == "VB" and before[1] not in _BEFORE_BASE_FORM:
        return word, "NN"
    if tag in {"VBZ", "VBP"} and before[0] in _ARTICLES:
        return word, "NNS"
    if tag in {"VBN", "VBG", "VBD"} and _is_attributive(tag, before, after):
        return word, "JJ"
    return token


def _is_attributive(tag: str, before: Token, after: Token) -> bool:
    """Whether a participle describes the noun after it: `a parked car`, but `man wearing hat` and `man wore hat`.

    Past participles describe it even after a noun (`snow covered hill`).
    """
    if after[1] not in NOMINAL_TAGS | {"JJ", "VB"} or before[1] in VERB_TAGS:
        return False
    return tag == "VBN" or before[1] not in NOMINAL_TAGS


def noun_phrases(caption: str, verbs: VerbFilter) -> list[str]:
    """Return the longest runs of determiners, adjectives and nouns with a noun in them: `a small red ball`."""
    runs: list[list[Token]] = [[]]
    for token in verbs.tag(normalise(caption)):
        if token[1] in NOMINAL_TAGS | _MODIFIER_TAGS:
            runs[-1].append(token)
        else:
            runs.append([])
    return [" ".join(word for word, _ in run) for run in runs if any(tag in NOMINAL_TAGS for _, tag in run)]


def without_verbs(phrases: Iterable[str], verbs: VerbFilter) -> list[str]:
    """Return the phrases without a verb, normalised, each once, in order."""
    distinct = dict.fromkeys(normalise(phrase) for phrase in phrases)
    return [phrase for phrase in distinct if phrase and not verbs.has_verb(phrase)]


def group_phrases(phrases: Sequence[str], *, max_tokens: int, count_pieces: Callable[[str], int]) -> list[str]:
    """Join phrases by commas into texts of at most `max_tokens` pieces, [CLS] and [SEP] included.

    No phrase is split; one that is longer than a text stays alone and is truncated when it is encoded.
    """
    texts: list[list[str]] = []
    budget = 0
    for phrase in phrases:
        needed = count_pieces(phrase) + 1  # the comma
        if needed > budget:
            texts.append([])
            budget = max_tokens - 2 + 1  # the first phrase of a text has no comma before it
        texts[-1].append(phrase)
        budget -= needed
    return [", ".join(text) for text in texts]
