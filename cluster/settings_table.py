"""The settings in `docs/configuration.md`, made from the models: `python -m paceline.cluster.settings_table FILE`.

They stand between two marks in the file, with `--check` it is only looked whether they are the newest; a test does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from paceline.actors.drafter_registry import option_shapes
from paceline.cluster.config import ClusterConfig
from paceline.cluster.marked_text import MarkedText

BEGIN = "<!-- settings: made by `python -m paceline.cluster.settings_table`; do not edit -->"
END = "<!-- end of settings -->"
_BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


def table() -> str:
    """Every section of a settings file, and the options of every drafter kind, in Markdown."""
    parts = [_section(name, model) for name, model in _sections(ClusterConfig)]
    return "\n\n".join(parts + [_options(kind, shape) for kind, shape in option_shapes().items()])


def _sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The models within a model, by the path under which a file has them."""
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            yield f"{path}{name}", inner
            yield from _sections(inner, f"{path}{name}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _section(path: str, model: type[BaseModel]) -> str:
    lines = [f"### `{path}`", "", (model.__doc__ or "").split("\n\n")[0].strip(), ""]
    lines += ["| setting | expected | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "(needed)" if field.is_required() else f"`{_shown(field)}`"
        lines.append(f"| `{name}` | {_expected(field)} | {default} | {field.description or ''} |")
    return "\n".join(lines)


def _shown(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return str(default.model_dump(exclude_defaults=True))
    if default is PydanticUndefined:
        return ""
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"  # as YAML has it
    return "not set" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _expected(field: FieldInfo) -> str:
    """The type in a word, and its bounds."""
    bounds = [
        text.format(getattr(rule, key))
        for rule in field.metadata
        for key, text in _BOUNDS.items()
        if hasattr(rule, key)
    ]
    return ", ".join([_word(field.annotation), *bounds])


def _word(annotation: Any) -> str:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if _model_in(annotation) is not None:
        return "see below"
    if parts and all(isinstance(part, str) for part in parts):
        return " or ".join(f"`{part}`" for part in parts)
    origin = getattr(annotation, "__origin__", None)
    if origin in (dict, tuple, list):
        return {dict: "mapping", tuple: "list", list: "list"}[origin]
    if parts:
        return _word(parts[0])
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), "text"
    )


def _options(kind: str, shape: type[Any]) -> str:
    lines = [f"### `options` of kind `{kind}`", "", (shape.__doc__ or "").strip().split("\n\n")[0], ""]
    lines += ["| option | expected | default |", "|---|---|---|"]
    for item in fields(shape):
        bounds = [
            text.format(item.metadata[key])
            for key, text in (("least", "at least {}"), ("most", "at most {}"))
            if item.metadata.get(key) is not None
        ]
        word = {"str": "text", "int": "whole number", "float": "number"}.get(str(item.type), str(item.type))
        default = "(needed)" if item.default in (MISSING, "") and item.name == "model" else f"`{item.default!r}`"
        lines.append(f"| `{item.name}` | {', '.join([word, *bounds])} | {default} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write it into a file, or check that it is there."""
    return MarkedText(BEGIN, END, lambda: f"\n{table()}\n").command(
        "The settings, made from the models that check them.", arguments
    )


if __name__ == "__main__":
    sys.exit(main())
