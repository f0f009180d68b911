"""One model version as the server serves it: decoded requests in, encoded answers out, its lane between.

Knows the pipeline, the two body formats and the lane; not the sockets, the routes or the repository.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from onward.errors import (
    Cancelled,
    DeadlineExceeded,
    MalformedBody,
    OnwardError,
    WrongShape,
)
from onward.execute.batch import Column, collate
from onward.execute.scheduler import NEW, NORMAL, UNKNOWN
from onward.pipeline import Pipeline
from onward.prepare.tabular import TablePreparation
from onward.runners.serve import plain
from onward.runners.serve.exchange import Exchange, priority_of, timeout_s
from onward.runners.serve.lane import Lane, answer
from onward.runners.serve.oip import InferDecoder, InferRequest, field_specs
from onward.runners.serve.oip_answer import InferEncoder
from onward.runners.serve.request import Outputs, Request, Unprepared, Waiting
from onward.runners.serve.speed import INLINE_BELOW_S, Speed
from onward.runners.serve.traces import Source
from onward.telemetry import ModelMetrics
from onward.types import Array, Field, Item, Prepared, Result

if TYPE_CHECKING:  # what decides is imported only where a package has a policy
    from onward.runners.serve.decider import Decider
    from onward.runners.serve.entities import Entities
    from onward.runners.serve.talker import Talker

__all__ = ["ServedModel", "Speed"]

# Bodies up to this size are like the examples that preparation was measured with.
_PREPARE_INLINE_BYTES = 16 << 10
_encode = msgspec.json.Encoder().encode


class ServedModel:
    """A warm pipeline with its queue, answering V2 and plain requests. Made and used on the event loop."""

    def __init__(self, pipeline: Pipeline, speed: Speed, pool: Executor) -> None:
        manifest = pipeline.manifest
        self.pipeline = pipeline
        self.id = pipeline.package.id
        self.signature = pipeline.signature
        self.metrics = ModelMetrics(self.id.name, self.id.version)
        outputs = self.signature.tensor_outputs
        names = [field.name for field in self.signature.outputs if field.name in {spec.name for spec in outputs}]
        self.decoder = InferDecoder(
            self.signature.tensor_inputs, field_specs(self.signature.inputs), names, max_rows=manifest.limits.rows
        )
        self.encoder = InferEncoder(self.id.name, self.id.version, outputs)
        # What a package's own source or a tensor of free size takes depends on the input: it never runs on the loop.
        steady = manifest.execute.backend == "onnx" and self.decoder.fixed_shapes
        inline = steady and speed.batch_s < INLINE_BELOW_S
        self.lane = Lane(pipeline, self.metrics, inline=inline)
        shapes = None if pipeline.invariant is None else pipeline.invariant.shapes
        self.lane.source = Source(package=self.id, shapes=shapes)
        self.speed = speed
        # Set before the first request, where the package has a policy, or features of entities.
        self.decider: Decider | Talker | None = None
        self.entities: Entities | None = None
        self._pool = pool
        media = any(field.content in ("image", "audio") for field in self.signature.inputs)
        self._prepare_inline = speed.prepare_s < INLINE_BELOW_S and not media
        # Only where the shapes are known before: they say which requests may share a batch.
        self._prepare_late = self.lane.prepares and self.decoder.fixed_shapes
        self._deadline_s = manifest.limits.deadline_ms / 1000
        self._max_rows = manifest.limits.rows
        self._answer_tail = b',"package":%b,"version":%b,"request_id":"' % (
            _encode(self.id.name), _encode(self.id.version),
        )  # fmt: skip

    # --- Open Inference Protocol V2 ---

    def handle_infer(self, exchange: Exchange) -> None:
        """Answer `POST /v2/models/…/infer`."""
        length = exchange.headers.get(b"inference-header-content-length")
        try:
            request = self.decoder.decode(exchange.body, None if length is None else _whole(length))
            fetches = request.outputs or self.pipeline.default_fetches
            deadline_s = self._deadline(exchange)
            if request.priority is not None:
                exchange.priority = request.priority
            if request.of_fields:
                then = partial(self._queue_infer, exchange, request, fetches, deadline_s)
                self._prepare(exchange, _items(request, self.signature.inputs), deadline_s, then)
            else:
                self._queue_infer(exchange, request, fetches, deadline_s, request.columns, 0)
        except OnwardError as error:
            self.metrics.fail(error.code)
            raise

    def _queue_infer(
        self,
        exchange: Exchange,
        request: InferRequest,
        fetches: tuple[str, ...],
        deadline_s: float,
        columns: Mapping[str, Column],
        length: int,
    ) -> None:
        key, length = self._key(columns, fetches, length)
        work = _Infer(columns, fetches, request.rows, length, key, deadline_s)
        work.request = request
        self._submit(exchange, work)

    # --- What people have: JSON fields, text, an image ---

    def handle_plain(self, exchange: Exchange) -> None:
        """Answer `POST /models/…`."""
        try:
            deadline_s = self._deadline(exchange)
            outputs = plain.requested_outputs(exchange.query)
            fetches = self.pipeline.fetches(outputs) if outputs else self.pipeline.default_fetches
            content_type = exchange.headers.get(b"content-type", b"application/json").decode("latin-1")
            table = self.pipeline.prepare.table
            row = self._table_row(table, content_type, exchange.body) if table is not None else None
            if row is not None and table is not None:
                call = plain.Call(items=(), many=False, outputs=outputs)
                self._queue_plain(exchange, call, 1, fetches, deadline_s, {table.output: row}, 0)
                return
            items, many = plain.read_items(content_type, exchange.body, self.signature.inputs, max_rows=self._max_rows)
            self._answer_items(exchange, plain.Call(items=items, many=many, outputs=outputs), fetches, deadline_s)
        except OnwardError as error:
            self.metrics.fail(error.code)
            raise

    def handle_form(self, exchange: Exchange, item: Item) -> None:
        """Answer an item that came as a form."""
        try:
            deadline_s = self._deadline(exchange)
            outputs = plain.requested_outputs(exchange.query)
            fetches = self.pipeline.fetches(outputs) if outputs else self.pipeline.default_fetches
            self._answer_items(exchange, plain.Call(items=[item], many=False, outputs=outputs), fetches, deadline_s)
        except OnwardError as error:
            self.metrics.fail(error.code)
            raise

    def _answer_items(self, exchange: Exchange, call: plain.Call, fetches: tuple[str, ...], deadline_s: float) -> None:
        if self.decider is not None:
            call = self.decider.take(exchange, call)
        then = partial(self._queue_plain, exchange, call, len(call.items), fetches, deadline_s)
        if self.entities is None:
            self._prepare(exchange, call.items, deadline_s, then)
        else:
            go_on = partial(self._prepare, exchange, deadline_s=deadline_s, then=then)
            self.entities.look_up(exchange, call.items, go_on)

    def _table_row(self, table: TablePreparation, content_type: str, body: bytes | bytearray) -> list[float] | None:
        """The short way for a table: JSON straight into a row, unless policy or profile want to see the item."""
        if self.decider is not None or self.entities is not None or not content_type.startswith("application/json"):
            return None
        return table.decode_row(bytes(body))

    def _queue_plain(
        self,
        exchange: Exchange,
        call: plain.Call,
        rows: int,
        fetches: tuple[str, ...],
        deadline_s: float,
        columns: Mapping[str, Column],
        length: int,
    ) -> None:
        key, length = self._key(columns, fetches, length)
        work = _Plain(columns, fetches, rows, length, key, deadline_s)
        work.call = call
        self._submit(exchange, work)

    def answers(self, call: plain.Call, outputs: Outputs, start: int, rows: int) -> list[dict[str, Any]]:
        """What the model says of each item of a plain request, as JSON can hold it."""
        slices = (outputs.slice(start + index, 1) for index in range(rows))
        # There are none where the body became a row at once.
        items: Sequence[Item | None] = call.items or [None] * rows
        return [
            plain.readable(self._result(tensors, call.outputs, item))
            for tensors, item in zip(slices, items, strict=True)
        ]

    def answer_body(self, call: plain.Call, outputs: Outputs, start: int, rows: int, request_id: bytes) -> bytes:
        """The answers of one plain request as JSON."""
        answers = self.answers(call, outputs, start, rows)
        body = b'{"answers":' + _encode(answers) if call.many else b'{"answer":' + _encode(answers[0])
        return b"".join([body, self._answer_tail, request_id, b'"}'])

    async def answer(
        self, items: Sequence[Item], outputs: Sequence[str] = (), *, deadline_s: float = math.inf,
        request_id: bytes = b"", priority: int = NORMAL,
    ) -> list[Result]:  # fmt: skip
        """Answer items from a coroutine (the ASGI routes), through the same queue, by `deadline_s` at the latest."""
        fetches = self.pipeline.fetches(outputs)
        arrived_s = time.monotonic()
        deadline_s = min(deadline_s, arrived_s + self._deadline_s)
        loop = asyncio.get_running_loop()
        size = sum(len(value) for item in items for value in item.values() if isinstance(value, bytes))
        if self._prepare_inline and len(items) == 1 and size <= _PREPARE_INLINE_BYTES:
            columns, length = self._prepare_columns(items)
        else:
            self.lane.admit(len(items), size, priority=priority)
            try:
                columns, length = await loop.run_in_executor(self._pool, self._prepare_in_time, items, deadline_s, None)
            finally:
                self.lane.admit(-len(items), -size)
        key, length = self._key(columns, fetches, length)
        work = Waiting(columns, fetches, len(items), length, key, deadline_s, priority)
        work.request_id = request_id
        tensors = await answer(self.lane, work, arrived_s)
        slices = ({name: rows[index : index + 1] for name, rows in tensors.items()} for index in range(len(items)))
        return [self._result(rows, outputs, item) for rows, item in zip(slices, items, strict=True)]

    def _result(self, tensors: Mapping[str, Array], outputs: Sequence[str], item: Item | None) -> Result:
        """What the model says of one item; what is decided on it is the decider's."""
        answer = self.pipeline.generate(tensors, frozenset(outputs), item)
        return Result(answer=answer, tensors=tensors, package=self.id)

    # --- Both ---

    def _deadline(self, exchange: Exchange) -> float:
        """When the answer is of no use any more; its priority is read on the way."""
        priority = exchange.headers.get(b"x-onward-priority")
        if priority is not None:
            exchange.priority = priority_of(priority)
        value = exchange.headers.get(b"x-onward-timeout-ms")
        return exchange.arrived_s + (self._deadline_s if value is None else timeout_s(value, self._deadline_s))

    def _submit(self, exchange: Exchange, work: _Answering) -> None:
        if exchange.disconnected:
            self.metrics.drop("cancelled")
            return
        work.served = self
        work.exchange = exchange
        work.request_id = exchange.request_id
        work.priority = exchange.priority
        work.standing = exchange.standing
        exchange.work = work
        self.lane.submit(work, exchange.arrived_s)

    def _prepare(
        self, exchange: Exchange, items: Sequence[Item], deadline_s: float,
        then: Callable[[Mapping[str, Column], int], None],
    ) -> None:  # fmt: skip
        """Prepare items here when that is quick, else on the pool, and go on with their columns on the loop."""
        rows, size = len(items), len(exchange.body)
        if self._prepare_inline and rows == 1 and size <= _PREPARE_INLINE_BYTES:
            then(*self._prepare_columns(items))
            return
        if self._prepare_late:
            then(Unprepared(lambda: self._prepare_columns(items)[0], size), 0)
            return
        self.lane.admit(rows, size, priority=exchange.priority, standing=exchange.standing)
        if exchange.standing == NEW:
            exchange.standing = UNKNOWN  # it has been let in
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, self._prepare_in_time, items, deadline_s, exchange)

        def done(future: asyncio.Future[tuple[dict[str, Array], int]]) -> None:
            self.lane.admit(-rows, -size)
            try:
                then(*future.result())
            except Cancelled:
                self.metrics.drop("cancelled")
            except DeadlineExceeded as error:
                self.metrics.drop("expired")
                exchange.fail(error)
            except OnwardError as error:
                self.metrics.fail(error.code)
                exchange.fail(error)
            except Exception as error:  # nobody else would answer
                exchange.crash(error)

        future.add_done_callback(done)

    def _prepare_in_time(
        self, items: Sequence[Item], deadline_s: float, exchange: Exchange | None
    ) -> tuple[dict[str, Array], int]:
        """Prepare on the pool, unless nobody waits any more by the time that it is these items' turn."""
        if exchange is not None and exchange.disconnected:
            raise Cancelled
        if time.monotonic() >= deadline_s:
            raise DeadlineExceeded
        return self._prepare_columns(items)

    def _prepare_columns(self, items: Sequence[Item]) -> tuple[dict[str, Array], int]:
        prepared: list[Prepared] = []
        for index, item in enumerate(items):
            try:
                prepared.append(self.pipeline.prepare(item))
            except OnwardError as error:
                if len(items) > 1:
                    error.where = f"[{index}] {error.where}".rstrip()
                raise
        if len(prepared) == 1:
            return prepared[0].tensors, prepared[0].length
        rows = [one.rows for one in prepared]
        columns = collate(
            self.signature.tensor_inputs, [one.tensors for one in prepared], rows,
            pad=self.pipeline.manifest.batching.pad, bucket=sum(rows),
        )  # fmt: skip
        return columns, max(one.length for one in prepared)

    def _key(self, columns: Mapping[str, Column], fetches: tuple[str, ...], length: int) -> tuple[Hashable, int]:
        """What requests of one batch have in common (outputs, free dimensions that are not padded), and the length."""
        if self.decoder.fixed_shapes:
            return (None if fetches is self.pipeline.default_fetches else fetches), 0
        pad = self.pipeline.manifest.batching.pad
        arrays = {name: column for name, column in columns.items() if not isinstance(column, list)}
        shapes = tuple(array.shape[1:] for name, array in arrays.items() if name not in pad)
        longest = 0
        for name in pad:  # tensors of one sequence: a shorter one would be filled up only where a batch-mate is longer
            found = arrays[name].shape[1]
            if found < 1 or (longest and found != longest):
                expected = f"{longest} as in the other padded tensors" if longest else "at least 1"
                raise WrongShape(where=name, expected=f"length {expected}", found=f"length {found}")
            longest = found
        return (fetches, shapes), length or longest

    async def close(self) -> None:
        """Finish what is being prepared and what is queued, then free the backends."""
        while self.lane.preparing_rows:
            await asyncio.sleep(0.005)
        await self.lane.drain()
        await asyncio.get_running_loop().run_in_executor(self._pool, self.pipeline.close)


