"""The action as a Celery task, over a broker in a database: what the bench of decisions compares the action path to.

The broker's URL is in `BROKER`. Acknowledged late, so that a task that was begun and not ended is done again: the
nearest that Celery has to an outbox. Results are not kept.
"""

from __future__ import annotations

import os

import httpx
from celery import Celery, Task
from kombu.transport.sqlalchemy import Transport

app = Celery("tasks", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1, worker_hijack_root_logger=False
)
app.conf.update(broker_connection_retry_on_startup=True)
Transport.polling_interval = 0.02  # how long an idle worker waits before it looks again; without this, a second


@app.task(bind=True, autoretry_for=(httpx.TransportError,), retry_backoff=True, max_retries=8)
def hold(self: Task, url: str, arguments: dict[str, object]) -> None:
    """Send the web hook, with the task's id as its idempotency key."""
    answer = httpx.post(url, json=arguments, headers={"Idempotency-Key": self.request.id}, timeout=5.0)
    answer.raise_for_status()
