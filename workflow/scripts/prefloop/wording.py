"""What is wrong with a config, in words: the key, what was found, what was expected."""

import difflib
from collections import Counter

KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of keys",
    "null": "null",
}


def explain(error) -> str:
    """A jsonschema error as one line, or one for every unknown key; `expected` in the schema says what is wanted."""
    where, found = ".".join(map(str, error.absolute_path)), error.instance
    schema = error.schema if isinstance(error.schema, dict) else {}
    if error.validator == "additionalProperties" and isinstance(found, dict):
        known = list(schema.get("properties", {}))
        lines = []
        for key in [key for key in found if key not in known]:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            lines.append(f"{f'{where}.{key}' if where else key}: unknown key; {hint}")
        return "\nconfig: ".join(lines)
    if error.validator == "enum":
        close = difflib.get_close_matches(str(found), map(str, error.validator_value), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: {shown(found)} is none of {', '.join(map(str, error.validator_value))}{hint}"
    if error.validator == "pattern" and where.endswith("api_key_env"):  # what was found may be the key
        return f"{where}: not the name of an environment variable; a key itself must not stand in config"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in found]
        about = schema.get("properties", {}).get(missing[0], {}).get("description")
        return f"{f'{where}.' if where else ''}{missing[0]}: missing" + (f" ({about})" if about else "")
    description = f" ({schema['description']})" if "description" in schema else ""
    if error.validator in ("type", "anyOf"):
        return f"{where}: {of_wrong_kind(found, schema)}{description}"
    if error.validator == "uniqueItems":
        twice = [item for item, count in Counter(map(shown, found)).items() if count > 1]
        return f"{where}: {', '.join(twice)} stands there more than once; name each once{description}"
    if "expected" in schema:
        return f"{where}: {shown(found)}, expected {schema['expected']}"
    return f"{where}: {error.message}{description}"


def of_wrong_kind(found, schema: dict) -> str:
    """That a value is of another kind than its schema's, and what to write instead where that can be told."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    expected = schema.get("expected") or " or ".join(KINDS[kind] for kind in kinds)
    if found is None:
        return f"nothing (null), expected {expected}; leave the key out for its default"
    if isinstance(found, str) and {"number", "integer"} & set(kinds) and is_number(found):
        return f"{found!r} is text, not a number; YAML reads 5e-7 as text: write 5.0e-7"
    if "array" in kinds and not isinstance(found, dict):
        return f"{shown(found)}, expected {expected}: write [{shown(found)}]"
    return f"{shown(found)}, expected {expected}"


def shown(value) -> str:
    """A value as YAML writes it, cut short."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
