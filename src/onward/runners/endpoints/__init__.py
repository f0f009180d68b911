"""An old and a new endpoint side by side: the same requests to both, and how far answers, times and costs are apart."""
