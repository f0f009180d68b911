"""Many processes that share the port for inference, and the supervisor that starts, commands and replaces them."""
