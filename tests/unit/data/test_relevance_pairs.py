"""Pairs about relevance: a response to the prompt is preferred to one to another prompt, whatever their sentiment."""

import numpy as np

from prefloop.data.relevance_pairs import opening_sentence, packaged
from prefloop.feedback.lexicons import afinn, vader


def test_every_packaged_response_is_chosen_once_and_rejected_once():
    rows = list(packaged())
    assert len(rows) == 2 * 657
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in rows)
    assert sorted(row["chosen"] for row in rows) == sorted(row["rejected"] for row in rows)


def test_rejected_response_belongs_to_another_prompt():
    """Some responses to different prompts begin with the same words, such as `1.`."""
    rows = list(packaged())
    answers = {}
    for row in rows:
        answers.setdefault(row["prompt"], set()).add(row["chosen"])
    assert sum(row["rejected"] in answers[row["prompt"]] for row in rows) <= 3


def test_lexicons_cannot_tell_which_response_is_chosen():
    """Each response is on both sides once, so the mean difference is 0, and each side is higher about as often."""
    rows = list(packaged())
    for lexicon in (vader, afinn):
        chosen, rejected = (np.array(lexicon([], [row[side] for row in rows])) for side in ("chosen", "rejected"))
        assert abs((chosen - rejected).mean()) < 1e-12
        assert abs((chosen > rejected).mean() - (chosen < rejected).mean()) < 0.05


def test_opening_sentence_ends_at_a_stop_or_a_line():
    assert opening_sentence(" It rains! We stay.") == "It rains!"
    assert opening_sentence("Version 2.0 is out") == "Version 2.0 is out"
    assert opening_sentence("one\ntwo") == "one"
