"""Conversations: what a message means in its dialogue, and what is said in answer."""

from onward.dialogue.dialogue import Dialogue
from onward.dialogue.records import ActionStatus, Reply, State, Understood

__all__ = ["ActionStatus", "Dialogue", "Reply", "State", "Understood"]
