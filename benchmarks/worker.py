"""One implementation in a process of its own, so that no library's threads disturb another's.

Reads a JSON line {"case": name, "calls": n}, answers with a JSON line of n times in seconds, or {"error": ...}.
While it waits it is blocked on the pipe and uses no processor.
"""

import importlib
import json
import sys
import time


def main() -> None:
    """Serve until standard input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not end up among the answers
    try:
        module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    except ImportError as error:
        print(json.dumps({"error": f"not installed ({error.name})"}), file=answers, flush=True)
        return
    print(json.dumps({"describe": module.describe(), "cases": list(module.CASES)}), file=answers, flush=True)
    prepared = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["case"]
        if name not in prepared:
            prepared = {name: module.CASES[name]()}  # only one case at a time in memory
            prepared[name]()  # compilation, first allocations
        prepared[name]()  # whoever ran meanwhile has filled the caches
        times = []
        for _ in range(request["calls"]):
            start = time.perf_counter()
            prepared[name]()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), file=answers, flush=True)


main()
