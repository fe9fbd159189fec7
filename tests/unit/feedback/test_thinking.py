"""Closed blocks of thoughts before a response are removed."""

import pytest

from prefloop.feedback.thinking import count_open_blocks, strip_thoughts


@pytest.mark.parametrize(
    ("response", "scored"),
    [
        ("<think>\nHm.\n</think>\n\nHello", "Hello"),
        ("\n<think></think>Hello", "Hello"),
        ("Hm. The opening tag is in the prompt.\n</think>\n\nHello", "Hello"),
        ("<think>Hm.</think>", ""),
        ("<think>Hm.", "<think>Hm."),
        ("Hello", "Hello"),
        ("Write <think>x</think> around thoughts.", "Write <think>x</think> around thoughts."),
        ("<think>one</think>Hello <think>two</think>", "Hello <think>two</think>"),
    ],
)
def test_closed_block_at_the_start_is_removed(response, scored):
    assert strip_thoughts([{"response": response, "n_tokens": 3}]) == [{"response": scored, "n_tokens": 3}]


def test_blocks_that_never_close_are_counted():
    responses = ["<think>a", "\n <think>", "<think>a</think>b", "b", "b <think>"]
    assert count_open_blocks([{"response": response} for response in responses]) == 2
