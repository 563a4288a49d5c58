#!/usr/bin/env python3
"""Writes the files of the web page as a C table: embed.py OUT.c FILE..., the page itself first."""
import hashlib
import os
import sys

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def as_array(data):
    lines = (data[i:i + 32] for i in range(0, len(data), 32))
    return "\n".join("".join("%d," % b for b in line) for line in lines)


def main(out, paths):
    rows, arrays = [], []
    for i, path in enumerate(paths):
        with open(path, "rb") as f:
            data = f.read()
        name = os.path.basename(path)
        etag = hashlib.sha256(data).hexdigest()[:32]
        arrays.append("static const unsigned char file_%d[] = {\n%s\n};\n" % (i, as_array(data)))
        rows.append('    {"%s", "%s", "\\"%s\\"", file_%d, sizeof file_%d},\n'
                    % (name, TYPES[os.path.splitext(name)[1]], etag, i, i))
    with open(out, "w", encoding="ascii") as f:
        f.write('/* Made by server/web/embed.py. */\n#include "server/http/page.h"\n\n')
        f.write("\n".join(arrays))
        f.write("\nconst srv_page_file srv_page_files[] = {\n%s};\n" % "".join(rows))
        f.write("const size_t srv_page_file_count = %d;\n" % len(rows))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
