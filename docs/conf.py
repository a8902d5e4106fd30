"""Settings of the documentation site. `make docs` builds it into build/docs; every warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for `list_commands`

from list_commands import describe_commands

import regraft

project = "regraft"
author = "the regraft authors"
release = version = regraft.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md"]  # the list of pages for readers of the repository; index.md is the site's
html_theme = "furo"
html_title = f"regraft {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3

suppress_warnings = [
    "ref.python"
]  # attributes of one name in two classes, which their lists of fields refer to
default_role = "code"
add_module_names = False
autodoc_typehints = "none"  # the docstrings say it in words, and the signatures are long enough
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_use_ivar = True  # the fields of a dataclass are described once, under Attributes

COMMANDS = "{{ commands }}"  # in reference/commands.md
PAGES = {
    "README.md": "/index.md",
    "ARCHITECTURE.md": "/project/architecture.md",
    "CHANGELOG.md": "/project/changelog.md",
    "CONTRIBUTING.md": "/project/contributing.md",
    "RELEASE.md": "/project/release.md",
    "SECURITY.md": "/project/security.md",
}


def adapt_page(text: str) -> str:
    """Adapt a page that is also read in the repository: its anchors, and its links out of this folder."""
    text = re.sub(r'<a id="([\w-]+)"></a>\n*', r"\n(\1)=\n", text)
    for target, page in PAGES.items():
        text = re.sub(rf"\]\((\.\./)?{re.escape(target)}", f"]({page}", text)
    text = re.sub(r"\[([^]]+)\]\((\.\./examples/\w+\.py)\)", r"{download}`\1 <\2>`", text)
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", text)  # files that the site does not have


def _adapt_source(app: Any, page: str, source: list[str]) -> None:
    source[0] = adapt_page(source[0])
    if COMMANDS in source[0]:
        source[0] = source[0].replace(COMMANDS, describe_commands())


def _adapt_included(app: Any, path: Path, parent: str, source: list[str]) -> None:
    source[0] = adapt_page(source[0])


def _mark_examples(*arguments: Any) -> None:
    """Change the lines of a docstring, the last argument, so that its example is shown as code."""
    lines = arguments[-1]
    if "Example:" in (titles := [line.strip() for line in lines]):
        start = titles.index("Example:")
        lines[start : start + 1] = [".. rubric:: Example", "", ".. code-block:: python", ""]


def setup(app: Any) -> None:
    """Connect the adaptation of pages; Sphinx calls this."""
    app.connect("source-read", _adapt_source)
    app.connect("include-read", _adapt_included)
    app.connect("autodoc-process-docstring", _mark_examples, priority=100)  # before napoleon
