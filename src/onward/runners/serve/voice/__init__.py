"""The voice loop: speech up, events and speech down, over one WebSocket."""
