"""Serves nanobot as OpenAI's chat API: what its own server leaves out, beside its own loop.

Its own server listens on the loopback address alone unless its callers hold a token of
its own, takes a single message without a history, and has no path that says when it is
ready. Who calls is the gateway's to decide, so there is no token here.

    GET  /health, /ready       whether it is alive, and usable
    GET  /v1/models            the one model
    POST /v1/chat/completions  a turn, with or without `stream`

A request with one message of the user's goes on with the agent's own conversation
(`session_id` or `user` names another one), which it keeps in `/data`. One that brings a
history is about that history alone, and nothing of it is kept.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
import uuid
from pathlib import Path

from aiohttp import web
from loguru import logger
from nanobot.agent.hook import AgentHook
from nanobot.agent.loop import AgentLoop
from nanobot.agent.tools.mcp import MCPProvider
from nanobot.agent.tools.registry import ToolRegistry
from nanobot.bus.queue import MessageBus
from nanobot.config.loader import load_config, resolve_config_env_vars, set_config_path
from nanobot.config.schema import MCPServerConfig
from nanobot.session.manager import SessionManager
from nanobot.utils import helpers
from nanobot.utils.helpers import sync_workspace_templates

# Bytes of a request at most.
MAX_BODY = 8 << 20
# Turns that wait or work at once.
MAX_TURNS = 16
# Seconds that a turn may take.
TURN = 900
# Seconds between two signs of life while a turn's tools work.
ALIVE = 15
# Characters of a conversation's name.
MAX_SESSION = 100
# What is said when the model's server was not named.
NO_MODEL = "no model is configured: spawn with OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL in env"

LOOP = web.AppKey("loop", AgentLoop)
MODEL = web.AppKey("model", str)
TURNS = web.AppKey("turns", asyncio.Semaphore)


class Refused(Exception):
    """A request that cannot be answered, as OpenAI says it."""

    def __init__(self, status, message, kind="invalid_request_error", param=None):
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def body(self):
        """The error in OpenAI's shape."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": None}}


class Heard(AgentHook):
    """What a turn used, and how it ended."""

    def __init__(self):
        super().__init__()
        self.usage = None
        self.failure = None

    async def after_run(self, context):
        """Called once, at the turn's end."""
        self.usage = context.usage
        self.failure = getattr(context, "error", None)


def text_of(message, at):
    """The text of a message, or of the parts of one."""
    content = message.get("content")
    if content is None and message.get("role") == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    raise Refused(400, f"messages[{at}].content must be a text, or parts of the type text", param="messages")


def asked(body):
    """What a request asks: the turns before, and the text of this one."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages must be a list of at least one message", param="messages")
    turns = []
    system = []
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("system", "developer"):
            system.append(text_of(message, at))
        elif role in ("user", "assistant"):
            turns.append({"role": role, "content": text_of(message, at)})
        else:
            raise Refused(
                400, f"messages[{at}].role must be system, developer, user or assistant", param="messages"
            )
    if not turns or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        raise Refused(400, "the last message must be the user's, with a text", param="messages")
    text = "\n\n".join([*system, turns[-1]["content"]])
    return turns[:-1], text


def session_of(body):
    """The name of the conversation that a request goes on with."""
    name = body.get("session_id") or body.get("user") or "default"
    if not isinstance(name, str) or len(name) > MAX_SESSION or not name.isprintable():
        raise Refused(400, f"session_id must be a text of at most {MAX_SESSION} printable characters", param="session_id")
    return f"api:{name}"


def chunk(answer, delta, finish=None):
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event = {**answer, "object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def usage_of(heard):
    """What a turn used, as OpenAI counts."""
    used = heard.usage
    counts = (used.input_tokens, used.output_tokens, used.total_tokens) if used else (0, 0, 0)
    return dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), counts, strict=True))


async def turn(app, body, heard, on_stream=None):
    """Does one turn, and returns what the agent says."""
    history, text = asked(body)
    loop = app[LOOP]
    key = f"once:{uuid.uuid4().hex}" if history else session_of(body)
    if history:
        session = loop.sessions.get_or_create_transient(key)
        for message in history:
            session.add_message(message["role"], message["content"])
    # What is not kept would otherwise tell neither what it used nor how it failed.
    how = {"_run_extra_hooks_for_ephemeral": True} if history else {}
    if on_stream:
        how["on_stream"] = on_stream
    try:
        async with asyncio.timeout(TURN):
            said = await loop.process_direct(
                content=text, session_key=key, channel="api", chat_id=key, hooks=[heard], **how
            )
    except TimeoutError as slow:
        raise Refused(504, f"the turn took more than {TURN} s", "server_error") from slow
    if heard.failure:
        raise Refused(502, f"the model's server: {heard.failure}", "upstream_error")
    return (said.content if said else "") or ""


async def completions(request):
    """POST /v1/chat/completions"""
    try:
        body = await request.json()
    except (ValueError, UnicodeDecodeError) as odd:
        raise Refused(400, "the body must be JSON") from odd
    if not isinstance(body, dict):
        raise Refused(400, "the body must be a JSON object")
    asked(body), session_of(body)
    if not request.app[MODEL]:
        raise Refused(503, NO_MODEL, "model_not_configured")
    if request.app[TURNS].locked():
        raise Refused(429, f"{MAX_TURNS} turns are under way: try again later", "rate_limit_error")
    answer = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.app[MODEL]}
    async with request.app[TURNS]:
        if body.get("stream"):
            return await streamed(request, body, answer)
        heard = Heard()
        text = await turn(request.app, body, heard)
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return web.json_response({**answer, "object": "chat.completion", "choices": [choice], "usage": usage_of(heard)})


async def streamed(request, body, answer):
    """The same, as events."""
    heard, pieces = Heard(), asyncio.Queue()
    task = asyncio.create_task(turn(request.app, body, heard, pieces.put))
    task.add_done_callback(lambda _: pieces.put_nowait(None))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    await response.write(chunk(answer, {"role": "assistant", "content": ""}))
    said = False
    try:
        while True:
            try:
                piece = await asyncio.wait_for(pieces.get(), ALIVE)
            except TimeoutError:
                await response.write(b": the turn goes on\n\n")
                continue
            if piece is None:
                break
            if piece:
                said = True
                await response.write(chunk(answer, {"content": piece}))
        try:
            text = task.result()
        except Refused as refused:
            await response.write(f"data: {json.dumps(refused.body())}\n\n".encode())
            return response
        except Exception:
            logger.exception("a turn failed")
            failed = Refused(500, "the agent failed; its log says how", "server_error")
            await response.write(f"data: {json.dumps(failed.body())}\n\n".encode())
            return response
        if text and not said:
            await response.write(chunk(answer, {"content": text}))
        end = chunk(answer, {}, "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            used = {**answer, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(heard)}
            end += f"data: {json.dumps(used)}\n\n".encode()
        await response.write(end + b"data: [DONE]\n\n")
        return response
    finally:
        # Whoever asked is gone.
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def models(request):
    """GET /v1/models"""
    names = [request.app[MODEL]] if request.app[MODEL] else []
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "palatine"} for name in names]
    return web.json_response({"object": "list", "data": listed})


async def well(_):
    """GET /health and /ready"""
    return web.json_response({"status": "ok"})


@web.middleware
async def refusals(request, handler):
    """Says in OpenAI's shape what went wrong."""
    try:
        return await handler(request)
    except Refused as refused:
        return web.json_response(refused.body(), status=refused.status)
    except web.HTTPException as http:
        return web.json_response(Refused(http.status, http.reason).body(), status=http.status)
    except Exception:
        logger.exception("a request failed")
        failed = Refused(500, "the agent failed; its log says how", "server_error")
        return web.json_response(failed.body(), status=500)


