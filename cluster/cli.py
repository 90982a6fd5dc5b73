"""The command line: arguments in, exit status out.

Each command lives in a file of its own and is imported when it is called, so that `--help` and `--version` answer at
once. Exit status: 0 done, 1 a check failed or the cluster is not ready, 2 an error that one line on stderr names.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from importlib import metadata
from pathlib import Path

from paceline.actors.errors import PacelineError

_URL = "http://127.0.0.1:8000"  # `client.DEFAULT_URL`, without its imports


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; default `sys.argv[1:]`.
    """
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except PacelineError as error:
        print(f"paceline: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has what it wanted
        sys.stdout = None
        return 141
    return status


def parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    parser = argparse.ArgumentParser(prog="paceline", description="One large target model, many small drafters.")
    parser.add_argument("--version", action="version", version=f"paceline {metadata.version('paceline')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_chat(commands)

    pull = commands.add_parser("pull", help="fetch a model now")
    pull.add_argument(
        "source", nargs="?", default="embedded", help="`embedded`, a folder, or a hub id; default: embedded"
    )
    pull.set_defaults(run=_pull)

    status = commands.add_parser("status", help="the actors of a running cluster, and the drafters' statistics")
    _add_url(status)
    status.set_defaults(run=_status)

    _add_drafters(commands)

    trace = commands.add_parser("trace", help="what every process does in the next seconds, as one time line")
    _add_url(trace)
    trace.add_argument("--seconds", type=_seconds, default=5.0, metavar="S", help="how long, at most 30; default: 5")
    trace.add_argument(
        "--output",
        type=Path,
        default=Path("trace.json"),
        metavar="FILE",
        help="for ui.perfetto.dev; default: trace.json",
    )
    trace.set_defaults(run=_trace)

    explain = commands.add_parser("explain", help="what was chosen for a request, round by round, and why")
    explain.add_argument("id", nargs="?", metavar="ID", help="of a reply; default: list the newest requests")
    _add_url(explain)
    explain.set_defaults(run=_explain)

    record = commands.add_parser("record", help="record what real traffic's rounds did, for `replay`; no text")
    record.add_argument("url", nargs="?", default=_URL, metavar="URL", help=f"where it serves; default: {_URL}")
    record.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="Parquet file to write")
    most = record.add_mutually_exclusive_group()
    most.add_argument("--seconds", type=_seconds, metavar="S", help="how long; default: until Ctrl-C")
    most.add_argument("--requests", type=_count, metavar="N", help="end after so many")
    record.set_defaults(run=_record)

    replay = commands.add_parser("replay", help="policies over a recording, beside the oracles that hindsight has")
    replay.add_argument("file", type=Path, metavar="FILE", help="of `paceline record`")
    replay.add_argument(
        "--policy", action="append", default=[], metavar="NAME", help="as selector.policy, or fixed:DRAFTER; repeatable"
    )
    replay.add_argument("--config", type=Path, metavar="SETTINGS", help="whose `selector` section the policies take")
    replay.add_argument(
        "--length", default="adapt", metavar="N", help="adapt, learned, recorded, or 1, 2, ..; default: adapt"
    )
    replay.add_argument("--seed", type=int, default=0)
    replay.add_argument("--plot", type=Path, metavar="PNG", help="draw the regret")
    replay.add_argument("--json", action="store_true", help="end with one JSON line")
    replay.set_defaults(run=_replay)

    _add_train(commands)

    datastore = commands.add_parser("datastore", help="count a target's answers for a retrieval drafter")
    datastore.add_argument("output", type=Path, metavar="OUTPUT", help="drafter folder to write")
    datastore.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="data folder of `paceline train`")
    datastore.add_argument("--domain", nargs="+", default=[], help="only these domains; default: all")
    datastore.add_argument("--target", default="embedded", help="`embedded`, a folder, or a hub id; default: embedded")
    datastore.add_argument("--max-ngrams", type=int, default=500_000, metavar="N", help="kept; default: 500000")
    datastore.set_defaults(run=_datastore)

    doctor = commands.add_parser("doctor", help="check this machine, and say what to do")
    doctor.add_argument("--config", type=Path, metavar="FILE", help="settings to check for; default: deploy/local.yaml")
    doctor.add_argument("--json", action="store_true", help="print one JSON document")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser("serve", help="bring up a cluster and serve until Ctrl-C")
    serve.add_argument("file", type=Path, metavar="FILE", help="settings, e.g. deploy/local.yaml")
    serve.add_argument("--port", type=int, help="HTTP port, in place of the file's")
    serve.add_argument("--host", help="HTTP address, in place of the file's; 0.0.0.0 for every interface")
    serve.add_argument(
        "--address", help="join a running Ray (`auto` or HOST:PORT); default: RAY_ADDRESS, else a local Ray of our own"
    )
    serve.add_argument("--timeout", type=_seconds, default=120.0, metavar="S", help="wait for the actors; default: 120")
    serve.set_defaults(run=_serve)


