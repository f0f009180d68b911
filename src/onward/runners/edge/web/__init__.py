"""The web target: a package as a static folder that answers in a browser, with no server and no network."""
