"""Machine code written by hand, as a disassembler would print it."""


def listing(text):
    """nvdisasm's form of instructions given one a line; lines that end in a colon are labels."""
    lines = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines()))):
        lines.append(line if line.endswith(":") else f"        /*{16 * number:04x}*/                   {line} ;")
    return "\n".join(lines)
