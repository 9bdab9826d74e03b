"""How the server is used, for programs: OpenAPI of its paths, AsyncAPI of its sessions, and the schemas that both share."""

from __future__ import annotations

from typing import Any

from npser import __version__, features
from npser.live.limits import Settings
from npser.live.protocol import LONGEST_GAP, PROTOCOL, SAMPLES, TOKEN_PROTOCOL
from npser.live.stream import SHORTEST

Schema = dict[str, Any]

PATHS = {
    "/v1/predict": "POST a recording: what is said of it, as JSON, lines of JSON, or CSV",
    "/v1/stream": f"WebSocket, subprotocol {PROTOCOL}: sound as it comes, answers as they come",
    "/v1/model": "the model: its labels, its licence, what is known of it, and the limits of this server",
    "/healthz": "whether the server lives",
    "/readyz": "whether it answers: 200, or 503",
    "/metrics": "counts, for Prometheus",
    "/openapi.json": "the paths, for programs",
    "/asyncapi.json": "the sessions, for programs",
    "/": "the page",
}


def _object(properties: Schema, optional: tuple[str, ...] = (), text: str = "") -> Schema:
    """With no other properties."""
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    found["required"] = [name for name in properties if name not in optional]
    return found | ({"description": text} if text else {})


def _message(kind: str, properties: Schema, optional: tuple[str, ...] = (), text: str = "") -> Schema:
    return _object({"type": {"const": kind}, **properties}, optional, text)


def _or_null(kind: str) -> Schema:
    return {"type": [kind, "null"]}


