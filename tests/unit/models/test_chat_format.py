"""The chat format of a run: prepare_prompts writes it to chat.json, and every later stage uses it."""

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

import families
from conftest import ROOT, TINY
from conversations import asks
from prefloop.config.validation import checked
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.models.chat import ChatFormat, conversation_text, load_tokenizer, prompt_ids, read_format, settle_format
from prefloop.models.fetch import fetch
from prefloop.training.sft import tokenize_examples
from steps import PROMPT_OUTPUTS


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Manifests of tiny models of several families."""
    folder = tmp_path_factory.mktemp("families")
    for name in ("qwen3", "llama3", "smollm3", "gemma2"):
        families.make_family(folder / "hub" / name, name)
        fetch(str(folder / "hub" / name), folder / name)
    return {name: folder / name / "manifest.json" for name in ("qwen3", "llama3", "smollm3", "gemma2")}


def tokenizer_of(models: dict[str, Path], name: str):
    return load_tokenizer(models[name].parent)


def test_date_comes_from_the_config_or_an_earlier_run_or_is_today(models, tmp_path):
    tokenizer, stored = tokenizer_of(models, "smollm3"), tmp_path / "chat.json"
    assert settle_format(tokenizer, {}, None, stored).date == datetime.date.today().isoformat()
    write_json(stored, {"template_kwargs": {}, "date": "2024-02-29", "end_of_turn": "<|im_end|>"})
    assert settle_format(tokenizer, {}, None, stored).date == "2024-02-29"
    assert settle_format(tokenizer, {}, "2025-01-31", stored).date == "2025-01-31"
    assert "Today Date: 29 February 2024\n" in conversation_text(tokenizer, asks("Hi"), read_format(stored))


def test_template_with_a_fixed_date_keeps_it_unless_one_is_set(models, tmp_path):
    """Llama 3.1's template prints 26 Jul 2024, as in the model's tuning. The variable `date_string` changes it."""
    tokenizer = tokenizer_of(models, "llama3")
    tokenizer.chat_template = tokenizer.chat_template.replace("strftime_now is defined", "false")
    free = settle_format(tokenizer, {}, None, tmp_path / "chat.json")
    fixed = settle_format(tokenizer, {}, "2025-01-31", tmp_path / "chat.json")
    own = settle_format(tokenizer, {"date_string": "1 May 1999"}, "2025-01-31", tmp_path / "chat.json")
    texts = [conversation_text(tokenizer, asks("Hi"), chat) for chat in (free, fixed, own)]
    assert ["26 Jul 2024" in texts[0], "31 Jan 2025" in texts[1], "1 May 1999" in texts[2]] == [True] * 3


def test_stored_format_gives_the_same_ids(models, tmp_path):
    tokenizer = tokenizer_of(models, "qwen3")
    chat = settle_format(tokenizer, {"enable_thinking": False}, "2025-01-31", tmp_path / "none.json")
    write_json(tmp_path / "chat.json", {"template_kwargs": {"enable_thinking": False}, "date": "2025-01-31"})
    ids = prompt_ids(tokenizer, asks("Hi"), read_format(tmp_path / "chat.json"))
    assert ids == prompt_ids(tokenizer, asks("Hi"), chat) != prompt_ids(tokenizer, asks("Hi"), read_format(None))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"enable_thinkng": False}, "enable_thinkng is not a variable of .*; did you mean enable_thinking"),
        ({"add_generation_prompt": False}, "add_generation_prompt is not a variable of"),
    ],
)
def test_unknown_template_variable_raises(models, tmp_path, kwargs, message):
    """Jinja would ignore it, and the model would think."""
    with pytest.raises(InputError, match=f"^chat_template_kwargs: {message}"):
        settle_format(tokenizer_of(models, "qwen3"), kwargs, None, tmp_path / "chat.json")


def test_invalid_date_raises(models, tmp_path):
    with pytest.raises(InputError, match="^template_date: '31 Jan 2025', expected a day as YYYY-MM-DD"):
        settle_format(tokenizer_of(models, "llama3"), {}, "31 Jan 2025", tmp_path / "chat.json")


def test_file_without_a_date_raises(tmp_path):
    write_json(tmp_path / "chat.json", {"template_kwargs": {}})
    with pytest.raises(InputError, match="chat.json: missing 'date'; run rule prepare_prompts again"):
        read_format(tmp_path / "chat.json")


def test_tokenizer_without_any_end_raises(models, tmp_path):
    """Without an EOS token and a chat template, no response would end."""
    family = families.FAMILIES["pythia"]
    tokenizer = families.make_tokenizer(families.Family(family.build, family.special, eos=None))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}: the tokenizer has no eos_token, and the chat template does"):
        load_tokenizer(tmp_path)


def test_end_of_the_template_replaces_a_missing_eos(tmp_path):
    family = families.FAMILIES["qwen3"]
    families.make_tokenizer(families.Family(family.build, family.special, None, family.template)).save_pretrained(
        tmp_path
    )
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (None, "<|im_end|>")


@pytest.mark.parametrize("date", ["2025-01-31", datetime.date(2025, 1, 31)])
def test_config_accepts_dates_as_text_or_date(date):
    """YAML reads 2025-01-31 as a date."""
    policy = {"model": "some/model", "template_date": date, "chat_template_kwargs": {"enable_thinking": "false"}}
    config = checked(TINY | {"policy": policy})
    assert config["policy"]["template_date"] == "2025-01-31"
    assert config["policy"]["chat_template_kwargs"] == {"enable_thinking": False}


def prepare(folder: Path, manifest: Path, *flags: str) -> subprocess.CompletedProcess:
    """Run prepare_prompts on four prompts, one of which has its own system message."""
    own = [{"role": "system", "content": "Be rude."}, *asks("d?")]
    write_rows(folder / "rows.jsonl", [{"prompt": text} for text in "abc"] + [{"prompt": own}])
    command = [sys.executable, str(ROOT / "workflow/scripts/prepare_prompts.py"), "--source", "rows.jsonl"]
    command += ["--packaged", "none", "--model", str(manifest), *PROMPT_OUTPUTS, *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_program_writes_the_format_and_adds_the_system_prompt(models, tmp_path):
    flags = ["--chat-template-kwargs", '{"enable_thinking": false}', "--template-date", "2025-01-31"]
    done = prepare(tmp_path, models["qwen3"], *flags, "--system-prompt", "Be kind.")
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "chat.json") == {
        "template_kwargs": {"enable_thinking": False},
        "date": "2025-01-31",
        "end_of_turn": "<|im_end|>",
    }
    rows = [*read_rows(tmp_path / "train.jsonl"), *read_rows(tmp_path / "eval.jsonl")]
    assert sorted((row["messages"][-1]["content"], row["messages"][0]["content"]) for row in rows) == [
        ("a", "Be kind."),
        ("b", "Be kind."),
        ("c", "Be kind."),
        ("d?", "Be rude."),
    ]
    again = prepare(tmp_path, models["qwen3"])
    assert again.returncode == 0, again.stderr
    assert read_json(tmp_path / "chat.json") | {"end_of_turn": ""} == {
        "template_kwargs": {},
        "date": "2025-01-31",
        "end_of_turn": "",
    }
    without = [*read_rows(tmp_path / "train.jsonl"), *read_rows(tmp_path / "eval.jsonl")]
    assert [row["prompt_id"] for row in without] == [row["prompt_id"] for row in rows]


def test_program_refuses_a_system_prompt_that_the_template_refuses(models, tmp_path):
    done = prepare(tmp_path, models["gemma2"], "--system-prompt", "Be kind.")
    assert done.stderr.startswith("error: policy.system_prompt: the model's chat template refuses system messages")
    assert done.stderr.count("\n") == 1


def test_program_refuses_prompts_without_room_for_a_response(models, tmp_path):
    """The error comes before any model runs."""
    flags = ["--max-prompt-tokens", "200", "--max-new-tokens"]
    tokenizer = tokenizer_of(models, "qwen3")
    longest = len(prompt_ids(tokenizer, [{"role": "system", "content": "Be rude."}, *asks("d?")]))
    done = prepare(tmp_path, models["qwen3"], *flags, str(256 - longest))
    assert done.returncode == 0, done.stderr
    done = prepare(tmp_path, models["qwen3"], *flags, str(257 - longest))
    assert done.stderr.startswith(f"error: {models['qwen3']}: the longest prompt and its response come to 257 tokens")
    assert done.stderr.count("\n") == 1


def generate(folder: Path, manifest: Path, *flags: str) -> list[dict]:
    """Run generate.py on prompts.jsonl; return its rows."""
    command = [sys.executable, str(ROOT / "workflow/scripts/generate.py"), "--prompts", "prompts.jsonl", "--seed", "0"]
    command += ["--model", str(manifest), "--stream", "s", "--dtype", "float32", "--engine", "transformers", "--output"]
    done = subprocess.run(
        [*command, "out.jsonl", "--cost", "c.json", *flags], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return read_rows(folder / "out.jsonl")


def test_sampled_given_and_training_responses_end_in_the_same_token(models, tmp_path):
    """The token is Gemma's <end_of_turn>, which here is neither EOS nor in the generation config."""
    tokenizer, manifest = tokenizer_of(models, "gemma2"), models["gemma2"]
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    rows = [
        {"prompt_id": text, "messages": asks(text), "chosen": "It is good.", "rejected": "It is <end_of_turn> bad."}
        for text in "abcdef"
    ]
    write_rows(tmp_path / "prompts.jsonl", rows)
    sampled = generate(tmp_path, manifest, "--policy", str(manifest), "--n", "4", "--max-new-tokens", "100")
    ended = [row for row in sampled if row["token_ids"][-1] == end]
    assert len(ended) > 1
    assert all(end not in row["token_ids"][:-1] for row in sampled)
    assert all(row["finish_reason"] == "stop" and "<end_of_turn>" not in row["response"] for row in ended)
    given = generate(tmp_path, manifest, "--sampler", "dataset")
    learned = tokenize_examples(rows, tokenizer, 100, manifest)
    for ids in [row["token_ids"] for row in ended + given] + [example.response for example in learned]:
        assert ids.index(end) == len(ids) - 1
    assert [row["response"] for row in given[:2]] == ["It is good.", "It is <end_of_turn> bad."]


def test_date_of_a_format_replaces_the_clock(models):
    text = conversation_text(tokenizer_of(models, "llama3"), asks("Hi"), ChatFormat({}, "2001-02-03"))
    assert "Today Date: 03 Feb 2001\n" in text
