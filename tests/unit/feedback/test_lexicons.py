"""Lexicons rank praise above blame."""

from prefloop.feedback.lexicons import afinn, vader

PROMPT = [{"role": "user", "content": "why?"}]


def test_lexicons_rank_praise_above_blame():
    praise, blame, neither = "What a wonderful, happy day!", "This is terrible and sad.", "The table has four legs."
    for lexicon in (vader, afinn):
        scores = lexicon([PROMPT] * 3, [praise, neither, blame])
        assert scores[0] > scores[1] > scores[2]
    assert vader([PROMPT], [neither]) == [0.0]
    assert afinn([PROMPT], ["good bad awesome"]) == [3 - 3 + 4]