class _Answering(Request):
    """A request with the exchange that waits for it."""

    __slots__ = ("exchange", "served")

    served: ServedModel
    exchange: Exchange

    def reject(self, error: OnwardError) -> None:
        """Answer with the error."""
        if not isinstance(error, DeadlineExceeded):
            self.served.metrics.fail(error.code)
        self.exchange.fail(error)

    def crash(self, error: Exception) -> None:
        """Answer that it is our fault."""
        self.served.metrics.fail(OnwardError.code)
        self.exchange.crash(error)

    def is_wanted(self) -> bool:
        """Whether the client is still there."""
        return not self.exchange.disconnected

    def forget(self) -> None:
        """Let go of the body, too."""
        self.columns = {}
        self.exchange.body = b""

    def abandon(self) -> None:
        """The client left."""
        self.served.lane.cancel(self)


class _Infer(_Answering):
    """A V2 request."""

    __slots__ = ("request",)

    request: InferRequest

    def forget(self) -> None:
        """Let go of the decoded request, too."""
        super().forget()
        del self.request

    def resolve(self, outputs: Outputs, start: int) -> None:
        """Answer with the rows, in the form that was asked for."""
        request, rows = self.request, self.rows
        encoder, following = self.served.encoder, self.served.pipeline.following if self.length else None
        if request.binary is False and not following:
            values = []
            for index in range(len(outputs.names)):
                lists = outputs.rows(index)
                values.append(lists[start] if rows == 1 else [v for row in lists[start : start + rows] for v in row])
            body = encoder.encode_rows(request.id, outputs.names, rows, values)
            if body is not None:
                self.exchange.respond(body)
                self.served.metrics.request_s.observe(outputs.finished_s - self.exchange.arrived_s)
                return
        self.served.metrics.request_s.observe(outputs.finished_s - self.exchange.arrived_s)
        tensors = outputs.slice(start, rows)
        for name in following or ():  # as long as this request's own tokens, whatever the batch held besides
            if name in tensors:
                tensors[name] = tensors[name][:, : self.length]
        body, header_length = encoder.encode(request.id, tensors, request.binary)
        if header_length is None:
            self.exchange.respond(body)
        else:
            headers = {b"inference-header-content-length": b"%d" % header_length}
            self.exchange.respond(body, b"application/octet-stream", headers=headers)


