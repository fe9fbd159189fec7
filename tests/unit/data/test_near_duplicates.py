"""Near-duplicates are found by shared 8-grams of words; the reference is plain Python with sets of n-grams."""

import itertools

import numpy as np
import pytest

from prefloop.data.near_duplicates import COVERAGE, MAX_PROMPTS, EvalNGrams, N, words_of


def prompt(text: str, *earlier: str) -> dict:
    messages = [{"role": role, "content": t} for role, t in zip(itertools.cycle(["user", "assistant"]), earlier)]
    return {"messages": [*messages, {"role": "user", "content": text}]}


def numbered(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


TEN = numbered(*range(10))


@pytest.mark.parametrize(
    ("evaluated", "trained", "is_near"),
    [
        ("Name a prime!", "name a  PRIME", True),  # short prompts need the same words
        ("Name a prime!", "Name a prime and explain it to me please", False),
        (numbered(*range(16)), numbered(*range(8), *range(50, 99)), True),  # 8 of 16 words: exactly half
        (numbered(*range(17)), numbered(*range(8), *range(50, 99)), False),  # 8 of 17
        (numbered(*range(16)), numbered(*range(7)), False),  # no 8-gram
        (numbered(*range(16)), numbered(*range(0, 7), 99, *range(7, 14)), False),  # two sequences of seven words
        (numbered(*range(16)), numbered(*range(4, 12)), True),
        (TEN, f"Please answer briefly: {TEN} Thank you.", True),
        (TEN, TEN[::-1], False),
        ("请写一首关于秋天的短诗吧", "请写一首关于秋天的短诗,谢谢", True),
        ("请写一首关于秋天的短诗吧", "请画一幅关于冬天的长卷吧", False),
    ],
)
def test_near_duplicates(evaluated, trained, is_near):
    found = EvalNGrams([prompt("other"), prompt(evaluated)]).near_duplicates([prompt("unrelated"), prompt(trained)])
    assert found.tolist() == [False, is_near]


def test_matches_with_different_eval_prompts_do_not_add_up():
    evaluated = [prompt(numbered(*range(20))), prompt(numbered(*range(30, 50)))]
    assert not EvalNGrams(evaluated).near_duplicates([prompt(numbered(*range(9), *range(30, 39)))]).any()
    assert EvalNGrams(evaluated).near_duplicates([prompt(numbered(*range(10)))]).all()


def test_earlier_turns_count_and_system_messages_do_not():
    index = EvalNGrams([prompt("And so?", TEN, "yes")])
    longer = prompt("More?", TEN, "yes")
    assert index.near_duplicates([longer, prompt("And so?")]).tolist() == [True, False]
    system = {"messages": [{"role": "system", "content": TEN}, *prompt("new")["messages"]]}
    assert not index.near_duplicates([system]).any()


def test_text_of_a_template_does_not_count():
    """All prompts start with the same 20 words, so only the rest is compared."""
    template = (
        "Summarise the following text in one short sentence that a child of ten years can read and understand please "
    )
    subjects = [numbered(*range(start, start + 12)) for start in range(0, 20 * (MAX_PROMPTS + 2), 20)]
    index = EvalNGrams([prompt(template + text) for text in subjects])
    found = index.near_duplicates([prompt(template + numbered(*range(900, 912))), prompt(f"Read: {subjects[3]}")])
    assert found.tolist() == [False, True]


def test_near_duplicates_match_sets_of_ngrams():
    rng = np.random.default_rng(0)
    texts = [numbered(*rng.integers(0, 3, rng.integers(0, 40)).tolist()) for _ in range(60)]
    evaluated, trained = texts[:8], texts[8:]
    starts = [range(len(t.split()) - N + 1) for t in evaluated]
    grams = [[tuple(t.split()[i : i + N]) for i in s] for t, s in zip(evaluated, starts, strict=True)]
    expected = []
    for text in trained:
        words = text.split()
        own = {tuple(words[i : i + N]) for i in range(len(words) - N + 1)}
        shares = [
            len({i + k for i, gram in enumerate(g) if gram in own for k in range(N)}) / len(t.split())
            for g, t in zip(grams, evaluated, strict=True)
            if g
        ]
        expected.append((text != "" and text in evaluated) or any(share >= COVERAGE for share in shares))
    assert EvalNGrams(map(prompt, evaluated)).near_duplicates(list(map(prompt, trained))).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_prompts_without_words():
    assert words_of(prompt("?!")) == []
    assert EvalNGrams([]).near_duplicates([prompt("a")]).tolist() == [False]
    assert EvalNGrams([prompt("a")]).near_duplicates([]).tolist() == []
    assert EvalNGrams([prompt("👍👍")]).near_duplicates([prompt("🚀?!"), prompt("∑∫")]).tolist() == [False, False]
