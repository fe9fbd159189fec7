"""Rewards for models that write no English: they count letters."""


def vowels(prompts, responses):
    """The number of vowels in each response."""
    return [sum(letter in "aeiou" for letter in response) for response in responses]


def capitals(prompts, responses):
    """The number of capital letters in each response."""
    return [sum(letter.isupper() for letter in response) for response in responses]
