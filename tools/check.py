"""The project's rules that no compiler knows; run by `./dev lint`. Prints each break as FILE:LINE: what is wrong.

- scripts parse, in Python and in bash
- no file names a machine's own folders
- headers begin with a contract comment and have #pragma once
- a module includes only modules that CMakeLists.txt lets it depend on
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Written so that this file does not match itself.
PRIVATE_PATHS = re.compile(r"(?<![\w.~])/(wor[k]|roo[t])/[\w.]")
HEADER = re.compile(r"\A(//[^\n]*\n)+\n?#pragma once\n")


def project_files():
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    return sorted(ROOT / name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


def allowed_includes():
    """{module: modules it may include}, from the quad_module() lines: itself, and all that it depends on. Also
    {folder: module} for the modules that are a FOLDER in another's."""
    direct, folders = {}, {}
    text = (ROOT / "CMakeLists.txt").read_text()
    for name, deps in re.findall(r"^quad_module\((\w+)(?:\s+DEPS\s+([^)]*))?\)", text, re.MULTILINE):
        direct[name] = set(re.findall(r"\bquad_(\w+)", deps))
        if folder := re.search(r"\bFOLDER\s+([\w/]+)", deps):
            folders[folder[1] + "/"] = name

    def reached(name):
        return {name}.union(*(reached(one) for one in direct.get(name, ())))

    return {name: reached(name) for name in direct}, folders


def module_of(path, folders):
    """The module that a file's path under src/ belongs to."""
    return next((name for folder, name in folders.items() if path.startswith(folder)), path.split("/")[0])


def check_script(path, text):
    if path.suffix == ".py" or re.match(r"#!.*python", text):
        try:
            ast.parse(text)
        except SyntaxError as error:
            yield error.lineno or 1, f"Python cannot read it: {error.msg}"
    elif path.suffix == ".sh" or re.match(r"#!.*\b(ba)?sh\b", text):
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        for number, message in re.findall(r"line (\d+): (.*)", done.stderr):
            yield int(number), message


def check_paths(text):
    for number, line in enumerate(text.splitlines(), 1):
        if PRIVATE_PATHS.search(line):
            yield number, "names a folder of one machine"


def check_source(path, text, allowed, folders):
    if path.suffix == ".h" and not HEADER.match(text):
        yield 1, "a header begins with a contract comment and #pragma once"
    module = module_of(path.relative_to(ROOT / "src").as_posix(), folders)
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r'#include "((\w+)/(\w+)[^"]*)', line)
        included = module_of(found[1], folders) if found else None
        # A library of one file, such as quad_runner_protocol, lets that file in alone.
        names = {included, f"{found[2]}_{found[3]}"} if found else set()
        if included in allowed and not names & allowed.get(module, allowed.keys()):
            yield number, f"{module} may not include {included} (CMakeLists.txt says what it depends on)"


def main():
    allowed, folders = allowed_includes()
    count = 0
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = [*check_script(path, text), *check_paths(text)]
        if path.is_relative_to(ROOT / "src") and path.suffix in (".h", ".cc"):
            found += check_source(path, text, allowed, folders)
        for number, message in found:
            print(f"{path.relative_to(ROOT)}:{number}: {message}")
        count += len(found)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
