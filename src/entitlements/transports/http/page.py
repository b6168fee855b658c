"""The OpenAPI document as one static page without scripts."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final, NamedTuple

import msgspec

from entitlements.version import VERSION

HTML: Final = b"text/html; charset=utf-8"
HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
)
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem}section{border-top:1px solid #ccc;padding:.5rem 0}h4{margin:.75rem 0 0}"
    "code,pre{font-family:ui-monospace,monospace}pre{background:#f4f4f4;padding:.75rem;overflow:auto}"
    "b{display:inline-block;min-width:4rem}nav ul{list-style:none;padding-left:1rem}"
    "dt{float:left;clear:left;min-width:14rem}dd{margin-left:15rem}"
)


class _Shown(NamedTuple):
    method: str
    path: str
    operation: Mapping[str, Any]

    @property
    def anchor(self) -> str:
        return str(self.operation["operationId"])

    @property
    def name(self) -> str:
        return f"<b>{self.method}</b> <code>{escape(self.path)}</code>"


def page(document: Mapping[str, Any]) -> str:
    """Return the document as HTML, with relative links, so that it works below any path."""
    schemas = document["components"]["schemas"]
    by_tag: dict[str, list[_Shown]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append(_Shown(method.upper(), path, operation))
    texts = {tag["name"]: tag["description"] for tag in document["tags"]}
    contents = "".join(
        f'<li><a href="#{tag}">{tag.capitalize()}</a><ul>{"".join(map(_entry, shown))}</ul></li>'
        for tag, shown in by_tag.items()
    )
    parts = "".join(
        f'<h2 id="{tag}">{tag.capitalize()}</h2><p>{_marked(texts[tag])}</p>'
        f"{''.join(_section(one, schemas) for one in shown)}"
        for tag, shown in by_tag.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Entitlements</title>'
        f"<style>{_STYLE}</style></head><body><h1>Entitlements {VERSION}</h1>"
        '<p>For programs: <a href="openapi.json">OpenAPI 3.1</a>. Errors are problem+json; '
        "requests that change something take an <code>Idempotency-Key</code>.</p>"
        f"<nav><ul>{contents}</ul></nav>{parts}</body></html>"
    )


def _entry(shown: _Shown) -> str:
    return f'<li><a href="#{shown.anchor}">{shown.name}</a></li>'


def _section(shown: _Shown, schemas: Mapping[str, Any]) -> str:
    operation = shown.operation
    return (
        f'<section id="{shown.anchor}"><h3>{shown.name}</h3>'
        f"<p>{_marked(operation['summary'])}<br><small>{_marked(operation['description'])}"
        f"</small></p>{''.join(_parts(operation, schemas))}</section>"
    )


def _parts(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    if operation["parameters"]:
        yield "<h4>Parameters</h4>"
        yield _list(
            (f"{one['name']} ({one['in']})", one["description"]) for one in operation["parameters"]
        )
    if "requestBody" in operation:
        yield "<h4>Request</h4>"
        yield _body(operation["requestBody"]["content"], schemas)
    problems = []
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if "application/problem+json" in content:
            problems.append(f"{status} {response['description']}")
            continue
        yield f"<h4>Response {status}</h4>"
        yield _list((name, header["description"]) for name, header in response["headers"].items())
        yield _body(content, schemas)
    yield f"<p><small>Problems: {escape(', '.join(problems))}.</small></p>"


def _body(content: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return the example of the body and the descriptions of its properties."""
    if "application/json" not in content:
        return ""
    media = content["application/json"]
    properties = schemas[media["schema"]["$ref"].rpartition("/")[2]]["properties"]
    example = msgspec.json.format(msgspec.json.encode(media["example"])).decode()
    return (
        f"<pre>{escape(example)}</pre><details><summary>Properties</summary>"
        f"{_list((name, schema['description']) for name, schema in properties.items())}</details>"
    )


def _list(items: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f"<dt><code>{escape(name)}</code></dt><dd>{_marked(text)}</dd>" for name, text in items
    )
    return f"<dl>{rows}</dl>"


def _marked(text: str) -> str:
    """Convert text with code in backticks to HTML."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