def tool_servers():
    """The servers of tools that the image brings, by name, as `mcpServers` of nanobot's configuration has them."""
    text = os.environ.get("AGENT_MCP_SERVERS") or "{}"
    try:
        return {name: MCPServerConfig(**server) for name, server in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as odd:
        raise SystemExit(f"AGENT_MCP_SERVERS is no JSON object of servers by name: {odd}") from odd


def configured(state):
    """nanobot's configuration: the owner's own in `.nanobot`, under what the environment says."""
    path = state / ".nanobot" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    set_config_path(path)
    config = resolve_config_env_vars(load_config(path))
    given = {name: os.environ.get(f"OPENAI_{name}", "").strip() for name in ("BASE_URL", "API_KEY", "MODEL")}
    defaults = config.agents.defaults
    defaults.workspace = str(state / "workspace")
    config.tools.mcp_servers = {**tool_servers(), **config.tools.mcp_servers}
    if given["BASE_URL"]:
        defaults.provider = "custom"
        config.providers.custom.api_base = given["BASE_URL"]
        config.providers.custom.api_key = given["API_KEY"] or "none"
    elif given["API_KEY"]:
        defaults.provider = "openai"
        config.providers.openai.api_key = given["API_KEY"]
    if given["MODEL"]:
        defaults.model_preset, defaults.model = None, given["MODEL"]
    named = given["MODEL"] and (given["BASE_URL"] or given["API_KEY"])
    return config, bool(named) or path.exists()


def application(state):
    """The server, with the agent behind it."""
    config, has_model = configured(state)
    if not has_model:
        # It must be there to be worked with, and says at each turn what is missing.
        config.agents.defaults.provider = "custom"
        config.providers.custom.api_base, config.providers.custom.api_key = "http://127.0.0.1:9", "none"
    sync_workspace_templates(config.workspace_path, silent=True)
    tools = ToolRegistry()
    connected = MCPProvider.from_config(config, tools)
    sessions = SessionManager(config.workspace_path, sessions_root=state / ".nanobot" / "sessions")
    loop = AgentLoop.from_config(config, MessageBus(), session_manager=sessions, tool_registry=tools)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[refusals])
    app[LOOP], app[TURNS] = loop, asyncio.Semaphore(MAX_TURNS)
    app[MODEL] = config.resolve_preset().model if has_model else ""
    app.router.add_post("/v1/chat/completions", completions)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", well)
    app.router.add_get("/ready", well)

    async def begin(_):
        await connected.connect()

    async def end(_):
        await loop.aclose()
        await connected.aclose()

    app.on_startup.append(begin)
    app.on_cleanup.append(end)
    return app


def no_vocabulary():
    """nanobot counts tokens by a vocabulary that it would fetch at its first turn, from a
    place that a guest may not reach; without one it counts bytes."""
    raise OSError("no vocabulary is fetched here")


def main():
    """Serves until it is asked to end."""
    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{time:YYYY-MM-DDTHH:mm:ss} {level} {message}")
    helpers._get_token_encoding = no_vocabulary
    state = Path(os.environ.get("STATE_DIR") or "/data")
    (state / "workspace").mkdir(parents=True, exist_ok=True)
    os.chdir(state / "workspace")
    port = int(os.environ.get("PORT") or "8080")
    print(f"{os.environ.get('AGENT_NAME') or 'agent-nano'} listens on port {port}", flush=True)
    web.run_app(application(state), host="0.0.0.0", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
