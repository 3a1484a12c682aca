"""The reports of the lake as pages of Airflow's api-server: nobody without a login, and nothing but reports.

The pages show data, and GX and TFDV write them. So each is sandboxed: what stands in it can neither read Airflow's
cookie nor speak to its API.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from operators.support import the_lake

if TYPE_CHECKING:
    from fastapi import FastAPI

_WINDOW = re.compile(r"\d{8}T\d{6}Z-\d{8}T\d{6}Z")
_DELIVERY = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SCRIPTS = "facets.html"  # loads Facets; every other page is text and pictures
_CDN = "https://raw.githubusercontent.com https://cdnjs.cloudflare.com"


async def served(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request; made at the first one, because every Airflow process reads the plugin, tasks among them."""
    await app()(scope, receive, send)


@functools.cache
def app() -> FastAPI:
    """Return the application that is mounted below `links.PREFIX`."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
    from airflow.api_fastapi.core_api.security import GetUserDep
    from fastapi import FastAPI, HTTPException, Response

    found = FastAPI(title="Tidegate's reports", docs_url=None, redoc_url=None, openapi_url=None)

    def page(delivery: str, window: str, name: str, user: GetUserDep) -> Any:
        from airflow.api_fastapi.app import get_auth_manager

        details = DagDetails(id=f"ingest__{delivery}")
        if not get_auth_manager().is_authorized_dag(method="GET", details=details, user=user):
            raise HTTPException(403, f"this login may not read ingest__{delivery}")
        body = read(delivery, window, name)
        if body is None:
            raise HTTPException(404, "there is no such page; run the task that links to it again")
        return Response(body, media_type="text/html; charset=utf-8", headers=headers(name))

    page.__annotations__.update(user=GetUserDep, delivery=str, window=str, name=str)
    found.get("/reports/{delivery}/{window}/{name:path}")(page)
    return found


def read(delivery: str, window: str, name: str) -> bytes | None:
    """Return one HTML page of a window's report, or None: only what the report's manifest lists is ever opened."""
    if not (_DELIVERY.fullmatch(delivery) and _WINDOW.fullmatch(window) and name.endswith(".html")):
        return None
    lake, key = the_lake(), f"reports/{delivery}/{window}"
    manifest = lake.manifest(key)
    if manifest is None or name not in manifest["files"]:
        return None
    return lake.read(key, name)


def headers(name: str) -> dict[str, str]:
    """Return what a browser is told about a page: what it may load, and that it is of no origin."""
    inside = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
    if name == _SCRIPTS:
        scripts = f"script-src 'unsafe-inline' 'unsafe-eval' {_CDN}; style-src 'unsafe-inline' {_CDN}"
        policy = f"default-src 'none'; {scripts}; img-src data:; connect-src {_CDN}; frame-ancestors 'none'"
        policy = f"sandbox allow-scripts; {policy}"
    else:
        policy = f"sandbox; {inside}"
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "private, no-store",
    }
