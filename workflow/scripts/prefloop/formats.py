"""Published data sets by name: what of their rows is prompt, chosen and rejected."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

from prefloop.rows import InputError


def from_format(word: str, row: dict, where: str) -> dict | None:
    """A raw row as prompts.to_prompt takes it: {prompt, chosen?, rejected?, prompt_id?}, or two transcripts.

    None for a row that the format drops, see FILTERS.
    """
    try:
        return FORMATS[word](row)
    except InputError as error:
        raise InputError(f"{where}: prompts.format {word}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{where}: prompts.format {word}: a row of another shape ({error})") from error


def value_at(row: dict, name: str):
    """The value of a column; `info.title` is the title within info."""
    if name in row:
        return row[name]
    value = row
    for step in name.split("."):
        if not isinstance(value, dict) or step not in value:
            found = ", ".join(map(str, value)) if isinstance(value, dict) else ""
            raise InputError(f"missing {name}; found {found or 'no fields'}")
        value = value[step]
    return value


def values(row: dict, *names: str) -> list:
    """The values of all the columns that a format reads."""
    try:
        return [value_at(row, name) for name in names]
    except InputError as error:
        raise InputError(f"{error}; expected {', '.join(names)}") from error


def preferred(number: int, first: str, second: str) -> dict:
    """The pair whose chosen response is number 0, the first, or 1, the second."""
    if number not in (0, 1):
        raise InputError(f"the number of the preferred response is {number!r}, expected 0 or 1")
    return {"chosen": second, "rejected": first} if number else {"chosen": first, "rejected": second}


def columns(row: dict) -> dict:
    """Any other data set: prompts.columns and prompts.messages_template name its columns."""
    return row


def hh_rlhf(row: dict) -> dict:
    """Anthropic/hh-rlhf (MIT): two transcripts that differ in their last turn."""
    chosen, rejected = values(row, "chosen", "rejected")
    return {"chosen": chosen, "rejected": rejected}


def ultrafeedback(row: dict) -> dict | None:
    """HuggingFaceH4/ultrafeedback_binarized (MIT), split train_prefs: the best and another of four answers."""
    names = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    prompt, chosen, rejected, score_chosen, score_rejected = values(row, *names)
    if score_chosen == score_rejected:
        return None
    return {"prompt_id": row.get("prompt_id"), "prompt": prompt, "chosen": chosen, "rejected": rejected}


def ultrachat(row: dict) -> dict | None:
    """HuggingFaceH4/ultrachat_200k (MIT), split train_sft: only how a conversation begins, as there is no pair."""
    (messages,) = values(row, "messages")
    questions = [message["content"] for message in messages if message["role"] == "user"]
    return {"prompt_id": row.get("prompt_id"), "prompt": questions[0]} if questions else None


def shp(row: dict) -> dict | None:
    """stanfordnlp/SHP (Reddit's terms): a post and two of its comments, one with at least twice the other's score.

    The bound is that of the DPO paper's code, which takes it from the scores as well.
    """
    names = ["history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"]
    post, a, b, a_preferred, score_a, score_b = values(row, *names)
    if max(score_a, score_b) < 2 * min(score_a, score_b):
        return None
    return {"prompt": post} | preferred(a_preferred, b, a)


def stack_exchange(row: dict) -> dict | None:
    """HuggingFaceH4/stack-exchange-preferences (CC BY-SA 4.0): a question's best and worst answer, without HTML.

    pm_score is log2(1 + votes), rounded, plus 1 for the accepted answer; among equals that one is the better.
    """
    question, answers = values(row, "question", "answers")
    ranked = sorted((values(answer, "pm_score", "selected", "text") for answer in answers), key=lambda item: item[:2])
    if not ranked or ranked[0][0] == ranked[-1][0]:
        return None
    worst, best = (without_html(text) for _, _, text in (ranked[0], ranked[-1]))
    return {"prompt": without_html(question), "chosen": best, "rejected": worst}


def tldr(row: dict) -> dict | None:
    """openai/summarize_from_feedback, comparisons (posts: CC BY 4.0): two summaries of a Reddit post.

    On the hub it is a program, which the datasets library no longer runs: join the batches that OpenAI
    publishes into a .jsonl file. Some batches compare summaries of news articles; these have no post.
    """
    info, summaries, choice = values(row, "info", "summaries", "choice")
    if info.get("article"):
        return None
    subreddit, title, post = values(row, "info.subreddit", "info.title", "info.post")
    first, second = (value_at(summary, "text").strip() for summary in summaries)
    prompt = f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
    return {"prompt": prompt} | preferred(choice, first, second)


def pku_safe_rlhf(row: dict) -> dict:
    """PKU-Alignment/PKU-SafeRLHF (CC BY-NC 4.0): the more helpful response is chosen."""
    prompt, first, second, better = values(row, "prompt", "response_0", "response_1", "better_response_id")
    return {"prompt": prompt} | preferred(better, first, second)


def pku_safe_rlhf_safer(row: dict) -> dict:
    """PKU-Alignment/PKU-SafeRLHF (CC BY-NC 4.0): the less harmful response is chosen."""
    prompt, first, second, safer = values(row, "prompt", "response_0", "response_1", "safer_response_id")
    return {"prompt": prompt} | preferred(safer, first, second)


def rlhflow(row: dict) -> dict:
    """RLHFlow/iterative-prompt-v1-iter1-20K and its sisters (no licence named): conversations that await an answer."""
    (messages,) = values(row, "context_messages")
    return {"prompt": messages}


class Blocks(HTMLParser):
    """Collects the paragraphs of an HTML text, code between backticks and list items behind a star.

    Leaves out: links' targets, pictures, numbers of ordered lists, the columns of tables.
    """

    BREAKS = ("p", "li", "ul", "ol", "blockquote", "hr", "tr", "div", "h1", "h2", "h3", "h4", "h5", "h6")

    def __init__(self):
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


def without_html(text: str) -> str:
    """The text of an HTML page's body, its paragraphs and blocks of code set apart by empty lines."""
    parser = Blocks()
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
}
PROMPTS_ONLY = ("ultrachat", "rlhflow")  # of these, the ones without responses
# Why a format drops a row; the formats that are not here drop none.
FILTERS = {
    "ultrafeedback": "with equal scores",
    "ultrachat": "without a user's message",
    "shp": "with a score less than twice the other's",
    "stack_exchange": "without two answers of different scores",
    "tldr": "of news articles",
}
