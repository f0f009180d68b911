"""How the bench runs limit."""
