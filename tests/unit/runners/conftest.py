"""A real PostgreSQL for the runners' tests."""

from tests.postgres import postgres, postgres_url  # noqa: F401
