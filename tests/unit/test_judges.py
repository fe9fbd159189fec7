"""Judges: verdicts from both orders, and a server's every trouble without a verdict lost, repeated or invented."""

import hashlib
import itertools
import json
import logging
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from judge_server import SOON, JudgeServer, Reply
from prefloop.judges import Judging, LocalJudge, ServerJudge
from prefloop.rows import InputError
from prefloop.verdicts import Verdict, parse_answer, rates, read_template, render, report

ROOT = Path(__file__).parent.parent.parent
TEMPLATES = sorted((ROOT / "workflow/prompts/judge").glob("*.txt"))
SHORT = "{conversation}|{response_a}|{response_b}"
KEY = "sk-test-0123456789-secret"


# The tests' judge finds the longer response better and cannot make sense of a prompt that says so.
def judged_by_length(question: str) -> str:
    prompt, first, second = question.split("|")
    if "nonsense" in prompt:
        return "As a language model I like A and B."
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def truth(prompt: list[dict], a: str, b: str) -> Verdict:
    answer = {"A": 1.0, "B": 0.0, "tie": 0.5}.get(judged_by_length(f"{prompt[0]['content']}|{a}|{b}"))
    return Verdict(answer, answer)


def pairs(count: int) -> tuple[list, list, list]:
    """Pairs with lengths 1 to 5, so that some tie; every seventh prompt is nonsense."""
    prompts = [[{"role": "user", "content": f"{'nonsense' if i % 7 == 6 else 'prompt'} {i}"}] for i in range(count)]
    return prompts, ["x" * (1 + i % 5) for i in range(count)], ["y" * (1 + i % 3) for i in range(count)]


def outcomes(verdicts: list[Verdict]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


def dice(question: str) -> float:
    """A number in [0, 1) that is always the same for a question."""
    return int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) / 2**32


