"""How the bench runs fastapi."""
