"""A report of sections as Markdown, and as one HTML page with its pictures inside."""

import base64
import html
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Table:
    """Rows of cells, the first row and column being titles. Cells may hold `<b>`, `<u>`, `<br>` and `<small>`."""

    caption: str
    rows: list[list[str]]


@dataclass
class Section:
    title: str
    parts: list[str | Table | Path] = field(default_factory=list)  # paragraphs, tables and pictures in their order


def to_markdown(title: str, sections: list[Section]) -> str:
    blocks = [f"# {title}"]
    for section in sections:
        blocks.append(f"## {section.title}")
        for part in section.parts:
            if isinstance(part, Table):
                blocks.append(f"{part.caption}\n\n{markdown_table(part)}" if part.caption else markdown_table(part))
            else:
                blocks.append(f"![{part.stem}]({part.name})" if isinstance(part, Path) else part)
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    head, *rows = table.rows
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1300px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; font-size: 13px; display: block; overflow-x: auto; }
td, th { padding: 3px 9px; border-bottom: 1px solid #ddd; vertical-align: top; }
td, th { text-align: right; white-space: nowrap; }
td.text, th.text { white-space: normal; text-align: left; min-width: 9em; }
th { border-bottom: 2px solid #888; } td:first-child, th:first-child { text-align: left; }
small { color: #666; } img { max-width: 100%; } h2 { margin-top: 2em; } code { background: #f2f2f2; padding: 0 3px; }
"""


def to_html(title: str, sections: list[Section]) -> str:
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        for part in section.parts:
            if isinstance(part, Table):
                body.append(f"<p>{_inline(part.caption)}</p>" * bool(part.caption) + _html_table(part))
            elif isinstance(part, Path):
                data = base64.b64encode(part.read_bytes()).decode()
                body.append(f'<p><img alt="{html.escape(part.stem)}" src="data:image/png;base64,{data}"></p>')
            else:
                body.append(f"<p>{_inline(part)}</p>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _html_table(table: Table) -> str:
    def cells(row: list[str], tag: str) -> str:
        parts = [f"<{tag}{kind}>{_inline(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True)]
        return f"<tr>{''.join(parts)}</tr>"

    head, *rows = table.rows
    columns = zip(*rows, strict=True)
    kinds = [' class="text"' if any(len(cell.split("<br>")[0]) > 40 for cell in column) else "" for column in columns]
    return "<table>" + "\n".join([cells(head, "th"), *(cells(row, "td") for row in rows)]) + "</table>"


def _inline(text: str) -> str:
    """Escaped but for the tags that cells may hold, with `code`."""
    text = re.sub(r"&lt;(/?(?:b|u|br|small))&gt;", r"<\1>", html.escape(text, quote=False))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
