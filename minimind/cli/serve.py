"""`minimind serve`: models behind an OpenAI-compatible API."""

import os
from typing import Annotated, Any, Optional

import typer

from minimind.cli.shared import console, local

Words = Optional[list[str]]  # noqa: UP045
Number = Optional[int]  # noqa: UP045

Models = Annotated[
    list[str], typer.Argument(help="chat (the published one), dpo, sft, …; a models:/ URI; a directory; or NAME= one.")
]
Adapters = Annotated[Words, typer.Option("--adapter", help="A LoRA adapter to serve as well, as NAME=DIR.")]
Host = Annotated[str, typer.Option(help="Where to listen; other than the loopback only with a key.")]
Port = Annotated[int, typer.Option(help="0 takes a free one.")]
ApiKey = Annotated[Words, typer.Option(help="Ask for this key; better by MINIMIND_API_KEY, which `ps` does not show.")]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Listen for others without a key.")]
AllowedHost = Annotated[Words, typer.Option(help="A further name by which clients may call this server.")]
CorsOrigin = Annotated[Words, typer.Option(help="A page's origin that may ask from a browser, as https://host.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8 or int4.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
MaxBatch = Annotated[int, typer.Option(help="Answers drawn at once, for each model.")]
MaxWaiting = Annotated[int, typer.Option(help="Answers that may wait for a place; more get 429.")]
Threads = Annotated[Number, typer.Option(help="Of each engine; by default the cores, shared by the models.")]
CacheTokens = Annotated[Number, typer.Option(help="Tokens an engine remembers; by default its own choice.")]
Refresh = Annotated[float, typer.Option(help="How often an alias is looked up again; 0 never.")]
Grace = Annotated[float, typer.Option(help="For answers under way when the server is told to stop.")]
RequestSeconds = Annotated[float, typer.Option(help="Longest time for one answer.")]
MaxRequests = Annotated[int, typer.Option(help="Requests answered at once; more get 429.")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer where a request does not say.")]
MaxBody = Annotated[int, typer.Option(help="Bytes of a request.")]
MaxMessages = Annotated[int, typer.Option(help="Messages of a request.")]
MaxContent = Annotated[int, typer.Option(help="Characters of a message.")]
MaxChoices = Annotated[int, typer.Option(help="Answers to one request.")]
MaxConnections = Annotated[int, typer.Option(help="Connections at once.")]


def serve(
    models: Models,
    adapter: Adapters = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    no_auth: NoAuth = False,
    allowed_host: AllowedHost = None,
    cors_origin: CorsOrigin = None,
    precision: Precision = "auto",
    device: Device = "auto",
    max_batch: MaxBatch = 64,
    max_waiting: MaxWaiting = 128,
    threads: Threads = None,
    cache_tokens: CacheTokens = None,
    refresh_seconds: Refresh = 30.0,
    grace_seconds: Grace = 30.0,
    request_seconds: RequestSeconds = 600.0,
    max_requests: MaxRequests = 256,
    max_tokens: MaxTokens = 1024,
    max_body_bytes: MaxBody = 2 * 2**20,
    max_messages: MaxMessages = 2048,
    max_content_chars: MaxContent = 1_000_000,
    max_choices: MaxChoices = 16,
    max_connections: MaxConnections = 1024,
) -> None:
    """Serve models to every client of OpenAI's API, until Ctrl-C.

    Examples: `minimind serve chat`, `minimind serve sft dpo --port 9000`,
    `minimind serve base=models:/minimind-pretrain@champion --adapter medical=./adapters/medical`
    """
    from minimind.serve.engine_spec import EngineSettings
    from minimind.serve.fleet import Fleet
    from minimind.serve.limits import Limits
    from minimind.serve.serving import Listening, key_list
    from minimind.serve.serving import serve as serve_until_stopped
    from minimind.serve.sources import read_adapters, read_sources

    sources = read_sources(models)
    engine = {"precision": precision, "device": device, "max_batch": max_batch, "max_waiting": max_waiting}
    fleet = Fleet(
        sources,
        adapters=read_adapters(adapter or [], sources),
        locate=_locate,
        settings=EngineSettings.parse(
            {**engine, "threads": threads or _threads(len(sources)), "cache_tokens": cache_tokens}, origin="options"
        ),
        refresh_seconds=refresh_seconds,
    )
    access = {"host": host, "port": port, "no_auth": no_auth, "grace_seconds": grace_seconds}
    access["keys"] = key_list(api_key or [], os.environ.get("MINIMIND_API_KEY"))
    access |= {"allowed_hosts": tuple(allowed_host or ()), "cors_origins": tuple(cors_origin or ())}
    limits: dict[str, Any] = {
        "body_bytes": max_body_bytes,
        "requests": max_requests,
        "request_seconds": request_seconds,
        "messages": max_messages,
        "content_chars": max_content_chars,
        "choices": max_choices,
        "connections": max_connections,
        "max_tokens": max_tokens,
    }
    serve_until_stopped(
        fleet,
        Listening.parse(access, origin="options"),
        limits=Limits.parse(limits, origin="options"),
        console=console,
    )


def _locate(spec: str) -> Any:
    """The version that a name, URI or directory means now, with its registry's URI where that is noted."""
    from pathlib import Path

    from minimind.artifact import MANIFEST_FILE, open_artifact, prove_model
    from minimind.lineage import Lineage, node_of
    from minimind.serve.sources import version_of

    if Path(spec).expanduser().is_dir():
        return version_of(prove_model(Path(spec).expanduser().resolve()))
    flows = local()
    directory = flows.find_model(spec)
    if not (directory / MANIFEST_FILE).is_file():
        return version_of(directory)
    artifact = open_artifact(directory)
    noted = flows.registered(Lineage(nodes=[node_of(artifact)]))
    return version_of(directory, uri=noted.get(artifact.fingerprint))


def _threads(num_models: int) -> int:
    """Cores for each engine."""
    from minimind.runtime import cpu_count

    return max(1, cpu_count() // num_models)
