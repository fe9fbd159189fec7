"""Parsing a judge's written answer: A, B or a tie if it is unambiguous, else the reason why it is invalid."""

import json
import re
from typing import NamedTuple

from prefloop.feedback.thinking import has_open_block, without_thoughts


class Answer(NamedTuple):
    """A judge's answer to one question."""

    probability: float | None
    """Probability that the response shown first is better; None if the answer is invalid."""
    text: str = ""
    """Text of the answer; for a local model, its most probable token."""
    problem: str = ""
    """Key of PROBLEMS if the answer is invalid, else empty."""


# Reasons why an answer is invalid, with the cause and the remedy.
PROBLEMS = {
    "cut": "the answer ends at judge.max_tokens: raise it, or limit a reasoning model's thoughts with judge.request",
    "thoughts": "the server returns thoughts without an answer: raise judge.max_tokens, or turn thinking off with "
    "chat_template_kwargs or judge.request",
    "empty": "the server returns no text: send the question to the model yourself, or use another model",
    "unclear": "the answer names no response or more than one: let judge.template ask for only the letter A or B",
    "refused": "the server rejects the question: see its message, and drop long prompts with prompts.max_prompt_tokens",
    "improbable": "the model would not begin with A or B: let judge.template ask for only the letter, turn thinking "
    "off with chat_template_kwargs, or lower judge.min_label_mass",
}

VERDICTS = {"a": 1.0, "b": 0.0, "tie": 0.5, "tied": 0.5, "draw": 0.5, "equal": 0.5}
MARKS = {"A": 1.0, "A>B": 1.0, "A>>B": 1.0, "B": 0.0, "B>A": 0.0, "B>>A": 0.0, "C": 0.5, "A=B": 0.5, "TIE": 0.5}
NOUN = r"(?:response|reply|assistant|answer|option|candidate|model|output|choice)"
LABEL = (
    r"(?:final[\s_]+|overall[\s_]+)?(?:answer|verdict|winner|choice|decision|judge?ment|preference|conclusion|result|"
    rf"(?:better|best|preferred)(?:[\s_]+(?:one|{NOUN}))?)"
)
DECORATION = r"[\s*_`\"'()\[\]{}<>.,:;!#-]"
WORD = rf"(?:(?:the\s+)?{NOUN}{DECORATION}+)?(?:a\s+(?=tie|draw))?(?P<word>{'|'.join(VERDICTS)})(?![a-z0-9])"
SENTENCE = 300  # characters before a label that are searched for a denial
FLAGS = re.IGNORECASE | re.ASCII
WHOLE = re.compile(
    rf"{DECORATION}*(?:(?:my\s+|the\s+)?{LABEL}{DECORATION}+(?:is{DECORATION}+)?)?{WORD}{DECORATION}*", FLAGS
)
# A verdict on its own line. A colon or hash would make it a heading.
BARE_LINE = re.compile(rf"[\s*_`\"'()\[\].!-]*{WORD}[\s*_`\"'()\[\].!-]*", FLAGS)
LABELLED = re.compile(rf"\b{LABEL}[\s*_`\"']*(?::|=|\bis\b|\bgoes to\b){DECORATION}*{WORD}(?P<after>[^\n]*)", FLAGS)
AFTER = re.compile(r"[\s*_`\"')\]}>]*(?:$|[.,;:!(—–-]|because\b|since\b|as\b)", FLAGS)
MARK = re.compile(
    r"\[\[\s*+(?P<brackets>[^\[\]]{1,20}?)\s*+\]\]|\\boxed\{(?:\\text\{)?\s*+(?P<boxed>[^{}]{1,20}?)\s*+\}"
    r"|<(?P<tag>answer|verdict|winner|choice|judge?ment)>\s*+(?P<tagged>[^<>]{1,40}?)\s*+</(?P=tag)>",
    FLAGS,
)
OBJECT = re.compile(r"\{[^{}]*\}")
FENCE = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
NAMED = re.compile(rf"(?<![A-Za-z0-9])(?:([AB])(?![A-Za-z0-9'’])|(?i:{NOUN})\s+([ab])(?![A-Za-z0-9]))")
QUOTES = r"[*\"'`]{0,9}"
PREFERS = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?i:{NOUN})\s+)?{QUOTES}[AB]{QUOTES}\s+(?:wins|won|(?:is|was|seems)\s+(?:\w+ly\s+|much\s+|far\s+)?"
    r"(?:the\s+)?(?:better|best|superior|preferable|preferred|stronger|winner))\b"
    rf"|\bI\s+(?:would\s+)?(?:choose|chose|prefer|pick|select|go with|vote for)\s+(?:(?i:{NOUN})\s+)?{QUOTES}[AB]\b"
)
SAYS_TIE = re.compile(r"\bit(?:'s|’s| is) a (?:tie|draw)\b", FLAGS)
DENIAL = re.compile(r"\b(?:not|never|neither|nor|hardly|if|whether|unless|either)\b|n['’]t\b|\?", FLAGS)
HEDGE = re.compile(
    rf"{DENIAL.pattern}|\b(?:but|however|although|though|while|whereas|other|both|except|could|might|may)\b", FLAGS
)


