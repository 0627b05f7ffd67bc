"""Words, indices and the training tokeniser."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt.errors import InputError
from capt.vocabulary import Vocabulary, detokenize, tokenize

CAPTIONS = ["A dog runs .", "Two dogs run on the beach .", "A dog 's ball"]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Two young guys with shaggy hair .", ["two", "young", "guys", "with", "shaggy", "hair"]),
        ("A man's T-shirt, re-used!", ["a", "man", "'s", "t-shirt", "re-used"]),
        ("a dog 's tail", ["a", "dog", "'s", "tail"]),
        ("They don't, can't and won't", ["they", "do", "n't", "ca", "n't", "and", "wo", "n't"]),
        ("a man\N{RIGHT SINGLE QUOTATION MARK}s hat", ["a", "man", "'s", "hat"]),
        ("we've they'll I'd you're I'm", ["we", "'ve", "they", "'ll", "i", "'d", "you", "'re", "i", "'m"]),
        ("runner 3.5 at 12:30 of 1,000", ["runner", "3.5", "at", "12:30", "of", "1,000"]),
        ("'quoted' words - and_underscores", ["quoted", "words", "and", "underscores"]),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{LATIN SMALL LIGATURE FI}sh", ["café", "fish"]),
        ("line\none\u2028two\x0bthree\x85four", ["line", "one", "two", "three", "four"]),
        ("... !?", []),
        ("", []),
    ],
)
def test_the_tokeniser_splits_as_documented(caption: str, words: list[str]) -> None:
    """Words are lower case without punctuation; endings such as 's are words of their own."""
    assert tokenize(caption) == words


@given(st.text())
def test_words_have_no_space_no_capitals_and_survive_being_joined(caption: str) -> None:
    """A word holds no white space, and tokenising a detokenised caption gives the same words."""
    words = tokenize(caption)
    assert all(word and not any(letter.isspace() for letter in word) for word in words)
    assert all(word == word.lower() for word in words)


@given(st.lists(st.sampled_from(["a", "dog", "t-shirt", "3.5", "'s", "n't", "do", "man"]), max_size=12))
def test_detokenised_words_tokenise_to_themselves(words: list[str]) -> None:
    """Ordinary words come back when their caption is tokenised again."""
    follows = {"man", "do"}
    sensible = [word for before, word in zip(["", *words], words, strict=False) if "'" not in word or before in follows]
    assert tokenize(detokenize(sensible)) == sensible


def test_endings_are_glued_to_the_word_before() -> None:
    """A caption reads as people write it: 's and n't without a space."""
    assert detokenize(["the", "dog", "'s", "ball", "does", "n't", "roll"]) == "the dog's ball doesn't roll"
    assert detokenize([]) == ""


def test_the_special_words_are_first_then_the_most_frequent() -> None:
    """Indices 0 to 3 are <pad> <start> <end> <unk>; then by falling frequency, equals in alphabetical order."""
    vocabulary = Vocabulary.build(CAPTIONS, min_frequency=1)
    assert vocabulary.words[:6] == ("<pad>", "<start>", "<end>", "<unk>", "a", "dog")
    assert vocabulary.words[6:] == ("'s", "ball", "beach", "dogs", "on", "run", "runs", "the", "two")
    assert (vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unk) == (0, 1, 2, 3)


def test_rare_words_become_unknown() -> None:
    """A word rarer than the minimum frequency has no index of its own."""
    vocabulary = Vocabulary.build(CAPTIONS, min_frequency=2)
    assert vocabulary.words[4:] == ("a", "dog")
    assert vocabulary.encode("A dog runs") == [1, 4, 5, 3, 2]
    assert "dog" in vocabulary
    assert "runs" not in vocabulary
    assert len(vocabulary) == 6


def test_a_vocabulary_without_words_is_refused() -> None:
    """When no word is frequent enough, the error names the option to change."""
    with pytest.raises(InputError, match="--min-frequency"):
        Vocabulary.build(CAPTIONS, min_frequency=9)


def test_encoding_and_decoding_are_inverse() -> None:
    """A caption of known words survives; <pad>, <start> and <end> are silent."""
    vocabulary = Vocabulary.build(CAPTIONS, min_frequency=1)
    indices = vocabulary.encode("Two dogs run on the beach.")
    assert indices[0] == vocabulary.start
    assert indices[-1] == vocabulary.end
    assert vocabulary.decode([*indices, vocabulary.pad]) == "two dogs run on the beach"


def test_a_vocabulary_survives_json() -> None:
    """What to_json writes, from_json reads, with the same order; equality and hash go by the words."""
    vocabulary = Vocabulary.build([*CAPTIONS, "a café"], min_frequency=1)
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again != Vocabulary.build(CAPTIONS, min_frequency=1)
    assert vocabulary != vocabulary.words
    assert json.loads(vocabulary.to_json())[4] == "a"


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "[1, 2]", '["a", "b"]', '["<pad>", "<start>", "<end>", "<unk>", "a", "a"]', "[", "null"]
)
def test_a_damaged_vocabulary_is_refused(text: str) -> None:
    """JSON that is no list of distinct words beginning with the special ones raises ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        Vocabulary.from_json(text)


def test_the_vocabulary_needs_no_torch() -> None:
    """Judging imports the vocabulary where torch may be absent."""
    program = "import sys, capt.vocabulary, capt.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