def _add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    chat = commands.add_parser("chat", help="talk to a running cluster, and see who is pulling")
    _add_url(chat)
    chat.add_argument("--model", help="default: the one that is served")
    chat.add_argument("--temperature", type=float, help="default: the server's")
    chat.add_argument("--max-tokens", type=int, help="most tokens of an answer; default: the server's")
    chat.add_argument("--once", metavar="TEXT", help="ask this, print the answer, end")
    chat.set_defaults(run=_chat)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a draft head for a target from prompts",
        description="Train a draft head: the target answers the prompts, the head learns from its answers. "
        "A run that was broken off goes on where it was when the same command is given again.",
    )
    train.add_argument("output", type=Path, metavar="OUTPUT", help="drafter folder to write")
    train.add_argument(
        "--prompts",
        nargs="+",
        required=True,
        metavar="FILE",
        help="JSON lines with `prompt`, or .txt with a prompt on each line; .gz or not",
    )
    train.add_argument(
        "--test", nargs="+", default=[], metavar="FILE", help="prompts to measure on; default: one in ten of --prompts"
    )
    train.add_argument("--target", default="embedded", help="`embedded`, a folder, or a hub id; default: embedded")
    train.add_argument("--expert-of", type=Path, metavar="FOLDER", help="go on from this head, with its shapes")
    train.add_argument("--domain", nargs="+", default=[], help="train on these domains of the data only; default: all")
    train.add_argument(
        "--data", type=Path, metavar="FOLDER", help="answers and features, kept for other heads; default: OUTPUT.data"
    )
    train.add_argument("--answers", type=int, default=600, metavar="N", help="most per domain; default: 600")
    train.add_argument("--test-answers", type=int, default=24, metavar="N", help="most per domain; default: 24")
    train.add_argument("--max-tokens", type=int, default=160, metavar="N", help="of an answer; default: 160")
    train.add_argument(
        "--max-prompt", type=int, default=640, metavar="N", help="tokens; longer prompts are left out; default: 640"
    )
    train.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7, 0.0, 1.0], metavar="T")
    train.add_argument("--layers", type=int, nargs="+", default=[], metavar="L", help="the target's that feed the head")
    train.add_argument("--draft-vocab", type=int, metavar="N", help="ids it can draft; default: 8192")
    train.add_argument("--window", type=int, metavar="N", help="prompt tokens it sees; default: 64")
    train.add_argument("--inner", type=int, metavar="N", help="width of its gated layer; default: the target's")
    train.add_argument("--steps", type=int, default=1500, metavar="N", help="default: 1500")
    train.add_argument("--batch-tokens", type=int, default=2048, metavar="N", help="of a step; default: 2048")
    train.add_argument("--levels", type=int, default=4, metavar="N", help="of a chain that are trained; default: 4")
    train.add_argument("--learning-rate", type=float, default=1e-3, metavar="X", help="default: 0.001")
    train.add_argument("--batch", type=int, default=64, metavar="N", help="answers generated at once; default: 64")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    train.add_argument(
        "--source", action="append", default=[], metavar="TEXT", help="of the prompts, for the model card"
    )
    train.set_defaults(run=_train)


def _add_drafters(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    drafters = commands.add_parser("drafters", help="a running cluster's drafters: list, add, drain, remove")
    actions = drafters.add_subparsers(title="actions", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="every drafter, with its replicas and what the selector knows of it")
    _add_url(listed)
    listed.set_defaults(run=_drafters_list)
    added = actions.add_parser(
        "add",
        help="add one, from a file or from fields",
        description="Add a drafter to the running cluster, and wait until it can be used. FILE holds what one of a "
        "configuration's `drafters` does. Fields are written `name=math kind=head options.model=zoo/math`.",
    )
    added.add_argument("drafter", nargs="+", metavar="FILE|FIELD=VALUE", help="a YAML file, or fields")
    added.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="wait for it; default: 60")
    added.set_defaults(run=_drafters_add)
    drained = actions.add_parser("drain", help="give it no new sequences; those that it holds keep it")
    drained.set_defaults(run=_drafters_drain)
    removed = actions.add_parser("remove", help="take it away now; sequences that it served go on with the others")
    removed.set_defaults(run=_drafters_remove)
    for parser in (drained, removed):
        parser.add_argument("name", metavar="NAME")
    for parser in (added, drained, removed):
        _add_url(parser)
        parser.add_argument(
            "--token", metavar="T", help="http.operator_token of the server; default: PACELINE_OPERATOR_TOKEN"
        )


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=_URL, help=f"where it serves; default: {_URL}")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds above 0")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return count


