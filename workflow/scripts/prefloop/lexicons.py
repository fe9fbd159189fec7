"""Sentiment rewards from published lexicons: quick, without a model, the same on every machine.

The controlled-sentiment task of the DPO paper needs a ground-truth sentiment reward; these two are built
independently of each other, so one can train and the other evaluate.
"""

from collections.abc import Sequence


def vader(prompts: Sequence, responses: Sequence[str]) -> list[float]:
    """VADER's compound score in [−1, 1] of each response (Hutto & Gilbert 2014); the prompt is not read."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [analyzer.polarity_scores(response)["compound"] for response in responses]


def afinn(prompts: Sequence, responses: Sequence[str]) -> list[float]:
    """AFINN's sum of word valences, each −5 to 5, of each response (Nielsen 2011); it grows with length."""
    from afinn import Afinn

    lexicon = Afinn()
    return [lexicon.score(response) for response in responses]
