"""A drafter's server and the link to it, over real gRPC on loopback: bad messages, restarts, refusals, limits."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from fake_drafter import FakeDrafter, until

from paceline.actors import drafter_link, wire
from paceline.actors.channel import ANY_PORT, GrpcServer, PortRange, open_channel
from paceline.actors.drafter_link import GrpcLink
from paceline.actors.drafter_server import SERVICE, SESSION_METHOD, DrafterServer
from paceline.actors.errors import ConfigError, LinkDown, ProtocolError
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import Commit, DrafterBatch, DrafterReply, Failure, Open, Propose, Score
from paceline.actors.sampling import Sampling

TOKEN = "sésame"
MAX_BYTES = 64 * 1024


class Site:
    """Servers, links and raw streams that end with the test."""

    def __init__(self) -> None:
        self.scores: list[Score] = []
        self._ends: list[Callable[[], Any]] = []

    def serve(
        self, host: FakeDrafter, *, ports: PortRange = ANY_PORT, max_targets: int = 8
    ) -> tuple[DrafterServer, str]:
        server = DrafterServer(
            host,
            self.scores.extend,
            host="127.0.0.1",
            token=TOKEN,
            max_message_bytes=MAX_BYTES,
            max_targets=max_targets,
            ports=ports,
        )
        address = server.start()
        self._ends.insert(0, server.stop)
        return server, address

    def serve_stream(self, session: Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]) -> str:
        """A drafter that says whatever `session` yields."""
        server = GrpcServer("127.0.0.1", token=TOKEN, max_message_bytes=MAX_BYTES, workers=2)
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(session)
        handlers = grpc.method_handlers_generic_handler(SERVICE, {"Session": handler})
        server.add(lambda raw: raw.add_generic_rpc_handlers((handlers,)))
        self._ends.insert(0, server.stop)
        return server.start()

    def link(self, address: str, *, token: str | None = TOKEN) -> GrpcLink:
        link = GrpcLink("d", address, token=token, max_message_bytes=MAX_BYTES)
        self._ends.append(link.close)
        return link

    def up(self, address: str) -> GrpcLink:
        link = self.link(address)
        until(lambda: link.up)
        return link

    def raw(self, address: str, *, token: str | None = TOKEN) -> tuple[SimpleQueue[bytes | None], Any]:
        """A stream that sends any bytes."""
        channel = open_channel(address, token=token, max_message_bytes=4 * MAX_BYTES)
        outbox: SimpleQueue[bytes | None] = SimpleQueue()
        method: Any = channel.stream_stream(SESSION_METHOD)
        call = method(iter(outbox.get, None), timeout=10)
        self._ends += [call.cancel, lambda: outbox.put(None), channel.close]
        return outbox, call

    def end(self) -> None:
        for end in reversed(self._ends):
            end()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.end()


def opening(seq: int, *tokens: int) -> Open:
    return Open(seq, list(tokens), Sampling())


def ask(link: GrpcLink, batch: DrafterBatch) -> DrafterReply:
    link.send(batch)
    received = link.receive(5.0)
    assert received is not None
    return received.reply


def test_a_batch_is_handled_and_answered(site: Site) -> None:
    host = FakeDrafter()
    link = site.up(site.serve(host)[1])
    batch = DrafterBatch(3, [opening(1, 10, 11)], [Commit(1, 2, [12])], [Propose(1, 3, 2)])
    reply = ask(link, batch)
    assert (reply.round, reply.drafts[0].tokens, reply.drafts[0].start) == (3, [13, 14], 3)
    assert host.batches == [batch]
    until(lambda: [(s.seq, s.start, s.gammas.tolist()) for s in site.scores] == [(1, 2, [1.0])])


def test_a_repeat_is_harmless_and_a_gap_asks_for_resync(site: Site) -> None:
    host = FakeDrafter()
    link = site.up(site.serve(host)[1])
    first = ask(link, DrafterBatch(1, [opening(1, 10)], [Commit(1, 1, [11])], [Propose(1, 2, 1)]))
    again = ask(link, DrafterBatch(2, [], [Commit(1, 1, [11])], [Propose(1, 2, 1)]))
    assert first.drafts[0].tokens == again.drafts[0].tokens == [12]
    gap = ask(link, DrafterBatch(3, [], [Commit(1, 5, [15])], [Propose(1, 6, 1)]))
    assert {(r.seq, r.held) for r in gap.resyncs} == {(1, 2)}
    assert not gap.drafts


@pytest.mark.parametrize(
    ("data", "code", "round_number"),
    [
        (b"\xff\xff\xff not protobuf", "INVALID", 0),
        (wire.encode_batch(DrafterBatch(4, proposes=[Propose(1, 3, 0)])), "INVALID", 4),
        (wire.encode_batch(DrafterBatch(5)).replace(b"\x08\x01", b"\x08\x09", 1), "VERSION", 5),
    ],
    ids=["no message", "bad field", "other version"],
)
def test_a_bad_message_gets_a_failure_and_the_stream_goes_on(
    site: Site, data: bytes, code: str, round_number: int
) -> None:
    outbox, call = site.raw(site.serve(FakeDrafter())[1])
    outbox.put(data)
    reply = wire.decode_reply(next(call))
    assert (reply.round, [failure.code for failure in reply.failures]) == (round_number, [code])
    outbox.put(wire.encode_batch(DrafterBatch(6, [opening(1, 10)], [], [Propose(1, 1, 1)])))
    assert wire.decode_reply(next(call)).drafts[0].tokens == [11]


def test_a_host_that_raises_answers_internal_and_the_stream_goes_on(site: Site) -> None:
    host = FakeDrafter()
    host.fail = RuntimeError("out of luck")
    link = site.up(site.serve(host)[1])
    reply = ask(link, DrafterBatch(1, [opening(1, 10)], [], [Propose(1, 1, 1)]))
    assert reply.failures == [Failure("INTERNAL", "RuntimeError: out of luck", [1])]
    host.fail = None
    assert ask(link, DrafterBatch(2, proposes=[Propose(1, 1, 1)])).drafts[0].tokens == [11]


def test_a_reply_that_cannot_be_sent_becomes_a_failure(site: Site) -> None:
    host = FakeDrafter()
    host.spoil = lambda draft: type(draft)(draft.seq, draft.start, [-5])
    link = site.up(site.serve(host)[1])
    reply = ask(link, DrafterBatch(1, [opening(1, 10)], [], [Propose(1, 1, 1)]))
    assert [(failure.code, failure.seqs) for failure in reply.failures] == [("INTERNAL", [1])]


def test_sessions_end_with_the_stream_that_opened_them(site: Site) -> None:
    host = FakeDrafter()
    address = site.serve(host)[1]
    one, other = site.up(address), site.up(address)
    ask(one, DrafterBatch(1, [opening(1, 10), opening(2, 10), opening(3, 10)], [], [Propose(1, 1, 1)]))
    ask(other, DrafterBatch(1, [opening(2, 10), opening(4, 10)], [], [Propose(4, 1, 1)]))
    one.close()
    until(lambda: set(host.sessions) == {2, 4})  # 2 was opened anew on the stream that lives
    other.close()
    until(lambda: not host.sessions)


def test_targets_are_served_one_batch_at_a_time(site: Site) -> None:
    inside, most = [0], [0]

    class Host(FakeDrafter):
        def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            result = super().handle(batch)
            inside[0] -= 1
            return result

    host = Host()
    host.delay_s = 0.02
    address = site.serve(host)[1]
    links = [site.up(address) for _ in range(3)]
    for seq, link in enumerate(links):
        link.send(DrafterBatch(1, [opening(seq, 10)], [], [Propose(seq, 1, 1)]))
    assert all(link.receive(5.0) is not None for link in links)
    assert most == [1]


@pytest.mark.parametrize("token", [None, "", "Sésame", "sésame "])
def test_without_the_token_nobody_gets_in(site: Site, token: str | None, caplog: pytest.LogCaptureFixture) -> None:
    host = FakeDrafter()
    address = site.serve(host)[1]
    outbox, call = site.raw(address, token=token)
    outbox.put(wire.encode_batch(DrafterBatch(1, [opening(1, 10)])))
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    caplog.set_level("INFO")
    link = site.link(address, token=token)
    until(lambda: caplog.text.count("UNAUTHENTICATED (the shared token (network.token) is missing or wrong)") >= 2)
    assert not link.up
    assert not host.batches


def test_one_stream_more_than_allowed_is_refused(site: Site) -> None:
    address = site.serve(FakeDrafter(), max_targets=1)[1]
    site.up(address)
    _, call = site.raw(address)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_too_large_a_message_is_refused_before_it_is_sent(site: Site) -> None:
    link = site.up(site.serve(FakeDrafter())[1])
    with pytest.raises(ProtocolError, match=f"at most {MAX_BYTES} bytes"):
        link.send(DrafterBatch(1, [opening(1, *range(50_000))]))
    assert ask(link, DrafterBatch(2, [opening(1, 10)], [], [Propose(1, 1, 1)])).drafts
    assert (link.traffic.refused, link.traffic.connects) == (1, 1)


def test_a_server_ends_the_stream_of_a_peer_that_sends_too_much(site: Site) -> None:
    outbox, call = site.raw(site.serve(FakeDrafter())[1])
    outbox.put(b"x" * (2 * MAX_BYTES))
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_reply_that_breaks_the_contract_is_told_apart(site: Site) -> None:
    def session(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.send_initial_metadata(())
        for index, _ in enumerate(messages):
            yield b"\x08\x07" if index == 0 else wire.encode_reply(DrafterReply(2))

    link = site.up(site.serve_stream(session))
    link.send(DrafterBatch(1, closes=[1]))
    with pytest.raises(ProtocolError, match="version: expected 1, got 7"):
        link.receive(5.0)
    assert ask(link, DrafterBatch(2, closes=[1])).round == 2


def test_a_link_comes_back_after_a_restart_on_the_same_port(site: Site) -> None:
    server, address = site.serve(FakeDrafter())
    link = site.up(address)
    server.stop()
    until(lambda: not link.up)
    with pytest.raises(LinkDown, match="not connected"):
        link.send(DrafterBatch(1, closes=[1]))
    assert link.receive(5.0) is None  # at once: there is nothing to wait for
    site.serve(FakeDrafter(), ports=2 * (int(address.rpartition(":")[2]),))
    until(lambda: link.up)
    assert (link.generation, link.traffic.connects, link.traffic.breaks) == (2, 2, 1)
    assert ask(link, DrafterBatch(1, [opening(1, 10)], [], [Propose(1, 1, 1)])).drafts[0].tokens == [11]


def test_a_break_wakes_whoever_waits(site: Site) -> None:
    host = FakeDrafter()
    host.gate.clear()
    server, address = site.serve(host)
    link = site.up(address)
    link.send(DrafterBatch(1, [opening(1, 10)], [], [Propose(1, 1, 1)]))
    until(lambda: host.batches)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert link.receive(60.0) is None
    host.gate.set()
    stopping.join(10)


def test_the_outbox_is_bounded_where_nobody_reads(site: Site) -> None:
    """A server lets the stream in and never reads: flow control fills up, then the outbox, then sends fail."""
    done = threading.Event()

    def session(_messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.send_initial_metadata(())
        done.wait(30)
        yield from ()

    link = site.up(site.serve_stream(session))
    big = DrafterBatch(1, [opening(1, *range(20_000))])

    def send_many() -> None:
        for _ in range(10_000):
            link.send(big)

    with pytest.raises(LinkDown, match=f"{drafter_link.OUTBOX_MESSAGES} messages are waiting"):
        send_many()
    assert link.up
    done.set()


def test_a_flood_of_replies_waits_outside(site: Site) -> None:
    """Unasked replies stop being read once the inbox is full, and none is lost."""
    count = 4 * drafter_link.INBOX_MESSAGES

    def session(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.send_initial_metadata(())
        for round_number in range(1, count + 1):
            yield wire.encode_reply(DrafterReply(round_number))
        yield from (b"" for _ in messages)

    link = site.up(site.serve_stream(session))
    until(lambda: len(link._inbox) == drafter_link.INBOX_MESSAGES)
    rounds = [received.reply.round for _ in range(count) if (received := link.receive(5.0)) is not None]
    assert rounds == list(range(1, count + 1))


def test_a_peer_that_accepts_but_never_speaks_is_not_up(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = site.link(f"127.0.0.1:{silent.getsockname()[1]}")
        accepted, _ = silent.accept()
        with accepted:
            with pytest.raises(LinkDown):
                link.send(DrafterBatch(1, closes=[1]))
            assert not link.up
            link.close()


def test_a_closed_link_ends_its_thread(site: Site) -> None:
    link = site.up(site.serve(FakeDrafter())[1])
    link.close()
    until(lambda: not link._thread.is_alive())
    assert not link.up


def test_a_process_ends_although_its_link_is_up(site: Site) -> None:
    address = site.serve(FakeDrafter())[1]
    program = (
        "import time\n"
        "from paceline.actors.drafter_link import GrpcLink\n"
        f"link = GrpcLink('d', {address!r}, token={TOKEN!r}, max_message_bytes={MAX_BYTES})\n"
        "deadline_s = time.monotonic() + 10\n"
        "while not link.up and time.monotonic() < deadline_s: time.sleep(0.01)\n"
        "print('up' if link.up else 'down')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "up\n"


def test_a_port_in_use_and_a_senseless_address_are_named(site: Site) -> None:
    port = int(site.serve(FakeDrafter())[1].rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"cannot bind 127.0.0.1:{port}"):
        site.serve(FakeDrafter(), ports=(port, port))
    with pytest.raises(ConfigError, match="expected host:port, got 'nowhere'"):
        open_channel("nowhere", token=None, max_message_bytes=MAX_BYTES)


def test_the_local_link_does_the_same_without_a_server() -> None:
    host = FakeDrafter()
    scores: list[Score] = []
    link = LocalLink(host, scores.extend)
    link.send(DrafterBatch(0, [opening(1, 10)]))
    assert link.receive(5.0) is None  # nothing to say, so nothing to wait for
    link.send(DrafterBatch(1, [], [Commit(1, 1, [11])], [Propose(1, 2, 1)]))
    received = link.receive(0.0)
    assert received is not None
    assert received.reply.drafts[0].tokens == [12]
    assert [score.seq for score in scores] == [1]
    host.fail = RuntimeError("no")
    link.send(DrafterBatch(2, proposes=[Propose(1, 2, 1)]))
    failed = link.receive(0.0)
    assert failed is not None
    assert failed.reply.failures[0].code == "INTERNAL"
    link.close()
    with pytest.raises(LinkDown):
        link.send(DrafterBatch(3))
