"""One answer everywhere: the same inputs through several runners, and how far their answers are apart."""
