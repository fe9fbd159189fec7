"""Sentiment rewards from published lexicons: fast, without a model, and equal on every machine.

The controlled-sentiment task of the DPO paper needs a ground-truth reward. These two lexicons were built
independently, so one can train and the other evaluate.
"""

from collections.abc import Sequence


def vader(prompts: Sequence, responses: Sequence[str]) -> list[float]:
    """VADER's compound score in [−1, 1] of each response (Hutto and Gilbert 2014); the prompt is ignored."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [analyzer.polarity_scores(response)["compound"] for response in responses]


def afinn(prompts: Sequence, responses: Sequence[str]) -> list[float]:
    """AFINN's sum of word valences, −5 to 5 per word, of each response (Nielsen 2011); it grows with length."""
    from afinn import Afinn

    lexicon = Afinn()
    return [lexicon.score(response) for response in responses]