@pytest.fixture
def judging(tmp_path, monkeypatch) -> Judging:
    """Settings of a server's judge, its key in the environment; `base_url` is missing."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "short.txt").write_text(SHORT + "\n")
    return Judging(
        template=tmp_path / "short.txt",
        model="judge",
        api_key_env="JUDGE_KEY",
        timeout=5.0,
        cache=tmp_path / "cache",
    )


@pytest.mark.parametrize(
    ("first", "second", "margin", "outcome", "preference", "flipped"),
    [
        (1.0, 1.0, 0.0, "A", 1.0, False),
        (0.0, 0.0, 0.0, "B", 0.0, False),
        (1.0, 0.0, 0.0, "tie", 0.5, True),  # always the first
        (0.0, 1.0, 0.0, "tie", 0.5, True),  # always the second
        (0.5, 0.5, 0.0, "tie", 0.5, False),
        (1.0, 0.5, 0.0, "A", 0.75, False),  # one order undecided
        (0.75, 0.375, 0.0, "A", 0.5625, True),
        (0.75, 0.375, 0.0625, "tie", 0.5625, True),  # a margin includes its end
        (0.75, 0.375, 0.05, "A", 0.5625, True),
        (0.53125, 0.25, 0.0625, "B", 0.390625, False),  # .53 names no winner within the margin
        (None, 1.0, 0.0, "invalid", None, False),
        (1.0, None, 0.0, "invalid", None, False),
        (None, None, 0.5, "invalid", None, False),
    ],
)
def test_verdicts_average_both_orders(first, second, margin, outcome, preference, flipped):
    verdict = Verdict(first, second, margin)
    assert (verdict.outcome, verdict.preference, verdict.flipped) == (outcome, preference, flipped)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *[(text, 1.0) for text in ("A", "a", " A\n", "A.", "**A**", "`A`", '"A"', "(A)", "[[A]]", "Answer: A")],
        *[(text, 0.0) for text in ("B", "b)", "**Answer:** B", "answer: **b**.", "# B", "- B")],
        *[(text, 0.5) for text in ("tie", "Tie.", "TIE", "Answer: tie")],
        *[(text, None) for text in ("", " ", ".", "Answer:", "C", "AB", "A B", "A or B", "A/B", "A, B", "not A")],
        *[(text, None) for text in ("a tie", "ties", "Answera", "I choose A", "A because B is rude", "A\nB", "¬A")],
        *[(text, None) for text in ("tİe", "1", "Apple", "Response A is better", "Neither", "A?", "А")],  # Cyrillic
    ],
)
def test_only_plain_answers_count(text, answer):
    assert parse_answer(text) == answer


def test_texts_with_braces_stay_as_they_are():
    user, assistant = {"role": "user", "content": "{response_a} {x}"}, {"role": "assistant", "content": "\\1"}
    assert render("<{conversation}|{response_a}|{response_b}>", [user], "{response_b}", "{conversation}{}") == (
        "<{response_a} {x}|{response_b}|{conversation}{}>"
    )
    assert render("{conversation} {other}", [user, assistant, {"role": "user", "content": "why?"}], "", "") == (
        "User: {response_a} {x}\n\nAssistant: \\1\n\nUser: why? {other}"
    )


def test_templates_without_placeholders_are_refused(tmp_path):
    path = tmp_path / "mine.txt"
    with pytest.raises(InputError, match="mine.txt: no such file"):
        read_template(path)
    path.write_text("{conversation} {response_A}")
    with pytest.raises(InputError, match=r"mine.txt: a judge's template must hold \{response_a\}, \{response_b\}$"):
        read_template(path)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_our_templates_ask_what_is_read(path):
    text = render(read_template(path), [{"role": "user", "content": "why?"}], "because", "who knows")
    assert text.index("why?") < text.index("because") < text.index("who knows")
    assert "{" not in text
    assert "A or B" in text and "tie" in text


def test_report_by_hand():
    verdicts = [
        Verdict(1.0, 1.0),  # A, longer; shown first it won, shown second it won
        Verdict(0.0, 0.0),  # B, shorter; the same
        Verdict(1.0, 0.0),  # tie, flipped; the first won both times
        Verdict(None, 1.0),  # invalid; one answer, for the second
        Verdict(1.0, 0.5),  # A, of equal length; one decisive answer, for the first
        Verdict(0.5, 0.5),  # tie
    ]
    assert report(verdicts, [9, 9, 1, 1, 5, 1], [1, 1, 2, 2, 5, 2]) == {
        "pairs": 6,
        "outcomes": {"A": 2, "B": 1, "tie": 2, "invalid": 1},
        "position_flip_rate": [1, 5],
        "first_position_share": [5, 8],
        "longer_won": [1, 2],
    }
    nothing = {"position_flip_rate": [0, 0], "first_position_share": [0, 0], "longer_won": [0, 0]}
    assert report([], [], []) == {"pairs": 0, "outcomes": dict.fromkeys(["A", "B", "tie", "invalid"], 0)} | nothing
    assert report([Verdict(None, None)], [1], [2]).items() >= nothing.items()


def test_counts_become_shares_and_nothing_of_nothing_none():
    outcomes = {"A": 2, "B": 1, "tie": 2, "invalid": 1}
    told = {"pairs": 6, "outcomes": outcomes, "position_flip_rate": [1, 5], "longer_won": [0, 0], "asked": 7}
    assert rates(told) == {"pairs": 6, "position_flip_rate": 0.2, "longer_won": None, "asked": 7} | outcomes


def test_a_server_is_asked_in_both_orders_and_once(judging):
    """Verdicts are the server's own, a second run needs no server, and equal questions are one request."""
    prompts, a, b = pairs(21)
    prompts, a, b = [*prompts, *prompts[:5]], [*a, *a[:5]], [*b, *b[:5]]
    with JudgeServer(judged_by_length) as server:
        judge = ServerJudge(replace(judging, base_url=server.url))
        verdicts = judge.compare(prompts, a, b)
    assert verdicts == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert set(outcomes(verdicts)) == {"A", "B", "tie", "invalid"}
    assert set(server.attempts.values()) == {1}
    assert len(server.attempts) == judge.asked == 42
    assert (judge.cached, judge.retried, judge.prompt_tokens, judge.completion_tokens) == (0, 0, 4200, 84)
    assert (judge.tokens, judge.parameters, judge.device) == (0, 0, "server")
    first = server.bodies[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("judge", 0, 16)
    again = ServerJudge(replace(judging, base_url=server.url + "/"))
    assert again.compare(prompts, a, b) == verdicts
    assert (again.asked, again.cached, again.prompt_tokens) == (0, 42, 4200)


def test_only_what_was_asked_is_remembered(judging):
    """Another model, server, template or length of answer is another question; a torn answer is named."""
    prompts, a, b = pairs(1)
    with JudgeServer(judged_by_length) as server, JudgeServer(judged_by_length) as other:
        settings = replace(judging, base_url=server.url)
        ServerJudge(settings).compare(prompts, a, b)
        judging.template.with_name("other.txt").write_text(f"{SHORT} ")
        for changed in ({"model": "other"}, {"base_url": other.url}, {"max_tokens": 8}, {}):
            judge = ServerJudge(replace(settings, **changed))
            judge.compare(prompts, a, b)
            assert judge.asked == (2 if changed else 0), changed
    file = next(judging.cache.rglob("*.json"))
    assert len(list(judging.cache.rglob("*"))) > len(list(judging.cache.rglob("*.json"))) == 8
    assert file.parent.name == file.stem[:2]
    for torn in ("{", '{"answer": 1}'):
        for path in judging.cache.rglob("*.json"):
            path.write_text(torn)
        with pytest.raises(InputError, match=r"\.json: not "):
            ServerJudge(settings).compare(prompts, a, b)


def test_no_trouble_changes_a_verdict(judging):
    """A third of the first tries fail, others stall, break off, are no JSON or no completion, or must wait."""
    prompts, a, b = pairs(60)

    def trouble(question, attempt, headers):
        chance = dice(question)
        if attempt > (chance < 0.1):  # a tenth fails twice
            return None
        if chance < 0.3:
            return Reply(500, '{"error": {"message": "overloaded"}}', SOON)
        if chance < 0.33:
            return Reply(200, "{}", stall=1.5)
        for limit, body in ((0.4, '{"choices": [{"mess'), (0.45, "A"), (0.5, '{"error": {"code": 1}}')):
            if chance < limit:
                return Reply(200, body, SOON)
        return Reply(429, "slow down", {"retry-after": "0.02"}) if chance < 0.6 else None

    with JudgeServer(judged_by_length, trouble) as server:
        judge = ServerJudge(replace(judging, base_url=server.url, timeout=1.0, concurrency=16))
        verdicts = judge.compare(prompts, a, b)
    assert verdicts == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == judge.asked == 120
    assert judge.retried == sum(server.attempts.values()) - 120 > 60
    assert sum(0.3 <= dice(question) < 0.33 for question in server.attempts) >= 2  # some did stall


def test_retry_after_is_waited_for(judging):
    prompts, a, b = pairs(1)

    def busy(question, attempt, headers):
        return Reply(429, "slow down", {"retry-after": "1"}) if attempt == 0 else None

    with JudgeServer(judged_by_length, busy) as server:
        judge = ServerJudge(replace(judging, base_url=server.url))
        start = time.monotonic()
        judge.compare(prompts, a, b)
    assert judge.retried == 2
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("limit", [1, 5])
def test_no_more_requests_at_once_than_allowed(judging, limit):
    prompts, a, b = pairs(20)

    def trouble(question, attempt, headers):
        return Reply(503, "", SOON) if attempt == 0 and dice(question) < 0.3 else None

    with JudgeServer(judged_by_length, trouble, pause=0.02) as server:
        ServerJudge(replace(judging, base_url=server.url, concurrency=limit)).compare(prompts, a, b)
    assert server.peak == limit


def test_a_server_that_dies_half_way_is_continued(judging):
    """Every question is answered exactly once over both runs, and the first one's message says what to do."""
    prompts, a, b = pairs(30)
    settings, request = replace(judging, concurrency=4, max_retries=0), itertools.count()

    def die(question, attempt, headers):
        if next(request) >= 25:
            server.die()
            raise ConnectionAbortedError

    with JudgeServer(judged_by_length, die) as server:
        settings = replace(settings, base_url=server.url)
        with pytest.raises(InputError) as caught:
            ServerJudge(settings).compare(prompts, a, b)
    assert "of 60 requests failed, the first with APIConnectionError; " in str(caught.value)
    assert f"Answers are kept in {judging.cache}: running again continues" in str(caught.value)
    assert len(list(judging.cache.rglob("*.json"))) == len(server.answered) == 25
    with JudgeServer(judged_by_length, port=server.port) as revived:
        judge = ServerJudge(settings)
        verdicts = judge.compare(prompts, a, b)
    assert verdicts == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert (judge.asked, judge.cached, judge.prompt_tokens) == (35, 25, 6000)
    answered = server.answered + revived.answered
    assert set(answered.values()) == {1} and len(answered) == 60


def test_a_killed_run_is_continued(judging):
    """Killed without warning while it waits for its eleventh answer, with ten on disk."""
    prompts, a, b = pairs(10)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from prefloop.judges import *; from pathlib import Path\n"
        "judging = Judging(Path(sys.argv[2]), sys.argv[3], 'judge', concurrency=1, cache=Path(sys.argv[4]))\n"
        "ServerJudge(judging).compare(*eval(sys.argv[5]))"
    )
    settings = [str(judging.template), "URL", str(judging.cache), repr((prompts, a, b))]

    def kill(question, attempt, headers):
        if len(server.answered) == 10:
            process.kill()
            return Reply(500)
        return None

    with JudgeServer(judged_by_length, kill) as server:
        settings[1] = server.url
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(ROOT / "workflow/scripts"), *settings], stderr=subprocess.DEVNULL
        )
        assert process.wait(30) == -signal.SIGKILL
    with JudgeServer(judged_by_length, port=server.port) as revived:
        judge = ServerJudge(replace(judging, base_url=revived.url))
        assert judge.compare(prompts, a, b) == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert (judge.asked, judge.cached) == (10, 10)
    assert set((server.answered + revived.answered).values()) == {1}


