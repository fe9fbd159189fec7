"""Formats of published data sets. A format extracts the prompt and the chosen and rejected responses from a row."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

from prefloop.core.errors import InputError
from prefloop.core.jsonl import describe
from prefloop.data.conversations import SIDES, UnusableRowError

# The names of roles in ShareGPT data sets.
SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "assistant", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}


def apply_format(name: str, row: dict, origin: str) -> dict | None:
    """Convert a raw row to the input of `prompts.to_prompt`.

    That is {prompt, chosen?, rejected?, prompt_id?} or two transcripts, or None for a row that the format drops (see
    DROP_REASONS).

    Raises:
        InputError: The row does not have the format's shape.
        UnusableRowError: The row is dropped for another reason.
    """
    try:
        return FORMATS[name](row)
    except InputError as error:
        raise InputError(f"{origin}: prompts.format {name}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{origin}: prompts.format {name}: unexpected shape of the row ({error})") from error


def value_at(row: dict, name: str) -> Any:
    """Return the value of a column. `info.title` is the value of title in the mapping info."""
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            fields = ", ".join(map(str, value)) if isinstance(value, dict) else ""
            raise InputError(f"missing {name}; found {fields or 'no fields'}")
        value = value[key]
    return value


def values_at(row: dict, *names: str) -> list:
    """Return the values of all columns that a format reads."""
    try:
        return [value_at(row, name) for name in names]
    except InputError as error:
        raise InputError(f"{error}; expected {', '.join(names)}") from error


def ordered_responses(number: int, first: str, second: str) -> dict:
    """Return the pair whose chosen response is the first (`number` 0) or the second (1)."""
    if number not in (0, 1):
        raise InputError(f"the number of the preferred response is {number!r}, expected 0 or 1")
    return {"chosen": second, "rejected": first} if number else {"chosen": first, "rejected": second}


def columns(row: dict) -> dict:
    """Any other data set, whose columns prompts.columns and prompts.messages_template name."""
    return row


def hh_rlhf(row: dict) -> dict:
    """Anthropic/hh-rlhf (MIT): two transcripts that differ in their last turn."""
    chosen, rejected = values_at(row, "chosen", "rejected")
    return {"chosen": chosen, "rejected": rejected}


def ultrafeedback(row: dict) -> dict | None:
    """HuggingFaceH4/ultrafeedback_binarized (MIT), split train_prefs: the best of four answers and another one."""
    names = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    prompt, chosen, rejected, score_chosen, score_rejected = values_at(row, *names)
    if score_chosen == score_rejected:
        return None
    return {"prompt_id": row.get("prompt_id"), "prompt": prompt, "chosen": chosen, "rejected": rejected}


def ultrachat(row: dict) -> dict | None:
    """HuggingFaceH4/ultrachat_200k (MIT), split train_sft: the first question of a conversation, without a pair."""
    (messages,) = values_at(row, "messages")
    questions = [message["content"] for message in messages if message["role"] == "user"]
    return {"prompt_id": row.get("prompt_id"), "prompt": questions[0]} if questions else None


def shp(row: dict) -> dict | None:
    """stanfordnlp/SHP (Reddit's terms): a post and two of its comments, one with at least twice the other's score.

    The DPO paper's code uses the same threshold.
    """
    names = ["history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"]
    post, a, b, a_preferred, score_a, score_b = values_at(row, *names)
    if max(score_a, score_b) < 2 * min(score_a, score_b):
        return None
    return {"prompt": post} | ordered_responses(a_preferred, b, a)


def stack_exchange(row: dict) -> dict | None:
    """HuggingFaceH4/stack-exchange-preferences (CC BY-SA 4.0): a question's best and worst answer, without HTML.

    pm_score is log2(1 + votes), rounded, plus 1 for the accepted answer, which wins ties.
    """
    question, answers = values_at(row, "question", "answers")
    scored = (values_at(answer, "pm_score", "selected", "text") for answer in answers)
    ranked = sorted(scored, key=lambda values: values[:2])
    if not ranked or ranked[0][0] == ranked[-1][0]:
        return None
    worst, best = (strip_html(text) for _, _, text in (ranked[0], ranked[-1]))
    return {"prompt": strip_html(question), "chosen": best, "rejected": worst}


def tldr(row: dict) -> dict | None:
    """openai/summarize_from_feedback, comparisons (posts: CC BY 4.0): two summaries of a Reddit post.

    On the hub it is a program, which the datasets library no longer runs. Join the batches that OpenAI publishes into
    one .jsonl file instead. Summaries of news articles have no post and are dropped.
    """
    info, summaries, choice = values_at(row, "info", "summaries", "choice")
    if info.get("article"):
        return None
    subreddit, title, post = values_at(row, "info.subreddit", "info.title", "info.post")
    first, second = (value_at(summary, "text").strip() for summary in summaries)
    prompt = f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
    return {"prompt": prompt} | ordered_responses(choice, first, second)


def pku_safe_rlhf(row: dict) -> dict:
    """PKU-Alignment/PKU-SafeRLHF (CC BY-NC 4.0): the more helpful response is chosen."""
    prompt, first, second, better = values_at(row, "prompt", "response_0", "response_1", "better_response_id")
    return {"prompt": prompt} | ordered_responses(better, first, second)


def pku_safe_rlhf_safer(row: dict) -> dict:
    """PKU-Alignment/PKU-SafeRLHF (CC BY-NC 4.0): the less harmful response is chosen."""
    prompt, first, second, safer = values_at(row, "prompt", "response_0", "response_1", "safer_response_id")
    return {"prompt": prompt} | ordered_responses(safer, first, second)


def rlhflow(row: dict) -> dict:
    """RLHFlow/iterative-prompt-v1-iter1-20K and variants (no license named): conversations that end with the user."""
    (messages,) = values_at(row, "context_messages")
    return {"prompt": messages}


def sharegpt(row: dict) -> dict | None:
    """Conversations of {from, value} turns, as in anon8231489123/ShareGPT_Vicuna_unfiltered (Apache-2.0).

    The prompt is the conversation before the last answer, and that answer is chosen. A row may also have a `system`
    text, and a pair of last answers, `chosen` and `rejected`.
    """
    parts = {name: turns(row[name]) for name in ("conversations", "prompt", *SIDES) if row.get(name) is not None}
    pair = {side: parts.pop(side) for side in SIDES if side in parts}
    if not parts and not pair:
        values_at(row, "conversations")
    if [] in (*parts.values(), *pair.values()):
        return None
    before = parts.get("conversations", parts.get("prompt"))
    if row.get("system"):
        system = {"role": "system", "content": row["system"]}
        pair = pair if before else {side: [system, *messages] for side, messages in pair.items()}
        before = [system, *before] if before else None
    if pair or before is None:
        return {"prompt": before} | pair
    if before[-1]["role"] == "system":
        raise UnusableRowError("without a user message")
    return {"chosen" if before[-1]["role"] == "assistant" else "prompt": before}


def turns(value: dict | list[dict]) -> list[dict]:
    """Convert ShareGPT's turns to messages."""
    messages = []
    for turn in [value] if isinstance(value, dict) else value:
        word, content = (turn["from"], turn["value"]) if "from" in turn else values_at(turn, "role", "content")
        if word not in SHAREGPT_ROLES:
            raise UnusableRowError(f"with the unknown role {describe(word)}")
        messages.append({"role": SHAREGPT_ROLES[word], "content": content})
    return messages


def alpaca(row: dict) -> dict:
    """tatsu-lab/alpaca (CC BY-NC 4.0) and data with its columns: an instruction, followed by its input if it has one.

    The output is chosen; there is no rejected response. Alpaca's own template, in the column text, is not used, because
    the model's chat template replaces it.
    """
    instruction, output = values_at(row, "instruction", "output")
    context = row.get("input")
    return {"prompt": f"{instruction}\n\n{context}" if context else instruction, "chosen": output}


def alpaca_eval(row: dict) -> dict:
    """tatsu-lab/alpaca_eval (CC BY-NC 4.0): 805 instructions. The baseline's output is chosen, and none is rejected.

    On the hub it is a program, which the datasets library no longer runs. Download its alpaca_eval.json instead.
    """
    (instruction,) = values_at(row, "instruction")
    return {"prompt": instruction, "chosen": row.get("output")}


def mt_bench(row: dict) -> dict:
    """HuggingFaceH4/mt_bench_prompts (Apache-2.0) or FastChat's question.jsonl: 80 questions of two turns.

    The first turn is the prompt. The second turn refers to an answer that does not exist yet, so it is not used.
    """
    questions = row["turns"] if "turns" in row else values_at(row, "prompt")[0]
    if not isinstance(questions, list):
        raise InputError(f"the turns are {describe(questions)}, expected a list of questions")
    return {"prompt": questions[0]}


def helpsteer(row: dict) -> dict | None:
    """nvidia/HelpSteer and HelpSteer2 (CC BY 4.0): the most and the least helpful of the responses to a prompt.

    The responses are in consecutive rows. In the prompt of a longer conversation, <extra_id_1> marks each turn.
    """
    scored = [values_at(answer, "prompt", "response", "helpfulness") for answer in row["rows"]]
    ranked = sorted(scored, key=lambda values: float(values[2]))
    (prompt, worst, lowest), (_, best, highest) = ranked[0], ranked[-1]
    if float(lowest) == float(highest):
        return None
    first, *others = re.split(r"\s*<extra_id_1>(User|Assistant)\n", prompt)
    messages = [{"role": "user", "content": first}]
    messages += [{"role": role.lower(), "content": text} for role, text in zip(others[::2], others[1::2], strict=True)]
    return {"prompt": messages, "chosen": best, "rejected": worst}


class BlockParser(HTMLParser):
    """Collects the paragraphs of an HTML text, with code in backticks and list items after an asterisk.

    It omits link targets, pictures, the numbers of ordered lists and the columns of tables.
    """

    BREAKS = ("p", "li", "ul", "ol", "blockquote", "hr", "tr", "div", "h1", "h2", "h3", "h4", "h5", "h6")

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self.text, self.mark, self.verbatim = "", "", False

    def end_block(self) -> None:
        text = self.text.strip("\n") if self.verbatim else re.sub(r" *\n *", "\n", self.text).strip()
        if text:
            self.blocks.append(f"```\n{text}\n```" if self.verbatim else self.mark + text)
            self.mark = ""
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "pre" or tag in self.BREAKS:
            self.end_block()
            self.verbatim = tag == "pre"
            self.mark = "* " if tag == "li" else self.mark
        elif tag == "br":
            self.text += "\n"
        elif tag == "code" and not self.verbatim:
            self.text += "`"

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre" or tag in self.BREAKS:
            self.end_block()
            self.verbatim = False
            self.mark = "" if tag == "li" else self.mark
        elif tag == "code" and not self.verbatim:
            self.text += "`"

    def handle_data(self, data: str) -> None:
        self.text += data if self.verbatim else re.sub(r"\s+", " ", data)


def strip_html(text: str) -> str:
    """Return the text of an HTML body, with empty lines between paragraphs and blocks of code."""
    parser = BlockParser()
    parser.feed(text)
    parser.close()
    parser.end_block()
    return "\n\n".join(parser.blocks)


FORMATS: dict[str, Callable[[dict], dict | None]] = {
    "columns": columns,
    "hh_rlhf": hh_rlhf,
    "ultrafeedback": ultrafeedback,
    "ultrachat": ultrachat,
    "shp": shp,
    "stack_exchange": stack_exchange,
    "tldr": tldr,
    "pku_safe_rlhf": pku_safe_rlhf,
    "pku_safe_rlhf_safer": pku_safe_rlhf_safer,
    "rlhflow": rlhflow,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "alpaca_eval": alpaca_eval,
    "mt_bench": mt_bench,
    "helpsteer": helpsteer,
}
PROMPTS_ONLY = ("ultrachat", "rlhflow", "mt_bench")  # formats without responses
GROUPED = {"helpsteer": "prompt"}  # formats that make pairs from consecutive rows, and the column these rows share
# Why a format drops rows. Other formats drop none.
DROP_REASONS = {
    "ultrafeedback": "with equal scores",
    "ultrachat": "without a user's message",
    "shp": "with a score less than twice the other's",
    "stack_exchange": "without two answers of different scores",
    "tldr": "of news articles",
    "sharegpt": "without turns",
    "helpsteer": "without two responses of different helpfulness",
}