SECONDS: Schema = {"type": "number", "minimum": 0}
PROBABILITIES: Schema = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
GENDERS: Schema = {"anyOf": [PROBABILITIES, {"type": "null"}]}
ANSWER: Schema = {
    "emotion": _or_null("string"),
    "probabilities": PROBABILITIES,
    "gender": _or_null("string"),
    "gender_probabilities": GENDERS,
    "reason": _or_null("string") | {"description": "why there is no emotion"},
}
TEXT: Schema = {"type": "string"}
WINDOW = _object({"start": SECONDS, "end": SECONDS, **ANSWER}, text="An answer for a part of a recording")
TOTALS: Schema = {"received": SECONDS, "computed": SECONDS, "dropped": SECONDS}
LIMITS = _object(
    {name: {"type": "number"} for name in ("body_bytes", "sound_seconds", "session_seconds", "idle_seconds")}
    | {name: {"type": "number"} for name in ("message_bytes", "message_rate", "ahead_seconds")}
)
ABOUT: Schema = {
    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "network": TEXT,
    "emotions": {"type": "array", "items": TEXT},
    "genders": {"type": "array", "items": TEXT},
    "stream": {"type": "boolean", "description": "whether sessions are to be had: it hears nothing but speech"},
    "window_seconds": SECONDS,
}
SCHEMAS: dict[str, Schema] = {
    "Recording": _object(
        {"path": {"const": "-"}, **ANSWER, "seconds": SECONDS, "timeline": {"type": "array", "items": WINDOW}}, ("timeline",)
    ),
    "Line": _object({"path": {"const": "-"}, "start": SECONDS, "end": SECONDS, **ANSWER}, text="A window, in lines of JSON"),
    "Error": _object(
        {
            "type": {"const": "error"},
            "code": TEXT | {"description": "stays the same; the message does not"},
            "message": TEXT,
            "fatal": {"type": "boolean"},
            "request_id": TEXT,
        }
    ),
    "Model": _object(
        {
            **ABOUT,
            "name": TEXT,
            "version": TEXT,
            "protocol": {"const": PROTOCOL},
            "licence": _or_null("string"),
            "notices": {"type": "array", "items": TEXT},
            "corpora": {"type": "array", "items": TEXT},
            "scores": {"type": "object"},
            "limits": LIMITS,
        }
    ),
    "Status": _object({"status": {"enum": ["ok", "ready"]}}),
}
RECEIVED: dict[str, Schema] = {  # what the server says
    "session.created": _message(
        "session.created", {"session": TEXT, "protocol": {"const": PROTOCOL}, "model": _object(ABOUT), "limits": LIMITS}
    ),
    "speech.start": _message("speech.start", {"start": SECONDS}, text="Somebody begins to speak"),
    "measurement": _message(
        "measurement",
        {
            "start": SECONDS,
            "end": SECONDS,
            "trigger": {"enum": ["interval", "speech_ended"]},
            "final": {"type": "boolean", "description": "of all that somebody has said who is silent now"},
            **ANSWER,
        },
        text="Over the last seconds of speech, in seconds of the session; where there is no answer, emotion is null",
    ),
    "speech.end": _message("speech.end", {"end": SECONDS}),
    "progress": _message("progress", TOTALS, text="Seconds of sound, once a second"),
    "error": SCHEMAS["Error"],
    "session.closed": _message(
        "session.closed", {"reason": TEXT, **TOTALS, "measurements": {"type": "integer"}}, text="The last"
    ),
}
SENT: dict[str, Schema] = {  # what a client says
    "session.update": _message(
        "session.update",
        {
            "rate": {"type": "integer", "minimum": features.RATES[0], "maximum": features.RATES[1]},
            "format": {"enum": list(SAMPLES), "default": "s16le"},
            "every": {"type": "number", "minimum": SHORTEST, "description": "seconds of speech between answers", "default": 1},
            "min_confidence": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
            "adapt": {"type": "boolean", "default": False},
        },
        ("format", "every", "min_confidence", "adapt"),
        "Once, before the sound, which then comes as binary messages: samples of one channel",
    ),
    "flush": _message("flush", {}, text="Answer all that was heard, as if the sound ended here"),
    "gap": _message(
        "gap", {"seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_GAP}}, text="Sound was lost"
    ),
    "session.close": _message("session.close", {}, text="Answer all that was heard, and end"),
}


def openapi(prefix: str) -> Schema:
    """OpenAPI 3.1."""
    error = {"description": "An error", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}

    def answer(schema: str, text: str) -> Schema:
        return {"description": text, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}

    def text(kind: str, words: str) -> Schema:
        return {"description": words, "content": {kind: {"schema": TEXT}}}

    def get(path: str, found: Schema, **more: Schema) -> Schema:
        return {"get": {"summary": PATHS[path], "responses": {"200": found, **more, "default": error}}}

    lines = {"schema": {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Line", "Recording", "Error")]}}
    found = answer("Recording", "What is said of the recording")
    found["content"] |= {"application/x-ndjson": lines, "text/csv": {"schema": TEXT}}
    codes = ("400", "401", "403", "406", "408", "413", "415", "421", "422", "503", "504")
    post = {
        "summary": PATHS["/v1/predict"],
        "parameters": [
            {"name": "timeline", "in": "query", "schema": {"enum": ["", "1", "true", "0", "false"]}, "allowEmptyValue": True},
            {"name": "min_confidence", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 1}},
        ],
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {}}, "audio/*": {"schema": {}}}},
        "responses": {"200": found, **dict.fromkeys(codes, error), "default": error},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "npser", "version": __version__, "description": "The emotion of speech"},
        "servers": [{"url": prefix or "/"}],
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/predict": {"post": post},
            "/v1/model": get("/v1/model", answer("Model", "The model")),
            "/healthz": get("/healthz", answer("Status", "It lives")),
            "/readyz": get("/readyz", answer("Status", "It answers"), **{"503": error}),
            "/metrics": get("/metrics", text("text/plain", "Counts")),
            "/openapi.json": get("/openapi.json", {"description": "This", "content": {"application/json": {"schema": {}}}}),
            "/asyncapi.json": get(
                "/asyncapi.json", {"description": "AsyncAPI", "content": {"application/json": {"schema": {}}}}
            ),
            "/": get(
                "/", {"description": "The page", "content": {"text/html": {"schema": TEXT}, "text/plain": {"schema": TEXT}}}
            ),
        },
        "components": {"schemas": SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def asyncapi(prefix: str) -> Schema:
    """AsyncAPI 2.6."""
    messages = {name: {"name": name, "payload": schema} for name, schema in (SENT | RECEIVED).items()}
    sound = {"name": "sound", "contentType": "application/octet-stream", "summary": f"Samples, {' or '.join(SAMPLES)}, binary"}

    def of(names: dict[str, Schema]) -> list[Schema]:
        return [{"$ref": f"#/components/messages/{name}"} for name in names]

    channel = {
        "description": f"Subprotocol {PROTOCOL}; a token is another one, {TOKEN_PROTOCOL}TOKEN, or Authorization: Bearer TOKEN",
        "publish": {
            "summary": "What a client says",
            "message": {"oneOf": [*of(SENT), {"$ref": "#/components/messages/sound"}]},
        },
        "subscribe": {"summary": "What the server says", "message": {"oneOf": of(RECEIVED)}},
    }
    port = Settings().port
    return {
        "asyncapi": "2.6.0",
        "info": {"title": "npser", "version": __version__, "description": "The emotion of speech that goes on"},
        "servers": {"here": {"url": f"localhost:{port}{prefix}", "protocol": "ws"}},
        "channels": {"/v1/stream": channel},
        "components": {"messages": messages | {"sound": sound}},
    }
