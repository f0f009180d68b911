"""How the bench runs triton."""
