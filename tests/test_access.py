"""API keys: who is let in, who is told why not, and where a key may never be seen."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_backend import MODEL, FakeBackend, make_api, make_tokenizer, rounds, served

from paceline.actors.errors import ConfigError, RequestError, Unauthorized
from paceline.cluster.access import check_exposure, with_environment_keys
from paceline.cluster.client import Client
from paceline.cluster.config import parse_config
from paceline.cluster.serve_command import serve
from paceline.cluster.tokenizer import ChatTokenizer

KEYS = ("first-key-1234", "second-key-5678")
CONFIG = parse_config({"http": {"api_keys": list(KEYS), "max_body_bytes": 4096}})
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def backend(tokenizer: ChatTokenizer) -> FakeBackend:
    return FakeBackend(lambda _: rounds(tokenizer.encode("hello there"), [2], "length"))


@pytest.fixture(scope="module")
def url(backend: FakeBackend, tokenizer: ChatTokenizer) -> Iterator[str]:
    with served(make_api(backend, tokenizer, CONFIG)) as url:
        yield url


@pytest.mark.parametrize("key", KEYS)
def test_each_key_lets_the_official_client_in(url: str, key: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        assert client.chat.completions.create(**CHAT).choices[0].message.content == "hello there"
        assert client.models.list().data[0].id == MODEL


def test_the_official_client_recognises_the_refusal(url: str, backend: FakeBackend) -> None:
    before = len(backend.asked)
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong-key-0000", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.chat.completions.create(**CHAT)
    assert refused.value.code == "invalid_api_key"
    assert len(backend.asked) == before


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "bearer", "Basic first-key-1234", "first-key-1234", "Bearer first-key-123",
     "Bearer first-key-12345", "Bearer first-key-1234,second-key-5678", "Bearer FIRST-KEY-1234", "Bearer \xe9"],
)  # fmt: skip
def test_anything_else_gets_401_in_openais_shape(url: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/paceline/status"),
                         ("POST", "/tokenize"), ("GET", "/v1/nothing"), ("GET", "/healthy")):  # fmt: skip
        reply = httpx.request(method, url + path, headers=headers)
        assert reply.status_code == 401, path
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        error = reply.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["type"], error["param"], error["code"]) == ("authentication_error", None, "invalid_api_key")
        assert not any(key in reply.text for key in (*KEYS, "first-key"))


def test_the_scheme_is_read_in_any_case(url: str) -> None:
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"bearer {KEYS[1]}"}).status_code == 200


def test_probes_need_no_key(url: str) -> None:
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/ready").status_code == 200


def test_the_dashboards_files_need_no_key_but_what_it_shows_does(url: str) -> None:
    assert httpx.get(f"{url}/dashboard").status_code == 200
    assert httpx.get(f"{url}/dashboard/api.js").status_code == 200
    assert httpx.get(f"{url}/dashboards").status_code == 401
    assert httpx.get(f"{url}/v1/paceline/live").status_code == 401


def test_without_keys_nobody_is_asked_for_one(backend: FakeBackend, tokenizer: ChatTokenizer) -> None:
    with served(make_api(backend, tokenizer)) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 200


def test_no_key_is_logged_nor_shown(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    httpx.post(f"{url}/v1/chat/completions", headers={"Authorization": f"Bearer {KEYS[0]}"}, json=CHAT)
    httpx.post(f"{url}/v1/chat/completions", headers={"Authorization": "Bearer wrong-key-0000"}, json=CHAT)
    status = httpx.get(f"{url}/v1/paceline/status", headers={"Authorization": f"Bearer {KEYS[0]}"}).text
    shown = status + caplog.text + repr(CONFIG) + str(CONFIG.model_dump()) + CONFIG.model_dump_json()
    assert not any(key in shown for key in (*KEYS, "wrong-key-0000"))


def test_our_own_client_sends_a_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(url, api_key=KEYS[1]) as client:
        assert client.models() == [MODEL]
    with Client(url) as client:
        assert client.is_ready()
        with pytest.raises(Unauthorized, match="PACELINE_API_KEYS"):
            client.models()
    monkeypatch.setenv("PACELINE_API_KEYS", f" {KEYS[0]} ,other-key-9999")
    with Client(url) as client:
        assert client.models() == [MODEL]
    monkeypatch.setenv("PACELINE_API_KEYS", "schl\u00fcssel-1234")
    with pytest.raises(RequestError, match="ASCII"):
        Client(url)


@pytest.mark.parametrize(
    "key", ["short", "x" * 257, "with space 1", "comma,comma", "umlaut-\u00e4\u00f6\u00fc", 12345678]
)
def test_what_cannot_be_a_key_is_refused_without_being_shown(key: Any) -> None:
    with pytest.raises(ConfigError, match=r"http\.api_keys\.1") as refused:
        parse_config({"http": {"api_keys": [KEYS[0], key]}})
    assert str(key) not in str(refused.value)
    assert KEYS[0] not in str(refused.value)


def test_keys_of_the_environment_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_API_KEYS", f"{KEYS[1]},,{KEYS[0]}")
    merged = with_environment_keys(parse_config({"http": {"api_keys": [KEYS[0]]}}))
    assert [key.get_secret_value() for key in merged.http.api_keys] == list(KEYS)
    with pytest.raises(ConfigError, match="allow_anonymous"):
        with_environment_keys(parse_config({"http": {"allow_anonymous": True}}))
    monkeypatch.setenv("PACELINE_API_KEYS", "tiny")
    with pytest.raises(ConfigError, match="PACELINE_API_KEYS") as refused:
        with_environment_keys(parse_config({}))
    assert "tiny" not in str(refused.value)
    monkeypatch.delenv("PACELINE_API_KEYS")
    assert with_environment_keys(CONFIG) is CONFIG


def test_keys_and_openness_contradict_one_another() -> None:
    with pytest.raises(ConfigError, match="allow_anonymous"):
        parse_config({"http": {"api_keys": [KEYS[0]], "allow_anonymous": True}})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("", False), ("192.168.1.4", False), ("example.org", False)],
)  # fmt: skip
def test_beyond_loopback_keys_are_needed_or_openness_is_meant(host: str, loopback: bool) -> None:
    for settings, guarded in (({}, loopback), ({"api_keys": [KEYS[0]]}, True), ({"allow_anonymous": True}, True)):
        http = parse_config({"http": settings}).http
        if guarded:
            check_exposure(http, host)
            continue
        with pytest.raises(ConfigError, match=r"http\.api_keys") as refused:
            check_exposure(http, host)
        for remedy in ("PACELINE_API_KEYS", "127.0.0.1", "allow_anonymous"):
            assert remedy in str(refused.value)


def test_serve_refuses_to_stand_open_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACELINE_API_KEYS", raising=False)
    with pytest.raises(ConfigError, match="allow_anonymous"):
        serve(parse_config({"http": {"host": "0.0.0.0"}}))


def test_the_application_takes_the_environments_keys() -> None:
    """In a process of its own: importing Serve warns of what is deprecated."""
    code = "from paceline.cluster.app import build_app\nheld = build_app({})._bound_deployment.init_args[0]['http']\n"
    code += "print([key.get_secret_value() for key in held['api_keys']])"
    environment = os.environ | {"PACELINE_API_KEYS": KEYS[1]}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str([KEYS[1]])
