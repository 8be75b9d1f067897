"""Runs a program on two terminals, one for standard input and output and one for standard error, so that a test can tell them
apart. Prints the number of the process on a line, an empty line once a line is on its standard output, and at its end a line of
JSON: code, stdout, stderr (octets as Latin-1).

    terminal.py PROGRAM [ARGUMENT...]
"""

import json
import os
import select
import subprocess
import sys
import termios


def terminal():
    master, slave = os.openpty()
    modes = termios.tcgetattr(slave)
    modes[1] &= ~termios.OPOST  # line ends as they were written
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    return master, slave


def gather(sources):
    """Until nobody holds a terminal any more, which Linux tells by an error."""
    parts = {source: b"" for source in sources}
    still = set(sources)
    while still:
        for source in select.select(list(still), [], [])[0]:
            try:
                octets = os.read(source, 65536)
            except OSError:
                octets = b""
            if octets:
                if source == sources[0] and b"\n" in octets and b"\n" not in parts[source]:
                    print(flush=True)
                parts[source] += octets
            else:
                still.discard(source)
    return [parts[source].decode("latin-1") for source in sources]


out, out_slave = terminal()
err, err_slave = terminal()
child = subprocess.Popen(sys.argv[1:], stdin=out_slave, stdout=out_slave, stderr=err_slave, start_new_session=True)
os.close(out_slave)
os.close(err_slave)
print(child.pid, flush=True)
stdout, stderr = gather([out, err])
code = child.wait()
print(json.dumps({"code": code if code >= 0 else 128 - code, "stdout": stdout, "stderr": stderr}))
