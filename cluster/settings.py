"""What all settings have in common: frozen, unknown fields refused, and no value that passes for another type's."""

from __future__ import annotations

from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", type(None): "nothing"}


class Settings(BaseModel):
    """Base of all settings. `config` puts them together."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_passes_for_another(cls, given: Any) -> Any:
        """`yes` would pass for 1, "2" for 2, 1.0 for 1, and 1 for `yes`."""
        for name, field in cls.model_fields.items() if isinstance(given, dict) else ():
            plain = get_origin(field.annotation) in (None, Union, UnionType)
            kinds = set(get_args(field.annotation)) or {field.annotation}
            if name not in given or not plain or not kinds <= _WORDS.keys():
                if isinstance(given.get(name), bool):
                    raise ValueError(f"{name}: got {given[name]}; expected no switch")
                continue
            allowed = kinds | ({int} if float in kinds else set())
            if type(given[name]) not in allowed:
                expected = " or ".join(_WORDS[kind] for kind in _WORDS if kind in kinds)
                raise ValueError(f"{name}: got {given[name]!r:.80}; expected {expected}")
        return given
