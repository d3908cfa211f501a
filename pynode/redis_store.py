"""The store that several facilitators share, in Redis (5 or later): one server, Sentinels, or a Cluster.

Does: implement ports.SharedStore: carry out questions in order, many in one round trip; pass on what facilitators tell
each other; connect again for as long as it is needed.
Does not: know what is in it. All keys have one hash tag, so that a Cluster keeps them at one server.

    {prefix}:identity        whose facilitators these are, hexadecimal
    {prefix}:nodes           hash: identity of a node -> its sealed record
    {prefix}:marks           hash: identity of a node -> "published:digest:holder:SOURCE"
    {prefix}:of:SOURCE       set: identities of the nodes of one source
    {prefix}:spent:NAME      sorted set: times of events that a limit counts
    {prefix}:decision        hash: "number" and "value" of the latest decision
    {prefix}:kept:NAME       a value that is kept for a while
    {prefix}:alive:NAME      a facilitator wrote lately
    {prefix}:all, :to:NAME   channels
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis import exceptions
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff

from convergence.driver import Driver
from convergence.effects import Failure
from convergence.facilitator.questions import (
    Beat,
    Drop,
    Keep,
    Kept,
    Latest,
    Propose,
    Put,
    Question,
    Read,
    Spend,
    Tell,
)
from convergence.facilitator.service import FacilitatorService
from convergence.facilitator.sharing import SILENT
from pynode.redis_address import RedisAddress

CONNECT_TIMEOUT = 3.0
COMMAND_TIMEOUT = 5.0
"""Seconds until a store that does not answer counts as lost."""
QUIET = 15.0
"""Seconds without a word on our channels, where our own beats come too, until the connection counts as lost."""
RETRY_FIRST, RETRY_MAX = 0.2, 5.0
"""Seconds until it is connected to again: twice as long each time, unless it was there for as long as the longest."""
MAX_BATCH = 256
"""Questions in one round trip."""
READ_AT_ONCE = 512
"""Records, about as many: 400 KB."""
MAX_QUEUED = 2048
"""Questions that wait. One more is refused at once."""

MARK = """
local mark = redis.call('HGET', KEYS[2], ARGV[1])
local published, digest, holder, source = string.match(mark or '', '^(%d+):(%x+):(%x*):(%x*)$')
"""
PUT = (
    MARK
    + """
if published then
  local newer = tonumber(published) - tonumber(ARGV[2])
  if newer > 0 or (newer == 0 and digest ~= ARGV[3]) then return 'stale' end
  if ARGV[8] ~= '*' and holder ~= ARGV[8] then return 'held' end
  if source ~= '' then redis.call('SREM', ARGV[10] .. source, ARGV[1]) end
else
  if ARGV[8] ~= '*' then return 'held' end
  if ARGV[11] ~= '' and redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[6]) then return 'crowded' end
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then return 'full' end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[7])
redis.call('HSET', KEYS[2], ARGV[1], table.concat({ARGV[2], ARGV[3], ARGV[4], ARGV[11]}, ':'))
if ARGV[11] ~= '' then redis.call('SADD', KEYS[3], ARGV[1]) end
redis.call('PUBLISH', ARGV[9], ARGV[7])
return 'ok'
"""
)
DROP = (
    MARK
    + """
if not mark then return 0 end
if published then
  if tonumber(published) > tonumber(ARGV[2]) then return 0 end
  if ARGV[4] ~= '*' and holder ~= ARGV[4] then return 0 end
  if source ~= '' then redis.call('SREM', ARGV[6] .. source, ARGV[1]) end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[5], ARGV[3])
