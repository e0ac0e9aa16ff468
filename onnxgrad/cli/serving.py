"""The commands under `onnxgrad serve`: model repositories of inference servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxgrad.cli.printing import say
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.parallel.triton import repository

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Write what an inference server reads."""


@app.command()
def triton(
    folder: Annotated[Path, typer.Argument(help="The repository to write.", show_default=False)],
    models: Annotated[
        list[Path],
        typer.Argument(
            help="The models, such as a net and one of its explanations. Each is served under the "
            "name of its file.",
            show_default=False,
        ),
    ],
    max_batch_size: Annotated[
        int, typer.Option(help="The most examples of a run; 0 for each request by itself.")
    ] = 32,
    max_queue_delay: Annotated[
        int, typer.Option(help="How long a request waits for others, in microseconds.")
    ] = 1000,
) -> None:
    """Write a model repository of Triton, whose models share their weights on the disk."""
    named = {path.stem: path for path in models}
    if len(named) < len(models):
        raise ArgumentError("two models have one name: rename a file")
    repository(named, folder, max_batch_size=max_batch_size, max_queue_delay=max_queue_delay)
    say(f"Wrote {folder}: {', '.join(named)}.")
