"""Several pieces of Python code, each in a process of its own that has torch loaded already."""

import json
import subprocess

from triton_cases import run_python

# A child ends at once: taking all of torch down would copy its memory first, and take longer than
# most of what a test asks of it.
PARENT = """
import json, os, sys, torch, traceback

folder, codes, results = sys.argv[1], json.loads(sys.argv[2]), {}
for name, code in codes.items():
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for stream in (1, 2):
                os.dup2(os.open(f"{folder}/{name}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
            exec(code, {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    results[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(results))
"""


def run_forked(folder, codes, **environment):
    """Run each code of a dict; what became of it by its name, output in files of the folder."""
    done = json.loads(run_python(["-c", PARENT, str(folder), json.dumps(codes)], **environment))
    read = {name: [(folder / f"{name}.{n}").read_text() for n in (1, 2)] for name in done}
    return {name: subprocess.CompletedProcess(name, done[name], *read[name]) for name in done}