return 1
"""
)
SPEND = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - tonumber(ARGV[2 * i + 1]))
  if redis.call('ZCARD', key) >= tonumber(ARGV[2 * i]) then return 0 end
end
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, now, ARGV[1])
  redis.call('PEXPIRE', key, ARGV[2 * i + 1])
end
return 1
"""
PROPOSE = """
local latest = tonumber(redis.call('HGET', KEYS[1], 'number') or '0')
local number, after = tonumber(ARGV[1]), tonumber(ARGV[3])
local begun = tonumber(redis.call('TIME')[1]) >= tonumber(ARGV[4])
if number > latest and (after < 0 or after == latest) and begun then
  redis.call('HSET', KEYS[1], 'number', ARGV[1], 'value', ARGV[2])
end
return redis.call('HGET', KEYS[1], 'value')
"""
SCRIPTS = (PUT, DROP, SPEND, PROPOSE)
LOST = (
    exceptions.AskError,
    exceptions.ClusterDownError,
    exceptions.NoScriptError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
)
"""How a server says that another one is to be asked, or this one anew."""
LEFT = "the connection ended"
FULL = "it is full: give it more memory (maxmemory)"
WORDS: dict[type[BaseException], str] = {
    exceptions.TimeoutError: "it does not answer",
    TimeoutError: "it does not answer",
    exceptions.OutOfMemoryError: FULL,
    MasterNotFoundError: "none of its Sentinels answers and knows a server of this name",
    exceptions.ReadOnlyError: "it is a copy, where nothing can be written: name the server itself, or its Sentinels",
}
TEXTS = {
    "command not allowed when used memory": FULL,
    "Authentication required": "it asks for a password: put user:password@ before its host",
    "WRONGTYPE": "others keep something under our keys: give this store another prefix (?prefix=NAME)",
    "unknown command 'SENTINEL'": "it is no Sentinel: the address of a server begins with redis://",
    "Cluster mode is not enabled": "it is no Cluster: the address of a server begins with redis://",
    "Hash slot not served": "its Cluster has no server for our keys",
}

log = logging.getLogger("pynode.redis")


class _LostError(Exception):
    """This connection is of no more use. The text is for people, without secrets."""


