"""What a setting declares in addition to its Python type; limits such as `Gt(0)` come from annotated_types.

pydantic calls the `__get_pydantic_*__` methods when a config is validated or the JSON schema is written. Programs never
import pydantic.
"""

import re
from dataclasses import dataclass
from typing import Any

from prefloop.core.own_functions import PATTERN, is_own
from prefloop.core.registry import registry_words


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
        """Whether the setting counts in a resolved section."""
        value = section.get(self.key)
        return value is None or (value not in self.other_than if self.other_than else value in self.values)

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

    @property
    def words(self) -> list[str]:
        """The keys of the registry."""
        return registry_words(self.registry)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict:
        from pydantic_core import core_schema

        schema = core_schema.literal_schema(self.words)
        return dict(core_schema.no_info_wrap_validator_function(self.check, schema) if self.functions else schema)

    def check(self, word: Any, validate: Any) -> Any:
        """Return a function's name as it is, and any other word if it is valid."""
        return word if is_own(word) else validate(word)

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict:
        schema = handler(core_schema)
        function = {"type": "string", "format": "function", "pattern": f"^(?:{PATTERN})$"}
        return {"anyOf": [schema, function]} if self.functions else schema


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
