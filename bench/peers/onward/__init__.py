"""How the bench runs onward."""
