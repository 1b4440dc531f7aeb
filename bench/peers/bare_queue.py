"""The least a durable queue can do over HTTP: the peer of `bench queue`.

Starlette and uvicorn in the versions ours uses, one SQLite file in WAL with synchronous=FULL, one thread for
it: a submit inserts its body and commits, a status reads one row. No keys, no tenants, no limits, no worker,
no log, no priorities, no webhooks. Arguments: port, folder.
"""

import asyncio
import json
import sqlite3
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
thread = ThreadPoolExecutor(1)
db = sqlite3.connect(FOLDER / "bare.sqlite3", isolation_level=None, check_same_thread=False)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute(
    "CREATE TABLE requests (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, body BLOB, state INTEGER DEFAULT 0)"
)


def insert(id: str, body: bytes) -> None:
    db.execute("INSERT INTO requests (id, body) VALUES (?, ?)", (id, body))  # and its own commit


def select(id: str) -> int:
    (state,) = db.execute("SELECT state FROM requests WHERE id = ?", (id,)).fetchone()
    return state


async def submit(request: Request) -> JSONResponse:
    body = await request.body()
    json.loads(body)
    id = str(uuid.uuid4())
    await asyncio.get_running_loop().run_in_executor(thread, insert, id, body)
    return JSONResponse({"status": "IN_QUEUE", "request_id": id})


async def status(request: Request) -> JSONResponse:
    id = request.path_params["id"]
    state = await asyncio.get_running_loop().run_in_executor(thread, select, id)
    return JSONResponse({"status": state, "request_id": id}, 202)


async def health(request: Request) -> JSONResponse:
    return JSONResponse({})


app = Starlette(
    routes=[
        Route("/health", health),
        Route("/{owner}/{app}", submit, methods=["POST"]),
        Route("/{owner}/{app}/requests/{id}/status", status),
    ]
)
uvicorn.run(app, port=PORT, loop="uvloop", http="httptools", access_log=False, log_level="warning")
