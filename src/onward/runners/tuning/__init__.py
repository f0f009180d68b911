"""Which batch size, instances and threads serve a package best on this machine, found by measuring a real server."""
