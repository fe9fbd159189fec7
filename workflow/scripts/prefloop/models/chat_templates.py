"""Render chat templates with limits on time and memory, because a template is a program by a third party.

jinja2's sandbox blocks access to Python's objects, but not nested loops or huge numbers and texts.
"""

import contextlib
import os
import resource
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import InputError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 5  # of CPU time for one conversation
MEMORY = 2**30  # bytes for one conversation
CHARACTERS, FACTOR = 1_000_000, 10  # a text may have CHARACTERS + FACTOR times the characters of its messages
EXAMPLE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


class RefusedRolesError(InputError):
    """The chat template does not allow a conversation's roles or their order."""


def render_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]], owner: str = "model", **options: Any
) -> str:
    """The text of a conversation in the model's chat template.

    Args:
        tokenizer (PreTrainedTokenizerBase): Has the template.
        messages (Sequence): The conversation.
        owner (str): What the tokenizer belongs to, for error messages.
        options (Any): Options of transformers' `apply_chat_template`, and variables of the template.

    Raises:
        RefusedRolesError: The chat template does not allow this order of roles.
        InputError: The template is invalid, fails, takes too long, or writes too much.
    """
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    try:
        with limited_time():
            text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except (TemplateSyntaxError, SecurityError) as error:
        raise InputError(f"the {owner}'s chat template is invalid ({error}); name another model") from error
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise RefusedRolesError(
            f"the {owner}'s chat template refuses roles {roles} ({error}){prompt_part(messages)}; leave "
            "out such prompts"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a template can raise anything, from ZeroDivisionError to MemoryError
        raise InputError(
            f"the {owner}'s chat template fails ({reason_of(error)}){prompt_part(messages)}; name another model"
        ) from error
    most = CHARACTERS + FACTOR * sum(len(message["content"]) for message in messages)
    if len(text) > most:
        raise InputError(
            f"the {owner}'s chat template writes {len(text):,} characters, at most {most:,} are expected"
            f"{prompt_part(messages)}; name another model"
        )
    return text


def prompt_part(messages: Sequence[dict[str, str]]) -> str:
    """The start of the prompt, as part of an error message; empty for a conversation that ends with an answer."""
    last = messages[-1]
    return "" if last["role"] == "assistant" else f"; prompt: {last['content'][:60]!r}"


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Raise InputError if the block takes more than SECONDS of CPU time. Only the main thread is limited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise InputError(
            f"the model's chat template takes more than {SECONDS} s for a conversation; name another model"
        )

    earlier = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, earlier)


def check_chat_template(tokenizer: "PreTrainedTokenizerBase", model: Path) -> None:
    """Render a short conversation in a child process that is limited to SECONDS and MEMORY.

    Time limits within a process do not interrupt a single operation, such as a power of large numbers.

    Raises:
        InputError: The template exceeds a limit.
    """
    with warnings.catch_warnings():  # Python warns that a forked child may wait for another thread's lock
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            limit_memory()
            for messages in (EXAMPLE[:1], EXAMPLE):
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(messages) == 1)
        except MemoryError:
            os._exit(1)
        except Exception:  # `render_chat` reports it if it occurs in the run's conversations
            os._exit(0)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status != 0:
        raise InputError(
            f"{model}: its chat template takes more than {SECONDS} s or {MEMORY / 1e9:.1f} GB for a short conversation"
            "; name another model"
        )


def limit_memory() -> None:
    """Limit this process to MEMORY bytes more than it uses now."""
    pages = Path("/proc/self/statm")
    if pages.exists():  # Linux
        used = int(pages.read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = used + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
