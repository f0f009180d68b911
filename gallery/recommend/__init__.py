"""The example package `recommend`: films for a person, from what they have watched."""
