"""The `mariadb` command line client, and Oracle's `mysql` where that is the program given after the plan.

A case is one run of the program; what it wrote is compared line by line.
"""

import hashlib
import json
import re
import subprocess
import sys

ELAPSED = re.compile(r"\(?\d+\.\d+ sec\)?")


def options(program, login):
    """The arguments for a login."""
    yield from (f"--host={login['host']}", f"--port={login['port']}", f"--user={login['user']}", f"--password={login['password']}", "--protocol=tcp")
    # Every result with its column metadata, warnings, and status; on after an error.
    yield from ("-vvv", "--force", "--show-warnings", "--column-type-info", "--unbuffered", f"--default-character-set={login.get('charset', 'utf8mb4')}")
    yield f"--local-infile={int(bool(login.get('local_infile')))}"
    if login["schema"]:
        yield f"--database={login['schema']}"
    if login.get("compress"):
        yield "--compress"
    oracle = program.endswith("mysql")
    if login.get("tls"):
        yield from (f"--ssl-ca={login['ca']}", "--ssl-mode=VERIFY_CA" if oracle else "--ssl")
    else:
        yield from ("--ssl-mode=DISABLED", "--get-server-public-key") if oracle else ("--skip-ssl",)


def script(steps):
    """The case as the program's input. None when it can't be put so."""
    lines = []
    for step in steps:
        step = {"sql": step} if isinstance(step, str) else step
        match next(kind for kind in step if kind not in ("on", "fails")):
            case _ if step.get("on", "a") != "a":
                return None
            case "sql":
                sql = step["sql"].replace("{id}", "CONNECTION_ID()")
                sql = re.sub(r"\{x:(\d+)\}", lambda found: "x" * int(found[1]), sql)
                lines += ["DELIMITER //", sql + " //", "DELIMITER ;"]
            case "use":
                lines.append(f"USE {step['use']}")
            case "begin" | "commit" | "rollback" as verb:
                lines.append(f"{verb.upper()};")
            case "reset":
                lines.append("resetconnection")
            case "greeting" | "prepare" | "many" | "cursor":
                continue
            case _:
                return None
    return "\n".join(lines) + "\n"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    program = sys.argv[2]
    for case in plan["cases"]:
        login = {key: plan[key] for key in ("host", "port", "user", "password", "schema", "ca")} | case.get("connect", {}).get("a", {})
        text = script([*plan["clean"], *case["steps"]])
        if text is None:
            print(json.dumps({"case": case["name"], "not_offered": "step"}), flush=True)
            continue
        lost = any(isinstance(step, dict) and step.get("fails") == "lost" for step in case["steps"])
        # `--no-defaults` must come first.
        ran = subprocess.run([program, "--no-defaults", *options(program, login)], input=text.encode(), capture_output=True, timeout=120)
        told = [ELAPSED.sub("(… sec)", stream.decode("utf-8", "backslashreplace")) for stream in (ran.stdout, ran.stderr)]
        lines = [line if len(line) < 300 else f"{line[:40]}… {len(line)} {hashlib.sha256(line.encode()).hexdigest()}" for stream in told for line in stream.splitlines()]
        if lost:
            # How a program notices that its connection was ended is a race even directly.
            lines = [line for line in lines if not line.startswith("ERROR")]
        # One outcome for the whole case: the program doesn't say which line belongs to which statement.
        print(json.dumps({"case": case["name"], "whole": {"exit": ran.returncode, "lines": lines}}), flush=True)


main()
