"""Conversations: what a message means in its dialogue, and what is said in answer."""
