"""Sentiment rewards from published lexicons. They are fast, need no model, and are the same on every machine.

The controlled-sentiment task of the DPO paper needs a ground-truth reward. The two lexicons were built independently,
so one can be used for training and the other for evaluation.
"""

from collections.abc import Sequence


def vader(prompts: Sequence, responses: Sequence[str]) -> list[float]:
    """VADER's compound score in [−1, 1] of each response (Hutto and Gilbert 2014). Prompts are ignored."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [analyzer.polarity_scores(response)["compound"] for response in responses]


def afinn(prompts: Sequence, responses: Sequence[str]) -> list[float]:
    """AFINN's sum of word valences, −5 to 5 per word, of each response (Nielsen 2011). It grows with length."""
    from afinn import Afinn

    lexicon = Afinn()
    return [lexicon.score(response) for response in responses]