def test_one_failure_stops_no_other_and_is_no_verdict(judging):
    prompts, a, b = pairs(20)

    def stumble(question, attempt, headers):
        return Reply(501, '{"error": {"message": "not today"}}', SOON) if "prompt 3|" in question else None

    with JudgeServer(judged_by_length, stumble) as server:
        settings = replace(judging, base_url=server.url, max_retries=0)
        for total in (40, 2):  # the second run asks for nothing but those two
            with pytest.raises(
                InputError, match=f"2 of {total} requests failed, the first with 501 .*: not today. Ans"
            ):
                ServerJudge(settings).compare(prompts, a, b)
        assert (len(server.answered), sum(server.attempts.values())) == (38, 42)
        server.trouble = lambda *request: None
        verdicts = ServerJudge(settings).compare(prompts, a, b)
    assert verdicts == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]


def test_a_question_that_the_server_refuses_is_invalid_and_stops_nothing(judging):
    """The first twelve pairs are too long for the server: it says so once for each question, and judges the rest."""
    prompts, a, b = pairs(30)
    long = {f"prompt {i}|" for i in range(12)}

    def refuse(question, attempt, headers):
        too_long = any(mark in question for mark in long)
        return Reply(400, '{"error": {"message": "too long"}}') if too_long else None

    with JudgeServer(judged_by_length, refuse) as server:
        settings = replace(judging, base_url=server.url)
        for asked in (60, 0):
            judge = ServerJudge(settings)
            verdicts = judge.compare(prompts, a, b)
            assert judge.asked == asked
            assert [v.outcome for v in verdicts[:12]] == ["invalid"] * 12
            assert verdicts[12:] == [truth(*pair) for pair in zip(prompts[12:], a[12:], b[12:], strict=True)]
        assert set(server.attempts.values()) == {1}
    reasons = [json.loads(path.read_text()).get("refused") for path in judging.cache.rglob("*.json")]
    asked_in_vain = {question for question in server.attempts if any(mark in question for mark in long)}
    assert sum("too long" in (reason or "") for reason in reasons) == len(asked_in_vain) > 20


