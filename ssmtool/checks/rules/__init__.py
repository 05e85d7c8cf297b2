"""Rules: one number of a layer per file, found by file name; the file's name is the rule's id."""