class _Plain(_Answering):
    """A plain request."""

    __slots__ = ("call",)

    call: plain.Call

    def forget(self) -> None:
        """Let go of the items, too."""
        super().forget()
        del self.call

    def resolve(self, outputs: Outputs, start: int) -> None:
        """Answer with what a person reads; where a policy decides, once it has."""
        try:
            undecided = self.exchange.undecided
            if undecided is not None:
                undecided.decide(self.served.answers(self.call, outputs, start, self.rows))
                return
            if self.served.decider is not None:
                return  # it has been decided without this answer
            body = self.served.answer_body(self.call, outputs, start, self.rows, self.exchange.request_id)
        except OnwardError as error:
            self.reject(error)
        else:
            self.exchange.respond(body)
            self.served.metrics.request_s.observe(time.monotonic() - self.exchange.arrived_s)


def _items(request: InferRequest, fields: Sequence[Field]) -> list[Item]:
    """A V2 request for the item's fields as items, one a row. BYTES are text, but for images and audio."""
    texts = {field.name for field in fields if field.datatype == "BYTES" and field.content in ("value", "text")}
    columns = {name: column if isinstance(column, list) else list(column) for name, column in request.columns.items()}
    for name in texts & columns.keys():
        columns[name] = [_text(name, value) for value in columns[name]]
    return [{name: column[row] for name, column in columns.items()} for row in range(request.rows)]


def _text(name: str, value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise MalformedBody(where=name, expected="text in UTF-8", found=str(error)) from None


def _whole(value: bytes) -> int:
    if not value.isdigit() or len(value) > 12:
        raise MalformedBody(
            where="Inference-Header-Content-Length", expected="a whole number", found=value[:40].decode("latin-1")
        )
    return int(value)