def test_a_server_that_refuses_everything_has_judged_nothing(judging):
    """A wrong setting is refused like a wrong question: with not one answer, it is a failure and not 20 verdicts."""
    prompts, a, b = pairs(20)
    refusal = Reply(400, '{"error": {"message": "no such"}}')
    message = "40 of 40 requests failed, the first with 400 .*: no such"
    with JudgeServer(judged_by_length, lambda *r: refusal) as server, pytest.raises(InputError, match=message):
        ServerJudge(replace(judging, base_url=server.url)).compare(prompts, a, b)
    assert not judging.cache.exists()


def test_retries_end(judging):
    prompts, a, b = pairs(1)
    with JudgeServer(judged_by_length, lambda *request: Reply(200, "<html>", SOON)) as server:
        judge = ServerJudge(replace(judging, base_url=server.url, max_retries=3))
        with pytest.raises(InputError, match="2 of 2 requests failed, the first with 502 no chat completion: <html>"):
            judge.compare(prompts, a, b)
    assert list(server.attempts.values()) == [4, 4]
    assert judge.retried == 6
    assert not judging.cache.exists()


def test_a_silent_server_is_a_failure(judging):
    prompts, a, b = pairs(1)
    with JudgeServer(judged_by_length, lambda *request: Reply(200, stall=0.5)) as server:
        judge = ServerJudge(replace(judging, base_url=server.url, max_retries=0, timeout=0.1))
        with pytest.raises(InputError, match="2 of 2 requests failed, the first with APITimeoutError"):
            judge.compare(prompts, a, b)


