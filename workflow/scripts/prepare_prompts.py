"""Read prompts from their sources, drop long and repeated ones, and split them into training and evaluation.

Only ids, hashes and file offsets of rows, and n-grams of the eval prompts, are kept in memory.
"""

import itertools
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.prompt_settings import ChatConfig
from prefloop.core.files import write_json
from prefloop.core.jsonl import row_at, write_rows
from prefloop.core.progress import Summary
from prefloop.data.near_duplicates import EvalNGrams
from prefloop.data.prompt_filters import split_rows
from prefloop.data.prompt_sets import (
    Account,
    EvaluationFlags,
    NearDuplicates,
    TrainingFlags,
    check_room,
    choose_format,
    of_evaluation,
    read_prompt_set,
)
from prefloop.data.prompts import content_id
from prefloop.models.chat import load_tokenizer, write_format
from prefloop.models.manifests import is_trusted


def main(
    *,
    packaged: Path,
    model: Path,
    train: Path,
    eval_prompts: Annotated[Path, arg(name="eval")],
    provenance: Path,
    chat: Path,
    settings: Annotated[TrainingFlags, arg(name="")],
    evaluation: EvaluationFlags,
    policy: Annotated[ChatConfig, arg(name="")],
    max_new_tokens: int = 0,
) -> Summary:
    """Read, check, filter and split prompts.

    Args:
        packaged: The packaged prompts.
        model: Manifest of the policy's base model; its tokenizer counts prompt tokens.
        train: Output path for the training prompts.
        eval_prompts: Output path for the eval prompts.
        provenance: Output path for the numbers of kept and dropped rows per source.
        chat: Output path for the chat format; the date in an earlier file is kept.
        max_new_tokens: Maximum number of tokens sampled after a prompt; both must fit into the model's positions.
    """
    tokenizer = load_tokenizer(model.parent, is_trusted(model))
    chat_format = choose_format(policy, tokenizer, chat)
    written = {"chat": chat_format, "system_prompt": policy.system_prompt}
    train.parent.mkdir(parents=True, exist_ok=True)
    has_own_set = evaluation.source is not None or evaluation.sources is not None
    with TemporaryFile(dir=train.parent) as file, TemporaryFile(dir=train.parent) as eval_file:
        contents, eval_set, source_file = set(), None, eval_file if has_own_set else file
        if has_own_set:
            with of_evaluation():
                eval_set = read_prompt_set(evaluation, packaged, tokenizer, eval_file, **written)
                drawn = eval_set.draw(evaluation.take, evaluation.seed)
            contents = {content_id(row_at(eval_file, offset)["messages"]) for offset in drawn}
        prompts = read_prompt_set(settings, packaged, tokenizer, file, contents, **written)
        training = prompts.draw(settings.take, settings.seed)
        if not has_own_set:
            training, drawn = split_rows(training, settings.eval_fraction)
        ngrams = EvalNGrams(row_at(source_file, offset) for offset in drawn)
        near = NearDuplicates(ngrams, settings.drop_near_duplicates)
        rows = itertools.chain((row_at(file, i) for i in training), (row_at(source_file, i) for i in drawn))
        check_room(rows, max_new_tokens, [settings, evaluation], model, tokenizer, chat_format)
        kept = write_rows(train, near.pass_on(file, training))
        write_rows(eval_prompts, (row_at(source_file, offset) for offset in drawn))
    write_format(chat, chat_format, tokenizer)
    account = Account(prompts, eval_set, near, kept, len(drawn))
    write_json(provenance, account.record())
    return account.summary()


run(main)
