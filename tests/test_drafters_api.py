"""The drafters' endpoints and commands over real HTTP, before a control that remembers: who may, and what is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_backend import CONFIG, FakeBackend, make_api, make_tokenizer, rounds, served
from rich.console import Console

from paceline.actors.errors import ConfigError, Conflict, NotReady, RequestError, Unauthorized, UnknownDrafter
from paceline.actors.messages import DrafterStatistics
from paceline.cluster import cli, drafters_command
from paceline.cluster.client import Client
from paceline.cluster.config import HttpConfig
from paceline.cluster.drafter_control import DrafterView, ReplicaView
from paceline.cluster.drafters_api import OPERATOR_HEADER
from paceline.cluster.drafters_command import described

PATH = "/v1/paceline/drafters"
TOKEN = "a-secret-of-operators"
JSON = {"Content-Type": "application/json"}


def view(name: str, state: Any = "up", replicas: int = 1) -> DrafterView:
    made = [ReplicaView("10.0.0.1", "cpu", "up", 7 + n, f"10.0.0.1:{n}", 2, 64) for n in range(replicas)]
    figures = DrafterStatistics(name, 100, 0.5, 1.5, 0.25, 9, 30, 15, 2.0)
    return DrafterView(name, "ngram", "cpu", {"min_ngram": 1}, state, made, figures)


class Control(FakeBackend):
    """Keeps drafters in a list."""

    def __init__(self) -> None:
        super().__init__(lambda _: rounds([5, 6], [1]))
        self.there = {"ngram": view("ngram", replicas=2), "suffix": view("suffix")}
        self.waits: list[float] = []
        self.fault: Exception | None = None

    async def drafter_names(self) -> tuple[str, ...]:
        return tuple(self.there)

    async def drafters(self) -> list[DrafterView]:
        return list(self.there.values())

    async def add_drafter(self, document: dict[str, Any], wait_s: float) -> None:
        self.waits.append(wait_s)
        if self.fault is not None:
            raise self.fault
        if document["name"] in self.there:
            raise Conflict(f"name: there is a drafter {document['name']!r} already", "name")
        self.there[document["name"]] = view(document["name"], replicas=document.get("replicas", 1))

    async def drain_drafter(self, name: str) -> None:
        self._known(name)
        self.there[name] = view(name, "draining")

    async def remove_drafter(self, name: str) -> None:
        self._known(name)
        del self.there[name]

    def _known(self, name: str) -> None:
        if name not in self.there:
            raise UnknownDrafter(f"name: {name!r} is not one of the drafters", "name")


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def url(control: Control, tmp_path: Path) -> Iterator[str]:
    with served(make_api(control, make_tokenizer(tmp_path))) as url:
        yield url


@pytest.fixture
def guarded_url(control: Control, tmp_path: Path) -> Iterator[str]:
    config = CONFIG.model_copy(update={"http": HttpConfig(operator_token=TOKEN)})
    with served(make_api(control, make_tokenizer(tmp_path), config)) as url:
        yield url


def error(reply: httpx.Response) -> tuple[int, str | None, str | None]:
    document = reply.json()["error"]
    return reply.status_code, document["code"], document["param"]


def test_the_list_tells_everything(url: str) -> None:
    ngram, suffix = httpx.get(url + PATH).json()["data"]
    assert (ngram["name"], ngram["kind"], ngram["options"], ngram["state"]) == (
        "ngram",
        "ngram",
        {"min_ngram": 1},
        "up",
    )
    assert ngram["replicas"][1] == {
        "node": "10.0.0.1",
        "device": "cpu",
        "state": "up",
        "pid": 8,
        "address": "10.0.0.1:1",
        "sessions": 2,
        "capacity": 64,
        "detail": "",
    }
    assert suffix["statistics"]["weight"] == 0.25


def test_adding_draining_and_removing(url: str, control: Control) -> None:
    reply = httpx.post(url + PATH, json={"name": "new", "kind": "ngram", "replicas": 2})
    assert reply.status_code == 201
    assert (reply.json()["name"], len(reply.json()["replicas"])) == ("new", 2)
    assert error(httpx.post(url + PATH, json={"name": "new", "kind": "ngram"})) == (409, "conflict", "name")
    reply = httpx.post(f"{url}{PATH}/new/drain", headers=JSON)
    assert (reply.status_code, reply.json()["state"]) == (200, "draining")
    assert httpx.delete(f"{url}{PATH}/new").json() == {"object": "drafter.deleted", "name": "new", "deleted": True}
    assert error(httpx.delete(f"{url}{PATH}/new")) == (404, "drafter_not_found", "name")
    assert error(httpx.post(f"{url}{PATH}/new/drain", headers=JSON)) == (404, "drafter_not_found", "name")
    assert set(control.there) == {"ngram", "suffix"}


def test_a_request_may_name_a_drafter_that_came_and_not_one_that_left(url: str, control: Control) -> None:
    def status(drafter: str) -> int:
        fields = {"model": "tiny", "prompt": "a", "paceline": {"drafter": drafter}}
        return httpx.post(f"{url}/v1/completions", json=fields).status_code

    assert (status("new"), status("suffix")) == (400, 200)
    control.there["new"] = view("new")
    del control.there["suffix"]
    assert (status("new"), status("suffix")) == (200, 400)


@pytest.mark.parametrize(
    ("wait", "expected"),
    [("", 60.0), ("?wait_s=2.5", 2.5), ("?wait_s=0", None), ("?wait_s=x", None), ("?wait_s=601", None)],
)
def test_the_wait_is_the_callers_within_bounds(url: str, control: Control, wait: str, expected: float | None) -> None:
    reply = httpx.post(url + PATH + wait, json={"name": "new", "kind": "ngram"})
    if expected is None:
        assert error(reply) == (400, None, "wait_s")
        assert not control.waits
    else:
        assert control.waits == [expected]


@pytest.mark.parametrize(
    ("fault", "status"),
    [(RequestError("options.x: no", "options.x"), 400), (NotReady("has not registered within 60 s"), 503)],
)
def test_failures_keep_their_words(url: str, control: Control, fault: Exception, status: int) -> None:
    control.fault = fault
    reply = httpx.post(url + PATH, json={"name": "new", "kind": "ngram"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (status, str(fault))


@pytest.mark.parametrize("body", ["", "[]", "{", '{"name": 1, "name": 2}'])
def test_bodies_that_are_no_object_are_refused(url: str, control: Control, body: str) -> None:
    assert httpx.post(url + PATH, content=body, headers=JSON).status_code == 400
    assert not control.waits


CHANGES = [("POST", PATH), ("POST", f"{PATH}/ngram/drain"), ("DELETE", f"{PATH}/ngram")]


def change(url: str, method: str, path: str, **headers: str) -> httpx.Response:
    content = b'{"name": "new", "kind": "ngram"}' if path == PATH else b""
    return httpx.request(method, url + path, content=content, headers={**JSON, **headers})


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_changes_need_the_token_where_one_is_set(guarded_url: str, control: Control, method: str, path: str) -> None:
    before = dict(control.there)
    for headers in (
        {},
        {OPERATOR_HEADER: "wrong"},
        {OPERATOR_HEADER: TOKEN + "x"},
        {"Authorization": f"Bearer {TOKEN}"},
    ):
        reply = change(guarded_url, method, path, **headers)
        assert error(reply)[0] == 401, headers
        assert TOKEN not in reply.text
    assert control.there == before
    assert httpx.get(guarded_url + PATH).status_code == 200, "looking is free"
    # Whoever has it may come from anywhere.
    headers = {OPERATOR_HEADER: TOKEN, "Host": "far.example", "X-Forwarded-For": "203.0.113.9"}
    assert change(guarded_url, method, path, **headers).status_code in (200, 201)


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "far.example"},
        {"Host": "10.1.2.3:8000"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=1.2.3.4"},
    ],
    ids=["rebound name", "own address", "relayed", "relayed as the standard has it"],
)
def test_without_a_token_only_the_machine_itself_may(
    url: str, control: Control, method: str, path: str, headers: dict[str, str]
) -> None:
    before = dict(control.there)
    assert error(change(url, method, path, **headers)) == (403, "forbidden", None)
    assert control.there == before


async def test_without_a_token_a_caller_from_elsewhere_is_refused(control: Control, tmp_path: Path) -> None:
    api = make_api(control, make_tokenizer(tmp_path))
    for caller, expected in (("203.0.113.9", 403), ("::1", 200), ("127.0.0.1", 200)):
        transport = httpx.ASGITransport(api, client=(caller, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            reply = await client.post(f"{PATH}/ngram/drain", headers=JSON)
        assert reply.status_code == expected, caller


def test_a_page_in_a_browser_cannot_drain(url: str, control: Control) -> None:
    """What a page may send to any address without asking: a POST with no body, or with plain text."""
    for headers in ({}, {"Content-Type": "text/plain"}):
        assert httpx.post(f"{url}{PATH}/ngram/drain", headers=headers).status_code == 415
    assert control.there["ngram"].state == "up"


# ---------------------------------------------------------------- the commands


def test_the_commands_do_it(url: str, control: Control, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["drafters", "list", "--url", url]) == 0
    out = capsys.readouterr().out
    assert "ngram/1" in out
    assert "2/64" in out
    (tmp_path / "new.yaml").write_text("name: new\nkind: ngram\nreplicas: 2\n")
    assert cli.main(["drafters", "add", str(tmp_path / "new.yaml"), "--timeout", "9", "--url", url]) == 0
    assert control.waits == [9.0]
    assert "new/1" in capsys.readouterr().out
    assert cli.main(["drafters", "drain", "new", "--url", url]) == 0
    assert "new takes no new sequences; it holds 2." in capsys.readouterr().out
    assert cli.main(["drafters", "remove", "new", "--url", url]) == 0
    assert "new" not in control.there
    for words in (["remove", "new"], ["drain", "no body"], ["add", "name=ngram", "kind=ngram"]):
        assert cli.main(["drafters", *words, "--url", url]) == 2
        assert capsys.readouterr().err.startswith("paceline: error: name: ")


def test_the_commands_show_the_token(
    guarded_url: str, control: Control, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PACELINE_OPERATOR_TOKEN", raising=False)
    assert cli.main(["drafters", "remove", "suffix", "--url", guarded_url]) == 2
    assert "is needed; expected http.operator_token" in capsys.readouterr().err
    assert cli.main(["drafters", "drain", "suffix", "--url", guarded_url, "--token", TOKEN]) == 0
    monkeypatch.setenv("PACELINE_OPERATOR_TOKEN", TOKEN)
    assert cli.main(["drafters", "remove", "suffix", "--url", guarded_url]) == 0
    assert set(control.there) == {"ngram"}


def test_the_client_tells_a_wrong_token_from_a_wrong_request(guarded_url: str) -> None:
    with Client(guarded_url, operator_token="nonsense") as client, pytest.raises(RequestError, match="is wrong"):
        client.remove_drafter("ngram")
    assert Unauthorized.http_status == 401


def test_a_drafter_in_fields_and_in_a_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math").mkdir()
    monkeypatch.chdir(tmp_path)
    by_fields = described(
        ["name=math", "kind=head", "options.model=math", "resources.custom.drafter=5e-1", "replicas=2"]
    )
    assert by_fields["options"] == {"model": str(tmp_path / "math")}
    assert by_fields["resources"]["custom"] == {"drafter": 0.5}
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "math.yaml").write_text(
        "name: math\nkind: head\nreplicas: 2\noptions: {model: ../math}\nresources: {custom: {drafter: 0.5}}\n"
    )
    monkeypatch.chdir("/")
    assert described([str(tmp_path / "deploy" / "math.yaml")]) == by_fields


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["name=a", "ngram"], "expected a field, as in `kind=ngram`"),
        (["name=a", "=x"], "expected a field"),
        (["name=a", "name=b"], "name: is given twice"),
        (["options=1", "options.min_ngram=2"], "was given a value of its own"),
        (["name=a", "kind=["], "not a value that YAML has"),
        (["name=a", "kind=ngram", "replicas=0"], "replicas"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_wrong_words_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        described(words)
    assert message in str(refused.value)


def test_what_is_wrong_with_a_replica_is_said_and_no_drafters_are_a_sentence(control: Control, url: str) -> None:
    console = Console(record=True, width=80)
    waiting = ReplicaView(
        "", "cuda", "starting", 0, "", 0, 64, "drafter math needs num_gpus 0.25; free: num_gpus 0 of 0"
    )
    control.there = {"math": DrafterView("math", "head", "cuda", {}, "starting", [waiting])}
    drafters_command.list_drafters(url, console)
    assert "math: drafter math needs num_gpus 0.25; free: num_gpus 0 of 0" in console.export_text()
    control.there.clear()
    drafters_command.list_drafters(url, console)
    assert "decodes plainly" in console.export_text()