def test_a_refused_key_is_not_tried_again_and_never_shown(judging, tmp_path, capfd, caplog, monkeypatch):
    """The server quotes the key back in its words, headers and status line, with every log wide open."""
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    prompts, a, b = pairs(100)
    seen = set()

    def refuse(question, attempt, headers):
        seen.add(headers["authorization"])
        words = f"bad key in {headers['authorization']}"
        return Reply(401, json.dumps({"error": {"message": words, "code": KEY}}), {"x-request-id": KEY})

    with JudgeServer(judged_by_length, refuse) as server:
        with pytest.raises(InputError, match=r"with 401 Unauthorized: bad key in Bearer \[key\]; ") as caught:
            ServerJudge(replace(judging, base_url=server.url)).compare(prompts, a, b)
        assert set(server.attempts.values()) == {1}
        assert len(server.attempts) < 30  # no use in asking all 200
        server.trouble = lambda question, attempt, headers: Reply(401, f"{KEY} is not it", SOON)
        with pytest.raises(InputError, match=r"401 Unauthorized: \[key\] is not it") as plain:
            ServerJudge(replace(judging, base_url=server.url)).compare(prompts, a, b)
        server.trouble, server.answer = (lambda *request: None), lambda question: f"A {KEY}"
        verdicts = ServerJudge(replace(judging, base_url=server.url)).compare(prompts, a, b)
    assert set(outcomes(verdicts)) == {"invalid"}
    assert seen == {f"Bearer {KEY}"}
    shown = capfd.readouterr()
    texts = [shown.out, shown.err, caplog.text]
    for error in (caught.value, plain.value):
        assert error.__context__ is None
        texts += traceback.format_exception(error)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 201
    assert not any(KEY in text for text in [*texts, *map(str, files), *(path.read_text() for path in files)])


