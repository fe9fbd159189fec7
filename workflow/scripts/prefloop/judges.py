"""Who compares responses: a language model here, or one on a server that speaks OpenAI's protocol."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefloop.chat import prompt_ids
from prefloop.progress import Progress
from prefloop.rows import InputError, read_json, write_json
from prefloop.verdicts import Messages, Verdict, in_both_orders, parse_answer, read_template

# A server that fails this often without a single answer in between is down, or lets nobody in.
HOPELESS = 16
REFUSED = (400, 413, 422)  # what is wrong is the question, too long a one say; asking it again would not help


@dataclass
class Judging:
    """How pairs are judged; the names are those of config's `feedback.judge`."""

    template: Path = Path("workflow/prompts/judge/helpful.txt")
    """What the judge is asked, with {conversation}, {response_a} and {response_b}."""
    base_url: str | None = None
    """An OpenAI-compatible server, up to and including /v1; a local language model judges if not given."""
    model: str | None = None
    """The server's name for its model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; a server that needs none works without."""
    concurrency: int = 8
    """Requests under way at once; those that wait to be tried again count."""
    timeout: float = 60.0
    """Seconds a server may be silent before a request is tried again."""
    max_retries: int = 8
    """How often a failed request is tried again."""
    max_tokens: int = 16
    """Tokens a server may answer."""
    cache: Path = Path("results/cache/judge")
    """Where a server's answers are kept; nothing in it is asked again."""
    tie_margin: float = 0.0
    """A local model's probability this near to ½ is a tie."""
    min_label_mass: float = 0.01
    """A local model's answer is invalid if A and B together are less probable than this."""
    dtype: str = "float32"
    """A local model's arithmetic: auto, bfloat16 or float32."""


class LocalJudge:
    """A causal language model as a judge: it writes nothing, the next token's probabilities are its answer.

    p(A) = mass of A / (mass of A and B), where a label's mass is that of all its single-token spellings.
    `tokens`, `parameters` and `device` are what the cost meter reads.
    """

    def __init__(self, settings: Judging, manifest: Path, threads: int, batch_size: int):
        import torch

        from prefloop.manifests import parameter_count
        from prefloop.models import default_device, load_base, resolve_dtype

        self.settings, self.batch_size = settings, batch_size
        self.template = read_template(settings.template)
        self.device, self.tokens, self.parameters = default_device(), 0, parameter_count(manifest)
        self.model, self.tokenizer = load_base(manifest, resolve_dtype(settings.dtype, self.device))
        self.folder = Path(manifest).parent
        self.labels = [label_tokens(self.tokenizer, label, self.folder) for label in ("A", "B")]
        torch.set_num_threads(threads)
        self.model.to(self.device).eval()

    def compare(self, prompts: Sequence[Messages], a: Sequence[str], b: Sequence[str]) -> list[Verdict]:
        """One verdict a pair."""
        return in_both_orders(self.first_wins, self.template, prompts, a, b, self.settings.tie_margin)

    def first_wins(self, texts: list[str]) -> list[float | None]:
        """p(A) of each rendered template; None where the model would rather say something else than A or B."""
        from prefloop.batching import batches_by_length

        encoded = [prompt_ids(self.tokenizer, [{"role": "user", "content": text}]) for text in texts]
        lengths = [len(ids) for ids in encoded]
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and max(lengths, default=0) > limit:
            raise InputError(
                f"{self.folder}: reads {limit} tokens, and {sum(n > limit for n in lengths)} of {len(texts)} questions "
                f"to the judge are longer (up to {max(lengths)}): drop long prompts or take another judge"
            )
        answers: list[float | None] = [None] * len(texts)
        with Progress("judge", len(texts), "question") as progress:
            for batch in batches_by_length(lengths, self.batch_size):
                logps = self.label_logps([encoded[i] for i in batch])
                masses, probabilities = logps.exp().sum(dim=1).tolist(), logps.softmax(dim=1)[:, 0].tolist()
                for i, mass, probability in zip(batch, masses, probabilities, strict=True):
                    if mass >= self.settings.min_label_mass:  # which NaN is not
                        answers[i] = probability
                progress.update(len(batch), sum(lengths[i] for i in batch))
        self.tokens += sum(lengths)
        return answers

    def label_logps(self, prompts: Sequence[Sequence[int]]):
        """Log-probabilities of the labels A and B as the next token after each prompt; float64, [prompts, 2]."""
        import torch

        from prefloop.batching import left_pad, positions_of

        ids, mask = (tensor.to(self.device) for tensor in left_pad(prompts, self.tokenizer.pad_token_id))
        with torch.no_grad():
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions_of(mask),
                logits_to_keep=torch.tensor([ids.shape[1] - 1], device=self.device),
                use_cache=False,
            ).logits[:, -1]
        logps = logits.double().log_softmax(dim=1)
        return torch.stack([logps[:, tokens].logsumexp(dim=1) for tokens in self.labels], dim=1)


