"""The settings of the server: what it serves, where, to whom, and how much of everything it bears. All have a flag,
and a line in TOML. And what is said of what goes beyond them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npser import SHIPPED

MIB = 1 << 20
TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,200}")  # of these a subprotocol may consist as well


class Problem(ValueError):
    """What a client is told is wrong. code: a word that stays; status: of HTTP; close: of a session that ends with it."""

    def __init__(self, code: str, message: str, status: int = 400, close: int | None = None) -> None:
        super().__init__(message)
        self.code, self.status, self.close = code, status, close

    def body(self, request_id: str, fatal: bool = True) -> dict[str, Any]:
        """As JSON has it."""
        return {"type": "error", "code": self.code, "message": str(self), "fatal": fatal, "request_id": request_id}


def _setting(default: Any, text: str, least: float | None = None, most: float | None = None, shown: str | None = None) -> Any:
    """A field: least and most are of numbers; shown, of the help, in place of the default."""
    return field(default=default, metadata={"help": text, "least": least, "most": most, "shown": shown})


@dataclass(frozen=True)
class Settings:
    """Seconds, bytes and counts. A flag is a field's name with dashes."""

    model: str = _setting(SHIPPED, "model.safetensors of a run", shown="the one that comes with npser")
    host: str = _setting("127.0.0.1", "address to listen on; other than loopback needs --token or --no-token")
    port: int = _setting(8080, "port to listen on; 0: any that is free, which is printed", 0, 65535)
    workers: int = _setting(1, "processes behind the port", 1, 256)
    prefix: str = _setting("", "path below which all is served, such as /emotion behind a proxy", shown="none")
    token: str = _setting("", "file that holds a token, which clients must know", shown="none")
    no_token: bool = _setting(False, "serve everybody who reaches the address")
    allow_host: tuple[str, ...] = _setting(
        (), "name that clients may call this server by; repeatable", shown="addresses, localhost"
    )
    allow_origin: tuple[str, ...] = _setting(
        (), "origin of pages that may use it, such as https://a.example; repeatable", shown="its own"
    )
    certificate: str = _setting("", "PEM file with the certificate, for https", shown="none")
    key: str = _setting("", "PEM file with its key", shown="none")

    header_bytes: int = _setting(16384, "of the headers of a request", 1024)
    header_seconds: float = _setting(5.0, "until the headers of a request are there", 0.1)
    body_bytes: int = _setting(64 * MIB, "of an uploaded recording", 1)
    body_seconds: float = _setting(60.0, "until an upload is there", 0.1)
    sound_seconds: float = _setting(4 * 3600.0, "of a recording, decoded", 0.1)
    answer_seconds: float = _setting(300.0, "that the answer to an upload may take, and that a client may take to read it", 0.1)
    uploads: int = _setting(64, "uploads that are answered or wait for it; one more is told to come back", 1)
    connections: int = _setting(1000, "connections of a process; one more is closed at once", 1)
    connection_rate: int = _setting(
        100, "connections that an address may begin in a second; as many more wait for their turn; 0: any, as behind a proxy", 0
    )
    decoders: int = _setting(2, "processes that decode uploads and compute the network's input", 1, 64)
    decoder_bytes: int = _setting(1024 * MIB, "of memory of such a process", 128 * MIB)
    decoder_seconds: float = _setting(120.0, "of computing the input of a recording, and of waiting for a part of it", 0.1)

    sessions: int = _setting(64, "live sessions; one more is told to come back", 0)
    busy_share: float = _setting(
        0.9, "of the time that sessions keep the network busy; then one more is told to come back", 0, 1
    )
    session_seconds: float = _setting(3 * 3600.0, "that a session may last", 0.1)
    idle_seconds: float = _setting(30.0, "without a message of the client that end a session", 0.1)
    message_bytes: int = _setting(MIB, "of a message of a session", 1024)
    message_rate: float = _setting(500.0, "messages in a second, on average over the last ones, that end a session", 1)
    ahead_seconds: float = _setting(5.0, "of sound that a client may send before it can have been heard", 0.1)
    unread_seconds: float = _setting(1.0, "during which a client reads nothing of what waits for it, that end a session", 0.05)
    stop_seconds: float = _setting(4.0, "until what runs is cut off when the server is stopped", 0.1, 60)


