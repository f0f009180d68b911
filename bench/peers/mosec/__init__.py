"""How the bench runs mosec."""
