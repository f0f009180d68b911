"""The cloud runner: everything that a container engine, a cluster or systemd needs to run `onward serve`."""
