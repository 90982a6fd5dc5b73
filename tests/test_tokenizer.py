"""The served model's tokenizer: chats as ids, refusals by name, and long texts off the event loop."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fake_backend import EOS, make_tokenizer

from paceline.actors.errors import ModelSourceError, RequestError
from paceline.cluster.tokenizer import ChatTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


def test_a_chat_is_its_template_as_ids_and_control_words_in_it_are_control_tokens(tokenizer: ChatTokenizer) -> None:
    """Template first, then ids, as is the norm: a user who types a special token sends one."""
    ids = tokenizer.apply_chat([{"role": "user", "content": f"a{EOS}b"}])
    assert ids == tokenizer.encode(f"[user]a{EOS}b{EOS}[assistant]")
    assert ids.count(tokenizer.encode(EOS)[0]) == 2
    assert tokenizer.decode(ids) == "[user]ab[assistant]"


def test_a_template_that_refuses_and_none_at_all(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    with pytest.raises(RequestError, match="not this") as refused:
        tokenizer.apply_chat([{"role": "user", "content": "REFUSE"}])
    assert refused.value.param == "messages"
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(RequestError, match="no chat template") as refused:
        ChatTokenizer(tmp_path).apply_chat([{"role": "user", "content": "hello"}])
    assert refused.value.param == "messages"


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="tokenizer"):
        ChatTokenizer(tmp_path)


@pytest.mark.parametrize(
    ("turns", "content", "elsewhere"), [(1, "the fox " * 20_000, True), (5_000, "", True), (2, "the fox", False)]
)
async def test_a_long_conversation_is_read_on_another_thread(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, turns: int, content: str, elsewhere: bool
) -> None:
    read_on = []

    def read(_: object, *, add_generation_prompt: bool) -> list[int]:
        read_on.append(threading.current_thread())
        return [1]

    monkeypatch.setattr(tokenizer, "apply_chat", read)
    assert await tokenizer.apply_chat_async([{"role": "user", "content": content}] * turns) == [1]
    assert (read_on[0] is not threading.current_thread()) == elsewhere
