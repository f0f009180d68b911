"""The batch runner: one scoring job over a file, a folder or a table, with effects that happen exactly once."""
