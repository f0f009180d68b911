"""Side-by-side measurements of Onward and other inference servers on one machine."""
