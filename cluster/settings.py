"""What all settings have in common: frozen, unknown fields refused, and no switch that passes for a number."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Base of all settings. `config` puts them together."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_not_switches(cls, given: Any) -> Any:
        """`yes` and `true` would pass for 1."""
        for name, field in cls.model_fields.items() if isinstance(given, dict) else ():
            if isinstance(given.get(name), bool) and field.annotation is not bool:
                raise ValueError(f"{name}: got {given[name]}; expected {field.annotation}")
        return given
