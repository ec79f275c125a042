"""`make notebooks`: run every notebook from its `.py` pair and write it with its outputs.

The pair is what is edited. Cells are numbered instead of named at random, so that a run changes outputs alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "notebooks"

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
"""All that is kept of a notebook's metadata: the rest names the Python that ran it."""

LIMIT_S = 300
"""Of one cell, of a kernel that starts, and of an output that is on its way, however busy the machine is."""


def notebook_of(pair: Path) -> NotebookNode:
    """Return the notebook that a `.py` pair stands for, without outputs."""
    notebook = jupytext.read(pair)
    notebook.metadata = nbformat.from_dict(KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({})
    return notebook


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run a notebook in its own folder and in this Python; return it with its outputs.

    What a cell prints is one output, however long it took from line to line, and all of it or an error.
    """
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=LIMIT_S,
        startup_timeout=LIMIT_S,
        iopub_timeout=LIMIT_S,
        raise_on_iopub_timeout=True,
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(KERNEL)
    return notebook


def main() -> None:
    """Run the notebooks that are named, or all."""
    pairs = [FOLDER / f"{name}.py" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.py"))
    for pair in pairs:
        nbformat.write(execute(notebook_of(pair)), pair.with_suffix(".ipynb"))
        sys.stderr.write(f"{pair.stem}\n")


if __name__ == "__main__":
    main()
