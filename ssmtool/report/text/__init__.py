"""Results as text for people: tables that fit 80 columns in a terminal and lose nothing in a pipe."""
