"""From a decision to its effects: the outbox, the relay that empties it, and what it can reach."""
