"""`cellwire sessions`: what is in the store, asked of a replica. An operator's tool."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from cellwire.cli.exits import Exit, leave, told
from cellwire.client import Client
from cellwire.v1 import session_service_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Sessions in the store, whoever serves them.")

Target = Annotated[str, typer.Option("--target", "-t", help="A replica.", envvar="CELLWIRE_TARGET")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]
Wait = Annotated[float, typer.Option("--wait", help="Seconds to try to reach the replica.")]


@app.command("list")
def list_sessions(
    target: Target = "localhost:50051",
    limit: Annotated[int, typer.Option(help="The most to list.", min=1)] = 1000,
    every: Annotated[bool, typer.Option("--all", help="Closed ones too.")] = False,
    as_json: AsJson = False,
    wait: Wait = 10.0,
) -> None:
    """List sessions, the last updated first.

    Example: `cellwire sessions list --target localhost:50051 --json`
    """

    async def page(client: Client, token: str) -> pb.ListSessionsResponse:
        request = pb.ListSessionsRequest(page_token=token)
        return await client.call(lambda replica: replica.sessions.ListSessions(request, timeout=10.0))

    async def ask(client: Client) -> list[pb.Session]:
        answer = await page(client, "")
        found = list(answer.sessions)
        while answer.next_page_token:
            answer = await page(client, answer.next_page_token)
            found += answer.sessions
        return found

    found: list[pb.Session] = _ask(target, wait, ask)
    found.sort(key=lambda session: session.updated.ToNanoseconds(), reverse=True)
    sessions = [session for session in found if every or not session.closed][:limit]
    if as_json:
        typer.echo(json.dumps([_facts(session) for session in sessions], indent=2))
        return
    table = Table(
        Column("session", no_wrap=True),
        "model",
        "step",
        "held for",
        "expires in",
        "state",
        box=None,
        header_style="bold",
    )
    for session in sessions:
        facts = _facts(session)
        table.add_row(
            facts["session_id"],
            f"{facts['model']}/{facts['version']}",
            str(facts["step"]),
            f"{facts['lease_seconds']:.0f} s" if facts["lease_seconds"] else "-",
            f"{facts['expires_in_seconds']:.0f} s",
            "closed" if facts["closed"] else f"{facts['state_bytes']} bytes",
        )
    none = "no sessions but closed ones (--all)" if found else "no sessions"
    Console(emoji=False).print(table if sessions else none)


@app.command()
def show(
    session_id: Annotated[str, typer.Argument(help="The session's id.")],
    target: Target = "localhost:50051",
    as_json: AsJson = False,
    wait: Wait = 10.0,
) -> None:
    """Show one session.

    Example: `cellwire sessions show mic-1`
    """
    facts = _facts(_get(session_id, target, wait))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), str(value))
    Console(emoji=False).print(table)


@app.command()
def close(
    session_id: Annotated[str, typer.Argument(help="The session's id.")],
    target: Target = "localhost:50051",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    wait: Wait = 10.0,
) -> None:
    """Close a session, whoever holds it: its state is dropped and its client is told.

    Example: `cellwire sessions close mic-1 --yes`
    """
    if not yes:
        _get(session_id, target, wait)
        if not sys.stdin.isatty():
            raise leave(Exit.USAGE, "nobody can be asked here: give --yes")
        typer.confirm(f"Drop the state of {session_id}?", abort=True)
    request = pb.CloseSessionRequest(session_id=session_id)

    async def ask(client: Client) -> pb.CloseSessionResponse:
        return await client.call(lambda replica: replica.sessions.CloseSession(request, timeout=10.0))

    step = _ask(target, wait, ask).step
    typer.echo(
        json.dumps({"session_id": session_id, "step": step}) if as_json else f"{session_id} closed at step {step}"
    )


def _get(session_id: str, target: str, wait: float) -> pb.Session:
    request = pb.GetSessionRequest(session_id=session_id)

    async def ask(client: Client) -> pb.GetSessionResponse:
        return await client.call(lambda replica: replica.sessions.GetSession(request, timeout=10.0))

    answer: pb.GetSessionResponse = _ask(target, wait, ask)
    return answer.session


def _ask(target: str, wait: float, question: Callable[[Client], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with Client(target, give_up_after=wait) as client:
            return await question(client)

    with told(target):
        return asyncio.run(run())


def _facts(session: pb.Session) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "model": session.model,
        "version": session.version,
        "step": session.step,
        "epoch": session.epoch,
        "incarnation": session.incarnation.hex(),
        "closed": session.closed,
        "unnumbered": session.unnumbered,
        "lease_seconds": session.lease.ToNanoseconds() / 1e9,
        "expires_in_seconds": session.expires_in.ToNanoseconds() / 1e9,
        "updated": session.updated.ToJsonString(),
        "state_bytes": session.state_bytes,
    }