def _serve(arguments: argparse.Namespace) -> int:
    from paceline.actors.environment import ray_address
    from paceline.cluster.config import load_config, parse_config
    from paceline.cluster.serve_command import serve

    document = load_config(arguments.file).model_dump()
    given = {"port": arguments.port, "host": arguments.host}
    document["http"].update({field: value for field, value in given.items() if value is not None})
    config = parse_config(document, "command line")
    return serve(config, ray_address=arguments.address or ray_address(), ready_s=arguments.timeout)


def _chat(arguments: argparse.Namespace) -> int:
    from paceline.cluster.chat_command import chat

    return chat(
        arguments.url,
        model=arguments.model,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        once=arguments.once,
    )


def _pull(arguments: argparse.Namespace) -> int:
    from paceline.cluster.pull_command import pull

    return pull(arguments.source)


def _status(arguments: argparse.Namespace) -> int:
    from paceline.cluster.status_command import status

    return status(arguments.url)


def _drafters_list(arguments: argparse.Namespace) -> int:
    from paceline.cluster.drafters_command import list_drafters

    return list_drafters(arguments.url)


def _drafters_add(arguments: argparse.Namespace) -> int:
    from paceline.actors.environment import operator_token
    from paceline.cluster.drafters_command import add_drafter

    return add_drafter(
        arguments.url, arguments.drafter, token=arguments.token or operator_token(), wait_s=arguments.timeout
    )


def _drafters_drain(arguments: argparse.Namespace) -> int:
    from paceline.actors.environment import operator_token
    from paceline.cluster.drafters_command import drain_drafter

    return drain_drafter(arguments.url, arguments.name, token=arguments.token or operator_token())


def _drafters_remove(arguments: argparse.Namespace) -> int:
    from paceline.actors.environment import operator_token
    from paceline.cluster.drafters_command import remove_drafter

    return remove_drafter(arguments.url, arguments.name, token=arguments.token or operator_token())


def _trace(arguments: argparse.Namespace) -> int:
    from paceline.cluster.trace_command import trace

    return trace(arguments.url, arguments.seconds, arguments.output)


def _explain(arguments: argparse.Namespace) -> int:
    from paceline.cluster.explain_command import explain

    return explain(arguments.url, arguments.id)


def _record(arguments: argparse.Namespace) -> int:
    from paceline.cluster.record_command import record

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it, too, ends a recording and loses none
    try:
        return record(arguments.url, arguments.output, seconds=arguments.seconds, requests=arguments.requests)
    finally:
        signal.signal(signal.SIGTERM, before)


def _replay(arguments: argparse.Namespace) -> int:
    from paceline.cluster.replay_command import replay

    return replay(
        arguments.file,
        arguments.policy or ["normalhedge"],
        config=arguments.config,
        length=arguments.length,
        seed=arguments.seed,
        plot=arguments.plot,
        as_json=arguments.json,
    )


def _train(arguments: argparse.Namespace) -> int:
    from paceline.cluster.train_command import train
    from paceline.cluster.training.train_settings import DataSettings, TrainSettings

    data = DataSettings(
        target=arguments.target,
        prompts=tuple(arguments.prompts),
        test_prompts=tuple(arguments.test),
        answers=arguments.answers,
        test_answers=arguments.test_answers,
        max_tokens=arguments.max_tokens,
        max_prompt=arguments.max_prompt,
        temperatures=tuple(arguments.temperatures),
        feature_layers=tuple(arguments.layers),
        seed=arguments.seed,
    )
    return train(
        TrainSettings(
            output=arguments.output,
            data=data,
            data_folder=arguments.data,
            domains=tuple(arguments.domain),
            expert_of=arguments.expert_of,
            draft_vocab=arguments.draft_vocab,
            window=arguments.window,
            inner=arguments.inner,
            steps=arguments.steps,
            batch_tokens=arguments.batch_tokens,
            levels=arguments.levels,
            learning_rate=arguments.learning_rate,
            batch=arguments.batch,
            device=arguments.device,
            sources=tuple(arguments.source),
        )
    )


def _datastore(arguments: argparse.Namespace) -> int:
    from paceline.actors.model_facts import vocabulary_size
    from paceline.actors.model_source import resolve
    from paceline.cluster.datastore_command import datastore

    vocab_size = vocabulary_size(resolve(arguments.target).path)
    return datastore(arguments.output, arguments.data, arguments.domain, vocab_size, arguments.max_ngrams)


def _doctor(arguments: argparse.Namespace) -> int:
    from paceline.cluster.doctor_command import doctor

    return doctor(arguments.config, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
