"""`minimind ui`: the web page over an OpenAI-compatible API."""

import os
import signal
import webbrowser
from typing import Annotated

import typer

from minimind.cli.shared import console
from minimind.errors import ServiceError


def ui(
    server: Annotated[
        str, typer.Option(help="Address of the API; any OpenAI-compatible one.", envvar="MINIMIND_SERVER_URL")
    ] = "http://127.0.0.1:8000/v1",
    api_key: Annotated[
        str, typer.Option(help="The API's key, where it wants one.", envvar="MINIMIND_API_KEY", show_default=False)
    ] = "",
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="Where the page listens; it asks nobody for a password.")] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")] = True,
) -> None:
    """Chat with models in a browser: keep conversations, compare models, see how they think.

    Examples: `minimind ui`, `minimind ui --server http://127.0.0.1:8080/v1 --no-open`
    """
    from minimind.serve.webui import process

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's `&` has SIGINT ignored
        signal.signal(number, stop)
    try:
        with process.page(server, key=api_key, host=host, port=port) as child:
            address = process.address(host, port)
            console.print(f"page  {address}\nAPI   {server}\n\nCtrl-C stops it.", highlight=False, soft_wrap=True)
            if open_browser and _has_display():
                webbrowser.open(address)
            code = child.wait()
            raise ServiceError(f"the page ended with exit code {code}; see logs/webui.log in the store")
    except KeyboardInterrupt:
        console.print("the page is down", highlight=False)


def _has_display() -> bool:
    """Whether a browser can show a window; where none can, a text browser would take the terminal."""
    return os.name == "nt" or os.uname().sysname == "Darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
