"""Finds training prompts that nearly repeat an evaluation prompt, by their 8-grams of words.

As in Tülu 3 (arXiv 2411.15124, section 3.2), a training prompt is a near-duplicate if the 8-grams that it shares with
one evaluation prompt cover at least half of that prompt's words. As in GPT-3 (arXiv 2005.14165, appendix C), n-grams in
more than ten documents are ignored, because they come from templates. Prompts with the same words are near-duplicates
at any length. Case and punctuation are ignored.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

N = 8  # words per n-gram
COVERAGE = 0.5  # fraction of an evaluation prompt's words
MAX_PROMPTS = 10  # evaluation prompts that may share an n-gram
# A word is a run of letters and digits. Each Chinese or Japanese character is one word, because they have no spaces.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
UNKNOWN = 0  # number of words that occur in no evaluation prompt
PART = 1000  # evaluation prompts in memory at once
EMPTY = (np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))

Integers = NDArray[np.int64]


def words_of(row: dict) -> list[str]:
    """Return the words of a prompt row, without its system messages."""
    text = "\n".join(message["content"] for message in row["messages"] if message["role"] != "system")
    return WORD.findall(text.lower())


def words_digest(words: Sequence[str]) -> bytes:
    """Return a short hash of words."""
    return hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()


def ngrams(texts: Sequence[Integers]) -> tuple[NDArray[np.uint64], Integers, Integers]:
    """Return the n-grams of texts whose words are numbers.

    Returns:
        tuple: Three arrays [n-grams]: the hash of the n-gram, the index of its text, and its position in the text.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    numbers = np.concatenate([np.zeros(0, dtype=np.int64), *texts]).astype(np.uint64)
    owners = np.repeat(np.arange(len(texts)), lengths)
    positions = np.arange(len(numbers)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    starts = np.flatnonzero(positions + N <= lengths[owners])
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for offset in range(N):
        hashes = hashes * np.uint64(0xD1342543DE82EF95) + mixed[starts + offset]
    return hashes, owners[starts], positions[starts]


class EvalNGrams:
    """The n-grams of all evaluation prompts, with 16 bytes per word, and their vocabulary."""

    def __init__(self, prompts: Iterable[dict]) -> None:
        self.numbers: dict[str, int] = {}
        self.digests: set[bytes] = set()
        count, hashes, owners, positions = self.collect(prompts)
        order = np.argsort(hashes, kind="stable")
        rare = np.empty(len(order), dtype=bool)
        rare[order] = occurs_rarely(hashes[order], owners[order])
        prompt_indices, lengths = covered_words(owners[rare], positions[rare])
        self.covered = np.zeros(count, dtype=np.int64)  # words of each prompt in n-grams that count
        self.covered[prompt_indices] = lengths
        order = order[rare[order]]
        hashes, self.owners, self.positions = hashes[order], owners[order], positions[order]
        self.first, self.counts = runs(hashes)
        self.hashes = hashes[self.first]

    def collect(self, prompts: Iterable[dict]) -> tuple[int, NDArray[np.uint64], NDArray, NDArray]:
        """Return the number of prompts, and the hashes, prompts and positions of their n-grams."""
        parts, count, remaining = [EMPTY], 0, iter(prompts)
        while rows := list(islice(remaining, PART)):
            parts.append(self.add(rows, count))
            count += len(rows)
        hashes, owners, positions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return count, hashes, owners, positions

    def add(self, rows: Sequence[dict], first: int) -> tuple[NDArray[np.uint64], NDArray, NDArray]:
        """Add the words of prompts, numbered from `first`, to the vocabulary, and return their n-grams."""
        texts = []
        for words in map(words_of, rows):
            if words:  # prompts without any word, such as two emojis, are not near each other
                self.digests.add(words_digest(words))
            texts.append(np.array([self.numbers.setdefault(w, len(self.numbers) + 1) for w in words], dtype=np.int64))
        hashes, owners, positions = ngrams(texts)
        return hashes, (owners + first).astype(np.int32), positions.astype(np.int32)

    def near_duplicates(self, rows: Sequence[dict]) -> NDArray[np.bool_]:
        """Return for each training prompt whether it nearly repeats an evaluation prompt: bool [rows]."""
        texts = [words_of(row) for row in rows]
        is_near = np.array([words_digest(words) in self.digests for words in texts], dtype=bool)
        numbered = [np.array([self.numbers.get(w, UNKNOWN) for w in words], dtype=np.int64) for words in texts]
        hashes, owners, _ = ngrams(numbered)
        if not len(self.hashes) or not len(hashes):
            return is_near
        slots = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        matches = self.hashes[slots] == hashes
        slots, owners = slots[matches], owners[matches]
        counts = self.counts[slots]
        begins = np.repeat(self.first[slots], counts)
        entries = begins + np.arange(len(begins)) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs = np.repeat(owners, counts) * len(self.covered) + self.owners[entries]
        positions = self.positions[entries]
        order = np.lexsort((positions, pairs))
        pairs, covered = covered_words(pairs[order], positions[order])
        enough = covered >= COVERAGE * self.covered[pairs % len(self.covered)]
        is_near[pairs[enough] // len(self.covered)] = True
        return is_near


def occurs_rarely(hashes: NDArray[np.uint64], owners: NDArray) -> NDArray[np.bool_]:
    """Return for each n-gram whether it occurs in at most MAX_PROMPTS prompts. Equal n-grams must be adjacent."""
    if not len(hashes):
        return np.zeros(0, dtype=bool)
    first, counts = runs(hashes)
    new_prompt = np.r_[True, (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])]
    prompts = np.add.reduceat(new_prompt, first, dtype=np.int32)
    return np.repeat(prompts <= MAX_PROMPTS, counts)


def runs(values: NDArray) -> tuple[Integers, Integers]:
    """Return the start and the length of each run of equal adjacent values."""
    first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
    return first, np.diff(np.r_[first, len(values)])


def covered_words(groups: NDArray, positions: NDArray) -> tuple[NDArray, Integers]:
    """Return the distinct groups, and how many words the n-grams cover in each. Groups and positions must be sorted."""
    if not len(groups):
        return groups, np.zeros(0, dtype=np.int64)
    covered = np.full(len(groups), N, dtype=np.int32)  # words of each n-gram up to the start of the next
    is_same = groups[1:] == groups[:-1]
    covered[:-1][is_same] = np.minimum(np.diff(positions), N)[is_same]
    first, _ = runs(groups)
    return groups[first], np.add.reduceat(covered, first)