def label_tokens(tokenizer, label: str, folder: Path) -> list[int]:
    """The tokens that spell a label, alone and after a space; InputError if there is none.

    Some tokenizers put a space token before a text of their own accord: a spelling's last token is the label's.
    """
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in (label, f" {label}")]
    tokens = sorted({token for token in spellings if tokenizer.decode([token]).strip() == label})
    if not tokens:
        raise InputError(f"{folder}: cannot judge, its tokenizer has no token for {label}")
    return tokens


class ServerJudge:
    """A language model behind an OpenAI-compatible server as a judge; its answers are kept on disk.

    An answer is a file named by the hash of all that was asked, so a run that failed or was killed goes on where it
    stopped. A request that fails after all retries has no file and no verdict: `compare` raises InputError once the
    others are done, or have become pointless. A question that the server refuses, while it answers others, is
    invalid, and kept as such with the reason. The key goes to the server and nowhere else.

    `asked` requests were sent, `retried` times sent again, `cached` were not needed. `prompt_tokens` and
    `completion_tokens` are those of all answers used, kept ones too: the same whether or not a run was interrupted.
    `tokens`, `parameters` and `device` are what the cost meter reads: nothing is computed here.
    """

    def __init__(self, settings: Judging):
        for name in ("base_url", "model"):
            if not getattr(settings, name):
                raise InputError(f"feedback.judge.{name}: a server judges only if it is given")
        self.settings, self.template = settings, read_template(settings.template)
        self.key = read_key(settings.api_key_env)
        self.tokens, self.parameters, self.device = 0, 0, "server"
        self.asked = self.cached = self.retried = self.prompt_tokens = self.completion_tokens = 0

    def compare(self, prompts: Sequence[Messages], a: Sequence[str], b: Sequence[str]) -> list[Verdict]:
        """One verdict a pair; InputError, with all answers kept, if a request fails."""
        return in_both_orders(self.first_wins, self.template, prompts, a, b)

    def first_wins(self, texts: list[str]) -> list[float | None]:
        """1, 0 or ½ of each rendered template for the server's A, B or tie; None for any other answer."""
        kept = {text: self.read_kept(text) for text in texts}
        missing = [text for text in texts if kept[text] is None]
        self.cached += len(texts) - len(missing)
        failures, refused = asyncio.run(self.ask_all(missing, kept)) if missing else ([], {})
        if any(kept.values()):
            self.keep_refused(refused, kept)
        else:
            failures += refused.values()
        if failures:
            unsent = sum(kept[text] is None for text in missing) - len(failures)
            refused_key = failures[0].startswith(("401", "403"))
            raise InputError(
                f"judge at {self.settings.base_url}: {len(failures)} of {len(missing)} requests failed, the first with "
                f"{failures[0]}"
                + (f"; {unsent} were not sent, as no request succeeded any more" if unsent else "")
                + (f"; the key comes from the environment variable {self.settings.api_key_env}" if refused_key else "")
                + (". Is the server running?" if failures[0] == "APIConnectionError" else ".")
                + f" Answers are kept in {self.settings.cache}: running again continues with those that are missing"
            )
        self.prompt_tokens += sum(kept[text]["prompt_tokens"] for text in texts)
        self.completion_tokens += sum(kept[text]["completion_tokens"] for text in texts)
        return [parse_answer(kept[text]["answer"]) for text in texts]

    def keep_refused(self, refused: dict[str, str], kept: dict[str, dict | None]) -> None:
        """Put an empty answer, which is invalid, where the server refused a question, with the reason."""
        for text, reason in refused.items():
            kept[text] = {"answer": "", "prompt_tokens": 0, "completion_tokens": 0, "refused": reason}
            write_json(self.path_of(text), kept[text])

    async def ask_all(self, texts: list[str], kept: dict[str, dict | None]) -> tuple[list[str], dict[str, str]]:
        """Ask the server about each text and put its answers into `kept`, on disk as well.

        Returns why requests failed, and why questions were refused.
        """
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

        quiet_http()
        hooks = {"request": [self.count_retry], "response": [refuse_broken]}
        client = AsyncOpenAI(
            base_url=self.settings.base_url,
            api_key=self.key or "none",  # the library insists on one
            timeout=self.settings.timeout,
            max_retries=self.settings.max_retries,
            http_client=DefaultAsyncHttpxClient(event_hooks=hooks),
        )
        free = asyncio.Semaphore(self.settings.concurrency)
        hopeless = max(HOPELESS, 2 * self.settings.concurrency)
        failures, refused, in_a_row = [], {}, 0

        async def ask(text: str) -> None:
            nonlocal in_a_row
            async with free:
                if in_a_row >= hopeless:
                    return
                self.asked += 1
                try:
                    response = await client.chat.completions.with_raw_response.create(**self.request(text))
                except OpenAIError as error:
                    if getattr(error, "status_code", None) in REFUSED:
                        refused[text] = self.reason(error)
                    else:
                        failures.append(self.reason(error))
                        in_a_row += 1
                else:
                    answer = read_completion(response.text)
                    kept[text] = answer | {"answer": self.redacted(answer["answer"])}
                    write_json(self.path_of(text), kept[text])
                    in_a_row = 0
            progress.update()

        async with client:
            with Progress("judge", len(texts), "request") as progress:
                await asyncio.gather(*map(ask, texts))
        return failures, refused

    def request(self, text: str) -> dict:
        """All that decides an answer, but the server."""
        return {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.settings.max_tokens,
            "temperature": 0.0,
        }

    def path_of(self, text: str) -> Path:
        content = {"base_url": self.settings.base_url.rstrip("/"), **self.request(text)}
        name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Path(self.settings.cache) / name[:2] / f"{name}.json"

    def read_kept(self, text: str) -> dict | None:
        path = self.path_of(text)
        if not path.is_file():
            return None
        kept, types = read_json(path), {"answer": str, "prompt_tokens": int, "completion_tokens": int}
        if not all(isinstance(kept.get(name), kind) for name, kind in types.items()):
            raise InputError(f"{path}: not a judge's answer; delete it to ask again")
        return kept

    async def count_retry(self, request) -> None:
        self.retried += request.headers.get("x-stainless-retry-count", "0") != "0"

    def reason(self, error: Exception) -> str:
        """The status and the server's words of a failed request, or what kind of failure kept it from answering."""
        if not hasattr(error, "status_code"):
            return type(error).__name__
        words = error.body.get("message") if isinstance(error.body, dict) else error.body
        words = f": {words}" if isinstance(words, str) and words else ""
        return " ".join(self.redacted(f"{error.status_code} {error.response.reason_phrase}{words}").split())[:200]

    def redacted(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text


def read_key(variable: str) -> str:
    """The key in an environment variable, empty if there is none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"environment variable {variable}: not a key, it has spaces or characters no header may have")
    return key


def read_completion(body: str) -> dict:
    """Answer and token usage of a chat completion; ValueError if the body is none.

    A completion without text (all of it thought, say) is an empty answer.
    """
    try:
        completion = json.loads(body)
        answer, usage = completion["choices"][0]["message"]["content"], completion.get("usage") or {}
        counts = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError("no chat completion") from error
    if not isinstance(answer, str | None):
        raise ValueError("no chat completion")
    return {"answer": answer or "", **counts}


async def refuse_broken(response) -> None:
    """Make a success whose body is no chat completion a bad gateway, which the client tries again."""
    if response.is_success:
        await response.aread()
        try:
            read_completion(response.text)
        except ValueError:
            response.status_code = 502
            response.extensions["reason_phrase"] = b"no chat completion"


def quiet_http() -> None:
    """No requests, headers or bodies in logs, whatever level others set."""
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