class RedisStore:
    """Implements ports.SharedStore for one facilitator."""

    def __init__(self, address: RedisAddress, service: FacilitatorService) -> None:
        assert service.sharing is not None
        self._address = address
        self._service = service
        self._name = service.sharing.name.hex()
        self._keys = f"{{{address.prefix}}}:"
        self._driver: Driver | None = None
        self._queue: deque[tuple[Question, Callable[[Any], None]]] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._connected = False
        self._closed = False
        self._shas: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, driver: Driver) -> None:
        """Connect, and report to this driver."""
        self._driver = driver
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Finish what waits, if the store lets us, then leave it, within COMMAND_TIMEOUT."""
        if self._connected:
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT):
                    await self._idle.wait()
            except TimeoutError:
                log.warning("the store does not take what is left")
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- ports.SharedStore

    def consult(self, question: object, reply: Callable[[Any], None]) -> None:
        assert isinstance(question, Question)
        if not self._connected:
            asyncio.get_running_loop().call_soon(reply, Failure("io", "the store cannot be reached"))
        elif len(self._queue) >= MAX_QUEUED:
            asyncio.get_running_loop().call_soon(reply, Failure("io", "the store is too slow"))
        else:
            self._queue.append((question, reply))
            self._idle.clear()
            self._more.set()

    # -- connections

    async def _run(self) -> None:
        pause, clock = RETRY_FIRST, asyncio.get_running_loop().time
        while True:
            served = float("inf")
            try:
                async with asyncio.timeout(None) as limit:
                    limit.reschedule(clock() + 2 * CONNECT_TIMEOUT + COMMAND_TIMEOUT)
                    client = await self._connect()
                    try:
                        await self._prepare(client)
                        async with client.pubsub() as listening:
                            await listening.subscribe(f"{self._keys}all", f"{self._keys}to:{self._name}")
                            for _ in range(2):
                                await listening.get_message(timeout=COMMAND_TIMEOUT)
                            limit.reschedule(None)
                            served = clock()
                            await self._serve(client, listening)
                    finally:
                        self._connected = False
                        await client.aclose()
            except Exception as error:  # its client raises more than it says, and we want the store back in any case
                self._tell_parted(error)
            finally:
                self._refuse_all()
            if clock() - served > RETRY_MAX:
                pause = RETRY_FIRST
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MAX)

    async def _connect(self) -> Redis:
        address = self._address
        options: dict[str, Any] = {
            "socket_timeout": COMMAND_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        if address.username is not None:
            options["username"] = address.username
        if address.password is not None:
            options["password"] = address.password
        if address.tls:
            options |= {"ssl": True} | ({"ssl_ca_certs": address.ca} if address.ca else {})
        if address.kind == "sentinel":
            each = {key: options[key] for key in ("socket_connect_timeout", "retry", "protocol")}
            each["socket_timeout"] = CONNECT_TIMEOUT
            sentinels: Any = Sentinel(address.hosts, sentinel_kwargs=each, **options)  # type: ignore[no-untyped-call]
            master: Redis = sentinels.master_for(address.service, db=address.db)
            return master
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            async with RedisCluster(startup_nodes=nodes, **options) as cluster:
                node = cluster.get_node_from_key(f"{self._keys}nodes")
            if node is None:
                raise _LostError("no server of the Cluster has our keys")
            return Redis(host=node.host, port=int(node.port), **options)
        if address.path is not None:
            return Redis(unix_socket_path=address.path, db=address.db, **options)
        host, port = address.hosts[0]
        return Redis(host=host, port=port, db=address.db, **options)

    async def _prepare(self, client: Redis) -> None:
        ours = self._service.identity.hex().encode()
        key = f"{self._keys}identity"
        theirs = await client.get(key)
        if theirs is None:
            await client.set(key, ours, nx=True)
            theirs = await client.get(key)
        if theirs != ours:
            raise _LostError(
                "it belongs to facilitators of another identity: give this one their keys.json, or the store another"
                " prefix"
            )
        if await _evicts(client):
            raise _LostError("it deletes what it is to keep when it is full: set its maxmemory-policy to noeviction")
        for script in SCRIPTS:
            self._shas[script] = await client.script_load(script)

    async def _serve(self, client: Redis, listening: Any) -> None:
        """Until the connection is lost: then it raises."""
        self._connected = True
        self._idle.set()
        driver = self._driver
        assert driver is not None
        driver.run(self._service.joined)
        both = [asyncio.ensure_future(task) for task in (self._work(client), self._listen(listening, driver))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            ended = await asyncio.gather(*both, return_exceptions=True)
        raise next((end for end in ended if isinstance(end, Exception)), _LostError("it is not used any more"))

    async def _listen(self, listening: Any, driver: Driver) -> None:
        while True:
            message = await listening.get_message(ignore_subscribe_messages=True, timeout=QUIET)
            if message is None:
                raise _LostError("it is silent")
            driver.run(partial(self._service.told, message["data"]))

    def _tell_parted(self, error: BaseException) -> None:
        reason = _words(error)
        log.debug("the store %s is lost: %s", self._address, reason)
        if self._driver is not None and not self._closed:
            self._driver.run(lambda now: self._service.parted(reason, now))

    def _refuse_all(self) -> None:
        waiting = list(self._queue)
        self._queue.clear()
        self._idle.set()
        for _, reply in waiting:
            reply(Failure("io", LEFT))

    # -- questions

    async def _work(self, client: Redis) -> None:
        while True:
            await self._more.wait()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
            if not batch:
                self._more.clear()
                self._idle.set()
                continue
            answers: list[Any] = []
            lost = Failure("io", LEFT)
            try:
                pipe = client.pipeline(transaction=False)
                counts = [self._command(pipe, question) for question, _ in batch]
                results = await pipe.execute(raise_on_error=False)
                for (question, _), count in zip(batch, counts, strict=True):
                    own, results = results[:count], results[count:]
                    answers.append(self._answer(question, own))
            except Exception as error:
                lost = Failure("io", _words(error))
                raise
            finally:
                answers += [lost] * (len(batch) - len(answers))
                for (_, reply), answer in zip(batch, answers, strict=True):
                    reply(answer)

    def _command(self, pipe: Any, question: Question) -> int:
        """Queue its commands. Returns how many."""
        keys = self._keys
        match question:
            case Put():
                self._script(
                    pipe,
                    PUT,
                    [f"{keys}nodes", f"{keys}marks", f"{keys}of:{question.source}"],
                    *(question.identity, question.published, question.digest, question.holder),
                    *(question.most, question.most_each, question.body, _only(question.only_from), f"{keys}all"),
                    *(f"{keys}of:", question.source),
                )
            case Drop():
                only = _only(question.only_from)
                arguments = question.identity, question.published, question.body, only, f"{keys}all", f"{keys}of:"
                self._script(pipe, DROP, [f"{keys}nodes", f"{keys}marks"], *arguments)
            case Read(after):
                pipe.hscan(f"{keys}nodes", after, count=READ_AT_ONCE)
            case Tell(to, body):
                pipe.publish(f"{keys}to:{to}" if to else f"{keys}all", body)
            case Beat(body):
                pipe.publish(f"{keys}all", body)
                pipe.set(f"{keys}alive:{self._name}", b"", px=int(SILENT * 1000))
                pipe.get(f"{keys}identity")
                return 3
            case Spend(counters):
                names = [f"{keys}spent:{counter.name}" for counter in counters]
                limits = [part for counter in counters for part in (counter.limit, int(counter.window * 1000))]
                self._script(pipe, SPEND, names, os.urandom(8), *limits)
            case Propose(number, value, after, begins):
                latest = -1 if after is None else after
                self._script(pipe, PROPOSE, [f"{keys}decision"], number, value, latest, begins)
            case Latest():
                pipe.hget(f"{keys}decision", "value")
            case Keep(name, value, lifetime):
                pipe.set(f"{keys}kept:{name}", value, px=int(lifetime * 1000))
            case Kept(name):
                pipe.get(f"{keys}kept:{name}")
        return 1

    def _script(self, pipe: Any, script: str, keys: Sequence[str], *arguments: Any) -> None:
        pipe.evalsha(self._shas[script], len(keys), *keys, *arguments)

    def _answer(self, question: Question, results: list[Any]) -> Any:
        error = next((result for result in results if isinstance(result, Exception)), None)
        if error is not None:
            if isinstance(error, LOST) or not isinstance(error, exceptions.ResponseError):
                raise _LostError(_words(error))
            return Failure("full" if _words(error) == FULL else "io", _words(error))
        if isinstance(question, Beat) and results[2] != self._service.identity.hex().encode():
            raise _LostError("somebody has deleted what was there")
        match question:
            case Put():
                return results[0].decode()
            case Drop() | Spend():
                return bool(results[0])
            case Read():
                after, records = results[0]
                return list(records.values()), after
            case Tell():
                return None if self._address.kind == "cluster" else results[0]
            case Beat() | Keep():
                return None
        return results[0]


def _only(holder: str | None) -> str:
    return "*" if holder is None else holder


def _words(error: BaseException) -> str:
    """For people, without secrets."""
    if not isinstance(error, (exceptions.RedisError, exceptions.RedisClusterException, _LostError, OSError)):
        return type(error).__name__  # who knows what it says
    text = (
        " ".join(str(error).split()).partition(", with args")[0][:200] or type(error).__name__
    )  # a password may be one
    known = (words for kind, words in WORDS.items() if isinstance(error, kind))
    return next(known, None) or next((words for part, words in TEXTS.items() if part in text), text)


async def _evicts(client: Redis) -> bool:
    """Whether the server, once full, deletes keys of its choice. Where we may not ask, it is believed not to."""
    try:
        memory = await client.info("memory")
    except exceptions.ResponseError:
        return False
    return bool(memory.get("maxmemory")) and str(memory.get("maxmemory_policy")).startswith("allkeys")
