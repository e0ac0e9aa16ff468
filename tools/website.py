"""What the site needs beyond its pages, as hooks of mkdocs: `make docs`.

A link that leaves docs/ leads on GitHub to a file of the checkout. Here such files become pages of
the site, below project/, and the links lead to these. The reference of the command line is what
`--help` prints. At the end the built pages are read: a link that leads nowhere, a public name
without an entry and anything that a page would fetch from elsewhere are warnings, with which a
strict build fails.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from urllib.parse import unquote, urlsplit

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from typer.testing import CliRunner

from onnxgrad.cli.app import app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)#\s:]+)(?=[)#])")
CODE = {".cpp": "cpp", ".html": "html", ".js": "js", ".py": "python"}
COMMANDS = "<!-- commands -->"
MODULES = ["onnxgrad"] + [
    f"onnxgrad.{name}" for name in ("explain", "train", "adversarial", "heads", "losses")
]
UNIMPORTED = ("onnxgrad.bridges", "onnxgrad.parallel")  # each module needs a framework

log = logging.getLogger("mkdocs.hooks.website")


class House(griffe.Extension):
    """How the docstrings and the folders of this package are read."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Write as griffe expects it: "Examples:" for "Example:", and one colon before code."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
            if re.search(r"^(Returns|Yields):\n +[^\n]*:(\s|$)", text, re.MULTILINE):
                log.warning("%s: griffe takes the result for a type, up to the colon", obj.path)

    def on_function(self, *, func: griffe.Function, **_: object) -> None:
        """Take the signature that a function shows, where it is not that of its definition.

        The package is read and not run, so that no framework of a bridge is needed; the signatures
        of transforms are made when it runs.
        """
        func.overloads = None
        if func.module.path.startswith(UNIMPORTED):
            return
        shown = getattr(importlib.import_module(func.module.path), func.name, None)
        if not hasattr(shown, "__signature__"):
            return
        if str(func.returns) == "None":
            func.returns = "onnx.ModelProto | onnx_ir.Model"
        func.parameters = griffe.Parameters(
            *(
                griffe.Parameter(
                    p.name,
                    annotation=None,
                    kind=griffe.ParameterKind(p.kind.description),
                    default=None if p.default is p.empty else repr(p.default),
                )
                for p in inspect.signature(shown).parameters.values()
            )
        )

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Let a public function hide the module of its name that it comes from, as Python does."""
        for folder in (m for m in pkg.members.values() if isinstance(m, griffe.Module)):
            public = set(map(str, folder.exports or ()))
            for module in [folder.modules[name] for name in public & folder.modules.keys()]:
                own = module.members.get(module.name)
                if own is not None and not own.is_alias:  # as of `import torch` in torch.py
                    for name in public & module.members.keys():
                        folder.set_member(name, module.members[name])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to outside of docs/, and what that links to."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        for path in linked(waiting.pop()):
            uri = place(path)
            if uri not in files.src_uris:
                files.append(
                    File.generated(
                        config, uri, content=text_of(path), inclusion=InclusionLevel.NOT_IN_NAV
                    )
                )
                waiting.append(uri)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links to files of the checkout lead to their places, and fill in the commands."""
    uri = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        path = target(uri, match[2])
        return match[1] + relpath(place(path), dirname(uri) or ".") if path else match[0]

    text = LINK.sub(moved, markdown)
    return text.replace(COMMANDS, "\n".join(commands())) if COMMANDS in text else text


def on_post_build(config: MkDocsConfig) -> None:
    """Read the built pages, and warn of what is wrong."""
    site = Path(config.site_dir)
    pages = {path: Read(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        here = path.relative_to(site)
        if here.name == "404.html" or not page.made:
            continue  # links from the root of a server, and pages that are copied as they are
        for link in page.links | page.fetched:
            parts = urlsplit(link)
            if link in page.fetched and parts.netloc:
                log.warning("%s fetches %s", here, link)
            if parts.scheme or parts.netloc:
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            to = to / "index.html" if to.is_dir() else to
            anchors = pages[to].anchors if to in pages else None
            if not to.exists() or (
                parts.fragment and anchors and unquote(parts.fragment) not in anchors
            ):
                log.warning("%s has a link to %s, which leads nowhere", here, link)
    for name in public():
        if not any(name in page.anchors for page in pages.values()):
            log.warning("no page has an entry for %s", name)


def linked(uri: str) -> Iterator[str]:
    """The files of the checkout outside of docs/ that a page of the site links to."""
    for match in LINK.finditer((ROOT / source(uri)).read_text()):
        path = target(uri, match[2])
        if path and not path.startswith("docs/"):
            yield path


def source(uri: str) -> str:
    """The path in the checkout of a page of the site."""
    if not uri.startswith("project/"):
        return join("docs", uri)
    path = uri.removeprefix("project/")
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def place(path: str) -> str:
    """The place in the site of a file of the checkout."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return join("project", path if path.endswith(".md") else path + ".md")


def target(uri: str, link: str) -> str | None:
    """The path in the checkout of the file that a link of a page leads to, if it is one."""
    path = normpath(join(dirname(source(uri)), link))
    return path if (ROOT / path).is_file() else None


def text_of(path: str) -> str:
    """A file of the checkout as a page: Markdown as it is, all else as a block of code."""
    text = (ROOT / path).read_text()
    if path.endswith(".md"):
        return text
    return f"# {Path(path).name}\n\n````{CODE.get(Path(path).suffix, 'text')}\n{text}\n````\n"


def commands() -> Iterator[str]:
    """What each command prints about itself."""
    root = typer.main.get_command(app)
    for name, command in sorted(root.commands.items()):
        inner = getattr(command.command(), "commands", {})
        for words in [[name, other] for other in inner] or [[name]]:
            yield f"## {' '.join(words)}\n"
            yield f"```text\n{printed([*words, '--help'])}\n```\n"


def printed(arguments: list[str]) -> str:
    wide = os.environ | {"COLUMNS": "88", "TERMINAL_WIDTH": "88"}
    return CliRunner().invoke(app, arguments, prog_name="onnxgrad", env=wide).output.strip()


def public() -> Iterator[str]:
    """Every public name, with those of the folders."""
    for path in MODULES:
        module = importlib.import_module(path)
        for name in module.__all__:
            if not inspect.ismodule(getattr(module, name)):
                yield f"{path}.{name}"
    for path in UNIMPORTED:
        folder = griffe.load(path, search_paths=[ROOT], allow_inspection=False)
        for read in folder.modules.values():
            yield from (f"{read.path}.{name}" for name in read.exports or ())


class Read(HTMLParser):
    """The links of a page, what it fetches, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.anchors: set[str] = set()
        self.made = False  # by mkdocs
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.update(filter(None, [found.get("id"), found.get("name")]))
        if tag == "meta" and found.get("name") == "generator":
            self.made = True
        elif tag == "a":
            self.links.update(filter(None, [found.get("href")]))
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.fetched.update(filter(None, [found.get("href")]))
        else:
            self.fetched.update(filter(None, [found.get("src")]))