FIELDS = {one.name: one for one in dataclasses.fields(Settings)}


def settings_of(flags: Mapping[str, Any], config: Path | None) -> Settings:
    """Flags that are given, over the lines of a TOML file, over the defaults. ValueError names the flag or the line."""
    values: dict[str, Any] = {}
    for name, value in (_lines(config) if config is not None else {}).items():
        if name not in FIELDS:
            raise ValueError(f"--config {config}: there is no setting {name!r}; expected some of {', '.join(FIELDS)}")
        values[name] = _value(f"--config {config}: {name}", name, value)
    values |= {name: _value(flag_of(name), name, value) for name, value in flags.items() if value is not None}
    found = Settings(**values)
    _check(found)
    return found


def flag_of(name: str) -> str:
    """A setting on the command line."""
    return "--" + name.replace("_", "-")


def _lines(config: Path) -> dict[str, Any]:
    import tomllib  # late, here and below: every command asks for the names of these settings

    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {config}: cannot be read ({error.strerror}); name a TOML file of settings") from None
    except ValueError as error:
        raise ValueError(f"--config {config}: is no TOML ({error}); expected lines such as sessions = 64") from None


def _value(where: str, name: str, value: Any) -> Any:
    """A value of the right kind, within its limits."""
    default, about = FIELDS[name].default, FIELDS[name].metadata
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{where} is {value!r}; expected a list of texts")
        return tuple(value)
    if isinstance(default, bool | str):
        if not isinstance(value, type(default)):
            raise ValueError(f"{where} is {value!r}; expected {'true or false' if isinstance(default, bool) else 'a text'}")
        return value
    kinds = int if isinstance(default, int) else (int, float)
    least, most = about["least"], about["most"]
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= (value if most is None else most):
        span = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
        raise ValueError(f"{where} is {value!r}; expected {'a whole number' if kinds is int else 'a number'}, {span}")
    return type(default)(value)


def _check(s: Settings) -> None:
    """What settings have to do with each other."""
    if s.token and s.no_token:
        raise ValueError("--token and --no-token: leave one of the two out")
    if not is_loopback(s.host) and not s.token and not s.no_token:
        raise ValueError(f"--host {s.host}: others can reach it; add --token FILE, or --no-token to serve whoever does")
    if bool(s.certificate) != bool(s.key):
        raise ValueError("--certificate and --key: https needs both")
    if s.prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", s.prefix):
        raise ValueError(f"--prefix {s.prefix}: expected a path such as /emotion")
    for origin in s.allow_origin:
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise ValueError(f"--allow-origin {origin}: expected scheme and host alone, such as https://a.example")


def is_loopback(host: str) -> bool:
    """Whether nobody else reaches an address."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_of(s: Settings) -> str | None:
    """The token that clients must know; None: they need none."""
    if not s.token:
        return None
    try:
        found = Path(s.token).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ValueError(f"--token {s.token}: cannot be read ({error.strerror}); name a file that holds a token") from None
    except UnicodeDecodeError:
        found = ""
    if not TOKEN.fullmatch(found):
        raise ValueError(
            f"--token {s.token}: expected 16 to 200 letters, digits and -._~ in the file, as of: openssl rand -hex 32"
        )
    return found


def is_own_name(host: str, s: Settings) -> bool:
    """Whether a Host header (without its port) means this server: an address cannot be made to lead elsewhere, a name can."""
    import ipaddress
    import socket

    name = host.strip("[]").lower().rstrip(".")
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return name in {"localhost", socket.gethostname().lower(), s.host.lower(), *(one.lower() for one in s.allow_host)}
