"""What a setting declares in addition to its Python type; limits such as `Gt(0)` come from annotated_types.

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
    """What a number counts or is measured in."""

    name: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        return handler(core_schema) | {"unit": self.name}


@dataclass(frozen=True)
class OnlyIf:
    """A setting that counts only under certain values of another key; elsewhere no program receives it."""

    key: str
    """The other key of the section. Where a section has no such key, the setting always counts."""
    values: tuple[str, ...] = ()
    """Values under which the setting counts."""
    other_than: tuple[str, ...] = ()
    """Given instead of `values`: the setting counts under all others, so also under those added to a registry later."""

    def holds(self, section: dict) -> bool:
        """Whether the setting counts in a resolved section: of several weighted words, under any of them."""
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
    """A text that must be a key of a registry, which is read from source so that torch is not imported."""

    registry: str
    """Module and name below prefloop, such as methods.losses.LOSSES."""
    functions: bool = False
    """Whether a function of the user is accepted, too."""
    weights: bool = False
    """Whether a mapping from words to positive weights is accepted, too."""

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
        """A validator of a word, or of a mapping from words to weights."""

        @cache
        def of_mapping() -> Any:
            from pydantic_core import SchemaValidator, core_schema

            weight = core_schema.float_schema(gt=0, allow_inf_nan=False, strict=True)
            return SchemaValidator(core_schema.dict_schema(word_schema, weight, min_length=1))

        return lambda value, validate: (
            of_mapping().validate_python(value) if isinstance(value, dict) else validate(value)
        )

    def check(self, word: Any, validate: Any) -> Any:
        """Return a function's name as it is, and any other word if it is valid."""
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
    """A text of a certain form."""

    pattern: str
    """Regular expression of the whole text."""
    expected: str
    """The form in words, for error messages."""
    reserved: tuple[str, ...] = ()
    """Texts that are not allowed."""

    def check(self, text: Any) -> Any:
        """Return the text; ValueError if it has another form."""
        if not isinstance(text, str) or not re.fullmatch(self.pattern, text) or text in self.reserved:
            raise ValueError(self.expected)
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict:
        from pydantic_core import core_schema

        return dict(core_schema.no_info_plain_validator_function(self.check))

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        schema: dict = {"type": "string", "pattern": f"^(?:{self.pattern})$"}
        return schema | {"not": {"enum": list(self.reserved)}} if self.reserved else schema


@dataclass(frozen=True)
class Unique:
    """A list without repetitions."""

    def check(self, values: tuple) -> tuple:
        """Return the values; ValueError naming those that occur more than once."""
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            raise ValueError(f"{', '.join(map(str, repeated))} occurs more than once; name each once")
        return values

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict:
        from pydantic_core import core_schema

        return dict(core_schema.no_info_after_validator_function(self.check, handler(source)))

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        return handler(core_schema) | {"uniqueItems": True}
