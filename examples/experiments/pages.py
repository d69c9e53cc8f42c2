"""A report of sections as Markdown, and as one HTML page with its pictures inside."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape


@dataclass
class Table:
    """Rows of cells, the first row and column being titles. Cells may hold `<b>`, `<u>`, `<br>` and `<small>`."""

    caption: str
    rows: list[list[str]]

    @property
    def kinds(self) -> list[str]:
        """A class of each column for the page's style: long texts may break."""
        columns = zip(*self.rows[1:], strict=True)
        return ["text" if any(len(cell.split("<br>")[0]) > 40 for cell in column) else "number" for column in columns]


Part = str | Table | Path  # a paragraph, a table or a picture


@dataclass
class Section:
    title: str
    parts: list[Part]


def to_markdown(title: str, sections: list[Section]) -> str:
    blocks = [f"# {title}"]
    for section in sections:
        blocks += [f"## {section.title}", parts_to_markdown(section)]
    return "\n\n".join(blocks) + "\n"


def parts_to_markdown(section: Section) -> str:
    blocks = []
    for part in section.parts:
        if isinstance(part, Table):
            blocks.append(f"{part.caption}\n\n{markdown_table(part)}" if part.caption else markdown_table(part))
        else:
            blocks.append(f"![{part.stem}]({part.name})" if isinstance(part, Path) else part)
    return "\n\n".join(blocks)


def markdown_table(table: Table) -> str:
    head, *rows = table.rows
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def to_html(title: str, sections: list[Section]) -> str:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters["inline"] = _inline
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    environment.tests["table"] = lambda part: isinstance(part, Table)
    environment.tests["picture"] = lambda part: isinstance(part, Path)
    return environment.get_template("page.html.jinja").render(title=title, sections=sections)


def _inline(text: str) -> Markup:
    """Escaped but for the tags that cells may hold, with `code`."""
    tags = re.sub(r"&lt;(/?(?:b|u|br|small))&gt;", r"<\1>", str(escape(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", tags))


def arrow(pair: str, space: str = " ") -> str:
    return pair.replace(":", f"{space}→ ")