def parse_answer(text: str, finish_reason: str = "stop", has_reasoning: bool = False) -> Answer:
    """Parse the answer of a server.

    Args:
        text: Text of the answer, with or without a closed block of thoughts at its start.
        finish_reason: `length` if the answer was cut at its maximum length.
        has_reasoning: Whether the server returned thoughts in a separate field.
    """
    was_cut = finish_reason == "length"
    is_thinking = has_open_block(text)
    probability = None if is_thinking else verdict(without_thoughts(text).strip(), was_cut)
    if probability is not None:
        return Answer(probability, text)
    if was_cut:
        return Answer(None, text, "cut")
    if is_thinking or (has_reasoning and not text.strip()):
        return Answer(None, text, "thoughts")
    return Answer(None, text, "unclear" if text.strip() else "empty")


def verdict(text: str, was_cut: bool = False) -> float | None:
    """The verdict of an answer without thoughts, as probability that A is better; None if it has none or several.

    The verdict may be the whole answer, or be in double brackets, a box, a tag or a JSON object, after a label such as
    "Final answer:", or on its own line. A sentence ("Response A is better") counts only if the answer does not mention
    the other response. If the answer was cut, verdicts on their own line and in sentences do not count.
    """
    if (word := word_of(text)) is not None:
        return word
    verdicts = [*marked(text), *labelled(text), *([] if was_cut else bare_lines(text))]
    if not verdicts and not was_cut:
        verdicts += stated(text)
    return verdicts[0] if len(set(verdicts)) == 1 else None


def word_of(text: str) -> float | None:
    """The verdict if the text is only a verdict, else None."""
    match = WHOLE.fullmatch(text)
    return VERDICTS[match["word"].lower()] if match else None


def marked(text: str) -> list[float | None]:
    """Verdicts in double brackets, boxes, tags and JSON objects."""
    verdicts: list[float | None] = []
    for match in MARK.finditer(text):
        inside = match["brackets"] or match["boxed"] or match["tagged"]
        verdicts.append(MARKS.get(inside.upper().replace(" ", ""), word_of(inside)))
    for match in OBJECT.finditer(text):
        try:
            value = json.loads(match[0])
        except (ValueError, RecursionError):
            continue
        for key, item in value.items():
            if re.fullmatch(LABEL, key, FLAGS):
                verdicts.append(word_of(item) if isinstance(item, str) else None)
    return verdicts + outer_verdicts(text.strip())


def outer_verdicts(text: str) -> list[float | None]:
    """Verdicts in the outer keys of a JSON object with others in it: the whole text, or its first code block."""
    fenced = FENCE.search(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(value, dict) or not any(isinstance(item, dict | list) for item in value.values()):
        return []
    return [word_of(item) for key, item in value.items() if isinstance(item, str) and re.fullmatch(LABEL, key, FLAGS)]


def labelled(text: str) -> list[float]:
    """Verdicts after a label such as "Final answer:", unless the line denies them or also names another response."""
    verdicts = []
    for match in LABELLED.finditer(text):
        before = re.split(r"[\n.!?]", text[max(0, match.start() - SENTENCE) : match.start()])[-1]
        after = match["after"]
        is_followed = not AFTER.match(after) or HEDGE.search(after) or NAMED.search(after)
        if not (is_followed or DENIAL.search(before)):
            verdicts.append(VERDICTS[match["word"].lower()])
    return verdicts


def bare_lines(text: str) -> list[float]:
    """Verdicts on their own lines."""
    matches = map(BARE_LINE.fullmatch, text.splitlines())
    return [VERDICTS[match["word"].lower()] for match in matches if match]


def stated(text: str) -> list[float]:
    """The verdict of a sentence, unless the text qualifies it or names the other response."""
    if HEDGE.search(text):
        return []
    named = {(match[1] or match[2]).lower() for match in NAMED.finditer(text)}
    if not named and SAYS_TIE.search(text):
        return [VERDICTS["tie"]]
    return [VERDICTS[letter] for letter in named] if len(named) == 1 and PREFERS.search(text) else []
