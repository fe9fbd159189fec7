"""Annotations that settings have in addition to their Python types. Limits such as `Gt(0)` come from annotated_types.

pydantic calls the `__get_pydantic_*__` methods when a config is validated or the JSON schema is written. Programs never
import pydantic.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from prefloop.core.own_functions import PATTERN, is_own
from prefloop.core.registry import chosen_words, registry_words


@dataclass(frozen=True)
class Unit:
    """The unit of a number."""

    name: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        return handler(core_schema) | {"unit": self.name}


@dataclass(frozen=True)
class OnlyIf:
    """A setting that is used only with certain values of another key. With other values, no program receives it."""

    key: str
    """The other key, in the same section. If the section does not have this key, the setting is always used."""
    values: tuple[str, ...] = ()
    """Values with which the setting is used."""
    other_than: tuple[str, ...] = ()
    """Alternative to `values`: the setting is used with all other values, including those added to a registry later."""

    def holds(self, section: dict) -> bool:
        """Whether the setting is used in a resolved section. If the key has several weighted words, one is enough."""
        value = section.get(self.key)
        if value is None:
            return True
        words = chosen_words(value)
        return any(word not in self.other_than if self.other_than else word in self.values for word in words)

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        condition = {"not": list(self.other_than)} if self.other_than else list(self.values)
        return handler(core_schema) | {"when": {self.key: condition}}


@dataclass(frozen=True)
class Choice:
    """A text that must be a key of a registry. The registry's source is parsed, so that torch is not imported."""

    registry: str
    """Module and variable within prefloop, such as methods.losses.LOSSES."""
    functions: bool = False
    """Whether a function of the user is also accepted."""
    weights: bool = False
    """Whether a mapping from words to positive weights is also accepted."""

    @property
    def words(self) -> list[str]:
        """The keys of the registry."""
        return registry_words(self.registry)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict:
        from pydantic_core import core_schema

        schema: Any = core_schema.literal_schema(self.words)
        if self.functions:
            schema = core_schema.no_info_wrap_validator_function(self.check, schema)
        if self.weights:
            schema = core_schema.no_info_wrap_validator_function(self.check_weights(schema), schema)
        return dict(schema)

    def check_weights(self, word_schema: Any) -> Callable[[Any, Any], Any]:
        """Return a validator that accepts a word or a mapping from words to weights."""

        @cache
        def of_mapping() -> Any:
            from pydantic_core import SchemaValidator, core_schema

            weight = core_schema.float_schema(gt=0, allow_inf_nan=False, strict=True)
            return SchemaValidator(core_schema.dict_schema(word_schema, weight, min_length=1))

        return lambda value, validate: (
            of_mapping().validate_python(value) if isinstance(value, dict) else validate(value)
        )

    def check(self, word: Any, validate: Any) -> Any:
        """Return the name of a user's function unchanged; validate any other word."""
        return word if is_own(word) else validate(word)

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        schema = handler(core_schema)
        function = {"type": "string", "format": "function", "pattern": f"^(?:{PATTERN})$"}
        word = {"anyOf": [schema, function]} if self.functions else schema
        if not self.weights:
            return word
        weight = {"type": "number", "exclusiveMinimum": 0}
        mapping = {"type": "object", "minProperties": 1, "propertyNames": word, "additionalProperties": weight}
        return {"anyOf": [*word.get("anyOf", [word]), mapping]}


@dataclass(frozen=True)
class Matches:
    """A text that must have a certain form."""

    pattern: str
    """Regular expression that the entire text must match."""
    expected: str
    """Description of the form, for error messages."""
    reserved: tuple[str, ...] = ()
    """Texts that are not allowed."""

    def check(self, text: Any) -> Any:
        """Return the text. Raise ValueError if it does not have the form."""
        if not isinstance(text, str) or not re.fullmatch(self.pattern, text) or text in self.reserved:
            raise ValueError(self.expected)
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict:
        from pydantic_core import core_schema

        return dict(core_schema.no_info_plain_validator_function(self.check))

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        schema: dict = {"type": "string", "pattern": f"^(?:{self.pattern})$"}
        return schema | {"not": {"enum": list(self.reserved)}} if self.reserved else schema


DAY = Matches(r"\d{4}-\d{2}-\d{2}", "a day as YYYY-MM-DD, such as 2025-01-31")


# Text that is a value on a command line: no flag, and not the end of flags. A negative number is a value.
NO_FLAG = Matches(r"(?s)-\d+|(?!--?\w|--$).+", "text that does not begin like a flag such as -x")


@dataclass(frozen=True)
class Unique:
    """A list without repetitions."""

    def check(self, values: tuple) -> tuple:
        """Return the values. Raise ValueError if a value occurs more than once."""
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            raise ValueError(f"{', '.join(map(str, repeated))} occurs more than once; name each once")
        return values

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict:
        from pydantic_core import core_schema

        return dict(core_schema.no_info_after_validator_function(self.check, handler(source)))

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        return handler(core_schema) | {"uniqueItems": True}
