"""Reward functions that count letters, for random models whose output is not English."""


def vowels(prompts, responses):
    """Return the number of vowels in each response."""
    return [sum(letter in "aeiou" for letter in response) for response in responses]


def capitals(prompts, responses):
    """Return the number of capital letters in each response."""
    return [sum(letter.isupper() for letter in response) for response in responses]