def test_a_server_without_key_needs_none(judging, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    prompts, a, b = pairs(1)
    seen = []
    with JudgeServer(lambda q: "B", lambda q, attempt, headers: seen.append(headers["authorization"])) as server:
        assert outcomes(ServerJudge(replace(judging, base_url=server.url)).compare(prompts, a, b)) == ["tie"]
    assert seen == ["Bearer none"] * 2
    monkeypatch.setenv("JUDGE_KEY", "two words")
    with pytest.raises(InputError, match="^environment variable JUDGE_KEY: not a key, it has spaces"):
        ServerJudge(replace(judging, base_url=server.url))


def test_a_server_needs_address_and_model(judging):
    with pytest.raises(InputError, match="feedback.judge.base_url"):
        ServerJudge(judging)
    with pytest.raises(InputError, match="feedback.judge.model"):
        ServerJudge(replace(judging, base_url="http://127.0.0.1/v1", model=None))


def test_an_answer_without_text_is_invalid(judging):
    """As from a model that spent all its tokens on thinking."""
    with JudgeServer(lambda question: None) as server:
        judge = ServerJudge(replace(judging, base_url=server.url))
        assert judge.compare(*pairs(2)) == [Verdict(None, None)] * 2


def test_nothing_heavy_is_imported():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import prefloop.judges\n"
        "assert not {'torch', 'transformers', 'openai', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(ROOT / "workflow/scripts")], check=True)


LOCAL_PAIRS = (
    [[{"role": "user", "content": text}] for text in ("why is it so", "who", "")],
    ["because it is good", "me", "the reply"],
    ["no", "you and the other one, I say", "the reply"],
)


@pytest.fixture
def short(tmp_path) -> Judging:
    """Settings of a local judge that counts what a random model finds as improbable as everything else."""
    (tmp_path / "short.txt").write_text(SHORT)
    return Judging(template=tmp_path / "short.txt", min_label_mass=0.0)


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_a_local_judge_answers_as_its_model_would(manifests, model_folders, short, architecture):
    """p(A) of all questions in one padded batch equals transformers' plain forward of one after the other."""
    judge = LocalJudge(short, manifests[architecture], 1, 8)
    verdicts = judge.compare(*LOCAL_PAIRS)
    model = AutoModelForCausalLM.from_pretrained(model_folders[architecture], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folders[architecture])
    labels = [tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    read = 0

    def p_of_first(prompt: list[dict], first: str, second: str) -> float:
        nonlocal read
        question = f"{prompt[0]['content']}|{first}|{second}"
        if tokenizer.chat_template is None:
            text = f"<s>\n\nHuman: {question}\n\nAssistant:"
        else:
            text = f"<s><user>{question}</s><assistant>"
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        read += ids.shape[1]
        with torch.no_grad():
            probabilities = model(ids).logits[0, -1].softmax(dim=0)
        return (probabilities[labels[0]] / probabilities[labels].sum()).item()

    for prompt, a, b, verdict in zip(*LOCAL_PAIRS, verdicts, strict=True):
        assert verdict.first == pytest.approx(p_of_first(prompt, a, b), abs=1e-5)
        if a != b:
            assert verdict.second == pytest.approx(1 - p_of_first(prompt, b, a), abs=1e-5)
    assert judge.tokens == read  # equal responses are one question
    assert judge.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert judge.device in ("cpu", "cuda")


def test_a_local_judge_does_not_depend_on_batches(manifests, short):
    verdicts = [LocalJudge(short, manifests["llama"], 1, size).compare(*LOCAL_PAIRS) for size in (1, 2, 32)]
    for other in verdicts[1:]:
        assert [v[:2] for v in other] == [pytest.approx(v[:2], abs=1e-5) for v in verdicts[0]]


def test_swapped_responses_swap_the_orders(manifests, short):
    prompts, a, b = LOCAL_PAIRS
    judge = LocalJudge(short, manifests["llama"], 1, 4)
    for verdict, swapped in zip(judge.compare(prompts, a, b), judge.compare(prompts, b, a), strict=True):
        assert swapped.first == pytest.approx(1 - verdict.second, abs=1e-5)
        assert swapped.second == pytest.approx(1 - verdict.first, abs=1e-5)
    assert verdict.outcome == "tie"  # the last pair's responses are the same


def test_a_local_judge_that_would_say_something_else_is_invalid(manifests, short):
    """A tiny random model gives A and B some hundredths; asked for ninety it has answered nothing."""
    verdicts = LocalJudge(replace(short, min_label_mass=0.9), manifests["llama"], 1, 4).compare(*LOCAL_PAIRS)
    assert verdicts == [Verdict(None, None)] * 3
    verdicts = LocalJudge(replace(short, tie_margin=0.5), manifests["llama"], 1, 4).compare(*LOCAL_PAIRS)
    assert outcomes(verdicts) == ["tie"] * 3


def test_a_question_longer_than_the_model_reads_is_refused(manifests, short):
    judge = LocalJudge(short, manifests["gpt2"], 1, 4)
    with pytest.raises(InputError, match="reads 256 tokens, and 2 of 4 questions to the judge are longer"):
        judge.compare([LOCAL_PAIRS[0][0]] * 2, ["z" * 300, "x"], ["y", "y"])


def test_a_judge_must_be_able_to_spell_its_labels(manifests, short, tmp_path):
    folder = tmp_path / "silent"
    folder.mkdir()
    for file in manifests["llama"].parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"] = {{"B": "ß"}.get(token, token): i for token, i in words["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match="silent: cannot judge, its tokenizer has no token for B"):
        LocalJudge(short, folder / "manifest.json", 1, 4)
