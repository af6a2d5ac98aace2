# The configuration is checked here, once, before any rule is read. Whatever is wrong ends the
# workflow with one line that names the key, the value and what is allowed.
import difflib
import json
import re
import sys

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import best_match


def refuse(key_path, problem):
    """End the workflow with one line; a WorkflowError would bring a traceback along."""
    sys.exit(f"configuration: {'.'.join(map(str, key_path)) or 'top level'}: {problem}")


MOST_VALUES = 100_000


def refuse_repeated_keys(path):
    """YAML keeps the last of two equal keys in silence; what the first one said would be lost.

    Aliases can make a few lines stand for more values than there is memory for: these are counted.
    """
    count = 0

    def walk(node, key_path):
        nonlocal count
        count += 1
        if count > MOST_VALUES:
            refuse([], f"{path} holds more than {MOST_VALUES} values, its aliases written out")
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                walk(item, [*key_path, index])
        elif isinstance(node, yaml.MappingNode):
            seen = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.value in seen:
                    refuse(
                        [*key_path, key.value],
                        f"stands twice in {path}, lines {seen[key.value]} and {line}; keep one",
                    )
                seen[key.value] = line
                walk(value, [*key_path, key.value])

    with open(path, encoding="utf-8") as file:
        walk(yaml.compose(file, Loader=yaml.SafeLoader), [])


def numbers_from_text(value, schema):
    """Turn text into a number wherever the schema wants one and the text is one.

    YAML reads 1e-3 as text, and `--config` reads every nested value as text.
    """
    if isinstance(value, dict):
        known = schema.get("properties", {})
        other = schema.get("additionalProperties") or {}
        return {key: numbers_from_text(item, known.get(key, other)) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers_from_text(item, schema.get("items", {})) for item in value]
    if isinstance(value, str):
        if schema.get("type") == "integer" and re.fullmatch(r"-?\d{1,400}", value):
            return int(value)
        if schema.get("type") == "number" and re.fullmatch(
            r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value
        ):
            return float(value)
    return value


def refuse_unless_valid(value, schema):
    """Check against the schema; its descriptions say what is allowed."""
    # JSON Schema counts 2.0 as an integer, and not-a-number as within every range.
    strict = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ).redefine(
        "number",
        lambda _, value: isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max,  # also of an integer, which may be of any size
    )
    error = best_match(
        validators.extend(Draft202012Validator, type_checker=strict)(schema).iter_errors(value)
    )
    if error is None:
        return
    key_path = list(error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema["properties"])
        key = next(key for key in error.instance if key not in allowed)
        close = difflib.get_close_matches(str(key), allowed, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        refuse([*key_path, key], f"unknown key{hint}; expected one of {', '.join(allowed)}")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        wanted = error.schema["properties"][missing]["description"]
        refuse([*key_path, missing], f"is missing; expected {wanted}")
    if error.validator == "uniqueItems":
        refuse(key_path, f"{json.dumps(error.instance)} names an item twice; keep one")
    shown = error.instance if isinstance(error.instance, str) else json.dumps(error.instance)
    refuse(key_path, f"{shown!r:.200} is not allowed; expected {error.schema.get('description')}")


for _path in dict.fromkeys([*workflow.configfiles, *workflow.overwrite_configfiles]):
    refuse_repeated_keys(_path)

with open(f"{workflow.basedir}/workflow/schemas/config.schema.yaml", encoding="utf-8") as _file:
    _schema = yaml.safe_load(_file)
config = numbers_from_text(config, _schema)
refuse_unless_valid(config, _schema)
