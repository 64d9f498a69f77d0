"""Single questions, each a command of its own."""
