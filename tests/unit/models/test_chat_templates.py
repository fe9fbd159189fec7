"""Chat templates that hang, fill the memory or fail raise one line."""

import json
import resource
import shutil
import signal
import time

import pytest
import torch

import tiny
from mutations import is_short_line
from prefloop.core.errors import InputError
from prefloop.models import chat_templates
from prefloop.models.chat import conversation_text, load_tokenizer, prompt_ids
from prefloop.models.chat_templates import RefusedRolesError, render_chat
from prefloop.models.fetch import write_model
from prefloop.models.loading import load_base

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
LOOPS += "{% endfor %}{% endfor %}"
GROWING = "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
QUESTION = [{"role": "user", "content": "Hi"}]


def with_template(folder, manifests, template: str | list):
    """Copy a fetched model, replace its chat template, and return the folder."""
    shutil.copytree(manifests["llama"].parent, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_default_of_several_named_templates_is_used_and_exported(manifests, tmp_path):
    """transformers would write the others into a subfolder, which no manifest covers."""
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "hello"}]
    folder = with_template(tmp_path / "model", manifests, named)
    tokenizer = load_tokenizer(folder)
    assert conversation_text(tokenizer, QUESTION) == "hello"
    model, _ = load_base(manifests["llama"], torch.float32)
    for _ in range(2):
        write_model(model, tokenizer, tmp_path / "written/manifest.json", manifests["llama"], "copy of")
    assert load_tokenizer(tmp_path / "written").chat_template == "hello"
    folder = with_template(tmp_path / "other", manifests, named[:1])
    with pytest.raises(InputError, match="chat templates tool_use, expected one with the name default"):
        load_tokenizer(folder)


@pytest.mark.parametrize("template", [LOOPS, GROWING, "{{ 'x' * 10**12 }}", "{{ 7 ** (10**8) % 10 }}"])
def test_endless_template_is_refused_when_the_tokenizer_is_loaded(manifests, tmp_path, monkeypatch, template):
    monkeypatch.setattr(chat_templates, "SECONDS", 1)
    folder, start, memory = with_template(tmp_path / "model", manifests, template), time.perf_counter(), peak()
    with pytest.raises(InputError, match="its chat template takes more than 1 s or 1.1 GB for a short conversation"):
        load_tokenizer(folder)
    assert time.perf_counter() - start < 30
    assert peak() - memory < 500_000


def peak() -> int:
    """Return this process's peak memory in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_template_that_is_endless_for_one_prompt_is_interrupted(monkeypatch):
    """Loading the tokenizer does not detect it, because only long prompts hang. The signal handler is restored."""
    monkeypatch.setattr(chat_templates, "SECONDS", 1)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% if messages[0].content|length > 9 %}" + LOOPS + "{% endif %}ok"
    assert conversation_text(tokenizer, QUESTION) == "ok"
    with pytest.raises(InputError, match="chat template takes more than 1 s for a conversation"):
        conversation_text(tokenizer, [{"role": "user", "content": "0123456789"}])
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_text_of_a_template_is_bounded():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for i in range(90000) %}" + "x" * 100 + "{% endfor %}"
    with pytest.raises(InputError, match="writes 9,000,000 characters, at most 1,000,020 are expected"):
        prompt_ids(tokenizer, QUESTION)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for i in range(10**9) %}{% endfor %}", "fails .OverflowError: Range too big"),
        ("{{ 1 / 0 }}", "fails .ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "fails .TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails .RecursionError"),
        ("{{ 'x' * 10**15 }}", "fails .MemoryError"),
        ("{% if %}", "is invalid"),
        ("{{ ''.__class__.__mro__ }}", "is invalid .access to attribute '__class__'"),
        ("{% include '/etc/passwd' %}", "fails .TypeError: no loader"),
    ],
)
def test_failing_template_raises_with_one_line(template, problem):
    """The error is not RefusedRolesError, which would drop prompts."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    for owner in ("model", "reward model"):
        with pytest.raises(InputError, match=f"the {owner}'s chat template {problem}") as caught:
            render_chat(tokenizer, QUESTION, owner)
        assert is_short_line(str(caught.value))
        assert not isinstance(caught.value, RefusedRolesError)


def test_refused_roles_have_their_own_error():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no users') }}"
    with pytest.raises(RefusedRolesError, match="refuses roles user .no users."):
        render_chat(tokenizer, QUESTION)
