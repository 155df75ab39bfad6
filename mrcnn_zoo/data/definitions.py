"""The fields of a dataset's definition, checked once."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrcnn_zoo.data.field_rules import FIELD_RULES
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean


def read_fields(
    name: str, definition: Mapping[str, Any], *, required: Sequence[str], optional: Mapping[str, Any]
) -> dict[str, Any]:
    """Every field of the definition by name, with the defaults of the optional ones filled in.

    Args:
        name: of the dataset, for messages.
        definition: the mapping under DATASETS.DEFINITIONS.
        required: fields that must be there, as strings; FORMAT need not be named.
        optional: further fields and their defaults; a value must be of the default's type.

    Raises:
        UserError: a field that is missing, unknown or of the wrong type.
    """
    known = ["FORMAT", *required, *optional]
    where = f"DATASETS.DEFINITIONS.{name}"
    for field in definition:
        if field not in known:
            raise UserError(
                f"{where} has no field {field!r}; its fields are {', '.join(known)}.{did_you_mean(field, known)}"
            )
    for field in required:
        if field not in definition:
            raise UserError(f"{where} needs the field {field}; it has only {', '.join(definition) or 'none'}.")
    values = {**optional, **definition}
    for field, default in (*((field, "") for field in required), *optional.items()):
        allowed = (int, float) if isinstance(default, float) else (type(default),)
        value = values[field]
        if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise UserError(f"{where}.{field} = {value!r} must be of type {allowed[-1].__name__}.")
        rule = FIELD_RULES.get(field)
        if rule is not None and not rule.accepts(value):
            raise UserError(f"{where}.{field} = {value!r} must be {rule.words}.")
        if field in required and isinstance(value, str) and not value.strip():
            raise UserError(f"{where}.{field} is empty; name a file or folder.")
    return values
