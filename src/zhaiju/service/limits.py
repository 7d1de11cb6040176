"""What a service accepts: its settings, the errors it answers with, who may come in and how often."""

from __future__ import annotations

import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

from zhaiju.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLIENTS = 10_000  # that a rate is kept for; whoever was away longest is forgotten first
UPLOADS = 4  # at a time, since each may be large
RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a service.

    Attributes:
        queue: Requests that it works on or that wait; more are refused with 503.
        deadline: Seconds that a request may take; then 504.
        patience: Seconds that a client may take to send the head of a request, as many for its body (uploads have the
            deadline), and as many in which it takes nothing of its answer.
        connections: Connections that may be open; more are answered 503 and closed.
        window_ms: Milliseconds that an idle engine waits for company of the first request.
        batch_tokens: Tokens computed at once, padding included; the most that a short request waits for.
        grace: Seconds that a stop waits for what was accepted.
        max_body: Bytes of a request.
        max_upload: Bytes of a request that adds documents.
        max_question: Characters of a question.
        max_text: Characters of an utterance, and words of one.
        max_context: Characters of a paragraph.
        max_contexts: Paragraphs of a question.
        max_batch: Questions or utterances of a batch.
        uploads: Documents may be added and deleted.
        tokens: Bearer tokens, one of which a request must have; none: it needs none.
        rate: Requests a second that a client (its token, else its address) may make on average; None: any number.
        burst: How many at once after a pause; None: those of two seconds.
        hosts: Names that a request may address the service by; none: any. Without a token, a browser that was led to
            a loopback address under another name is so kept out.
        cors: Origins whose pages may call the service from a browser.
        log_texts: Log the texts of requests.
    """

    queue: int = 40  # the starter on two cores is through with them in two seconds
    deadline: float = 30.0
    patience: float = 10.0
    connections: int = 512
    window_ms: float = 2.0
    batch_tokens: int = 4096
    grace: float = 30.0
    max_body: int = 1 << 20
    max_upload: int = 32 << 20
    max_question: int = 1_000
    max_text: int = 10_000
    max_context: int = 100_000
    max_contexts: int = 100
    max_batch: int = 64
    uploads: bool = False
    tokens: tuple[str, ...] = field(default=(), repr=False)
    rate: float | None = None
    burst: int | None = None
    hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    log_texts: bool = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if type(value) not in (int, float) or (entry.name == "window_ms" and value == 0):
                continue
            if not 0 < value < math.inf:
                raise ConfigError(f"{entry.name} is {value:g}, expected a number above 0")
        for token in self.tokens:
            if not token.isascii() or token.split() != [token]:
                raise ConfigError("a token is ASCII without white space")


class RequestError(Exception):
    """A request that is refused, as it is told to the client.

    Args:
        status: The HTTP status.
        code: A word for programs.
        message: A line for people.
        field: What is at fault in the request, as "items[2].question".
        retry: Seconds after which to try again.
    """

    def __init__(
        self, status: int, code: str, message: str, *, field: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.retry = retry

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """What is answered."""
        error = {"code": self.code, "message": self.message}
        return {"error": error if self.field is None else error | {"field": self.field}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {} if self.retry is None else {"Retry-After": str(self.retry)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def overloaded() -> RequestError:
    """The error past a full queue."""
    return RequestError(503, "overloaded", "too many requests at a time; try again", retry=RETRY_SECONDS)


def at_most(found: int, most: int, what: str, name: str) -> None:
    """Refuse a field that holds more than it may."""
    if found > most:
        raise RequestError(422, "too_long", f"{found:,} {what}, expected at most {most:,}", field=name)


class Gate:
    """Counts who is inside; used by the event loop only.

    Args:
        most: How many may be.
    """

    def __init__(self, most: int) -> None:
        self.inside = 0
        self._most = most

    @property
    def is_full(self) -> bool:
        """Whether as many are inside as may be."""
        return self.inside >= self._most

    def enter(self) -> None:
        """Raise an error if it is full."""
        if self.is_full:
            raise overloaded()
        self.inside += 1

    def leave(self) -> None:
        """Make room."""
        self.inside -= 1


def client_token(tokens: Sequence[str], authorization: bytes) -> str:
    """Which of the tokens a request has; the comparison takes as long whichever it is.

    Raises:
        RequestError: none of them.
    """
    scheme, _, given = authorization.partition(b" ")
    found = None
    for token in tokens:
        if hmac.compare_digest(token.encode(), given.strip()) and scheme.lower() == b"bearer":
            found = token
    if found is None:
        raise RequestError(401, "unauthorized", "a bearer token is needed: Authorization: Bearer …")
    return found


def check_host(hosts: Sequence[str], host: bytes) -> None:
    """Refuse a request that addresses the service by a name that is not its own."""
    name = host.decode("latin-1").lower()
    bare = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if hosts and bare not in hosts:
        raise RequestError(421, "wrong_host", "this service is not addressed by that name; see --allow-host")


class Rate:
    """A token bucket for each client.

    Args:
        rate: Requests a second.
        burst: How many at once.
        clock: Seconds.
    """

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Let a client make a request.

        Raises:
            RequestError: it made too many.
        """
        now = self._clock()
        left, before = self._buckets.pop(client, (float(self._burst), now))
        left = min(float(self._burst), left + (now - before) * self._rate)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            wait = max(1, math.ceil((1 - left) / self._rate))
            raise RequestError(429, "too_many_requests", "too many requests from this client", retry=wait)
