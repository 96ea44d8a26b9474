"""PEFT Studio in one command: sets up what is missing, then starts it.

    python3 launch.py                    serve the studio and open the browser
        --host ADDRESS --port NUMBER     where to serve
        --no-browser                     do not open the browser
    python3 launch.py demo [--json]      train the quickstart without a browser; --json: the figures as one last line
    python3 launch.py test [ARGUMENT..]  set up the test extras and run every test; arguments go to pytest
    python3 launch.py --help             this text

`serve` and `demo` also take --home FOLDER, where models, data and runs are kept (default: ~/.peft-studio, or PEFT_STUDIO_HOME).

The first start makes a `.venv` beside this file, unless this Python already has every package, and downloads what is missing: on Linux
about 3 GB, most of it torch for NVIDIA GPUs, and a starter model of 93 MB. What is there is left alone: a second start sets nothing up.
Everything else is a command of the studio: `.venv/bin/python -m studio --help` (on Windows .venv\\Scripts\\python).
"""

# This file needs only the standard library, and parses on any Python so that an old one can be told what is missing. It knows nothing
# about what the studio does: everything after set-up is `python -m studio`. What goes wrong is one sentence that says what to do.

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

OLDEST_PYTHON = (3, 10)
ROOT = os.path.dirname(os.path.abspath(__file__))
# What the packages take at the very least, without CUDA libraries: below this, downloading would be a waste.
SPACE_BYTES = 2 * 10**9

OPTIONS = {
    "serve": {"--host": {}, "--port": {"type": int}, "--no-browser": {"action": "store_true"}},
    "demo": {"--json": {"action": "store_true"}},
}

FULL = "The disk is full: free at least %.0f GB where PEFT Studio lies and start again." % (SPACE_BYTES / 1e9)
OFFLINE = "The package index cannot be reached: check the network (HTTPS_PROXY for a proxy, PIP_INDEX_URL for a mirror) and start again."
FORBIDDEN = "No permission to write where PEFT Studio lies: put it into a folder of your own and start again."
UNFITTING = "A package has no release for this Python on this machine: delete the .venv folder and start with Python 3.11 to 3.13."
# What the operating system, venv and pip say when set-up fails, and what to do then; the first that fits counts.
ADVICE = (
    (r"No space left on device|Errno 28|Disk quota exceeded|not enough space on the disk", FULL),
    (r"NewConnectionError|NameResolutionError|name resolution|getaddrinfo failed|Network is unreachable", OFFLINE),
    (r"ConnectTimeoutError|ReadTimeoutError|Read timed out|Connection refused|ProxyError", OFFLINE),
    (r"Permission denied|Errno 13|Access is denied|Read-only file system", FORBIDDEN),
    (r"No matching distribution found", UNFITTING),
)


class CannotStart(Exception):
    """Set-up cannot go on; the text is one sentence for a person that says what to do."""


def main(arguments):
    """Set up what is missing and run the command. Returns the exit code; serving on POSIX replaces this process instead."""
    if "-h" in arguments or "--help" in arguments:
        sys.stdout.write(__doc__)
        return 0
    try:
        check_python()
        command, options, home = read_arguments(arguments)
        return {"serve": serve, "demo": demo, "test": test}[command](options, child_environment(home))
    except CannotStart as problem:
        say(str(problem))
        return 1
    except OSError as error:
        say(explain_failure(str(error)))
        return 1
    except KeyboardInterrupt:
        say("Interrupted. Start again to go on from here.")
        return 130


def read_arguments(arguments):
    """The command, the options to pass on, and the studio's home if one is named; a typing error ends here, before any set-up."""
    command = "serve"
    if arguments and not arguments[0].startswith("-"):
        command, arguments = arguments[0], arguments[1:]
    if command == "test":
        return command, arguments, None
    if command not in OPTIONS:
        raise CannotStart("There is no command `%s`: use demo or test, or none to serve; --help says more." % command)
    home = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    home.add_argument("--home")
    named, options = home.parse_known_args(arguments)
    checker = argparse.ArgumentParser(prog="launch.py", usage="see `python3 launch.py --help`", add_help=False)
    for name, how in OPTIONS[command].items():
        checker.add_argument(name, **how)
    checker.parse_args(options)
    return command, options, named.home


def serve(options, environment):
    """Serve the studio. Without the starter model it still starts: a model of one's own may be all that is wanted."""
    python = ready_python(with_tests=False)
    if set_up_starter(python, environment) != 0:
        say("The starter model or its data is missing for now; the studio starts without it.")
    return hand_over([python, "-m", "studio"] + options, environment)


def demo(options, environment):
    """Train the quickstart preset and answer three prompts with base and adapted model."""
    python = ready_python(with_tests=False)
    return set_up_starter(python, environment) or hand_over([python, "-m", "studio", "demo"] + options, environment)


def test(options, environment):
    """Lint, then every test. The tests need the starter model: without it nothing is run and the exit code says so."""
    python = ready_python(with_tests=True)
    code = set_up_starter(python, environment)
    if code != 0:
        return code
    lint = subprocess.call([python, "-m", "ruff", "check", ROOT], cwd=ROOT, env=environment)
    tests = subprocess.call([python, "-m", "pytest"] + options, cwd=ROOT, env=environment)
    return tests or lint


def set_up_starter(python, environment):
    """Exit code of `studio setup`, which says itself what it does and what went wrong, and does nothing when all is there."""
    return subprocess.call([python, "-m", "studio", "setup"], env=environment, stdout=sys.stderr)


def hand_over(command, environment):
    """Become `command`, so that a signal or a closed terminal reaches the studio itself and nothing is left behind."""
    if os.name == "posix":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, environment)
    child = subprocess.Popen(command, env=environment)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the console sent it to the child too, which ends on its own


def child_environment(home):
    """The children's environment: this clone's code, the home, and no telemetry."""
    environment = dict(os.environ, HF_HUB_DISABLE_TELEMETRY="1", GRADIO_ANALYTICS_ENABLED="False")
    environment["PYTHONPATH"] = os.pathsep.join([ROOT] + [path for path in [os.environ.get("PYTHONPATH")] if path])
    if home:
        environment["PEFT_STUDIO_HOME"] = os.path.abspath(os.path.expanduser(home))
    return environment


def check_python():
    """Raise CannotStart on a Python that is too old, naming a newer one if this machine has it."""
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return
    wanted = "%d.%d" % OLDEST_PYTHON
    problem = "PEFT Studio needs Python %s or newer, and this is Python %s" % (wanted, sys.version.split()[0])
    check = "import sys; sys.exit(sys.version_info[:2] < %r)" % (OLDEST_PYTHON,)
    for name in ("python3", "python3.13", "python3.12", "python3.11", "python3.10"):
        if succeeds([name, "-c", check]):
            raise CannotStart("%s: this machine has a newer one, so start with `%s launch.py`." % (problem, name))
    raise CannotStart("%s: install one from https://www.python.org/downloads/ and start again with it." % problem)


def ready_python(with_tests):
    """Path of a Python that has every package: the finished .venv, this one if it has all, else a .venv made or repaired now."""
    stamp = read_stamp()
    had_tests = bool(stamp.get("tests"))
    python = venv_python()
    if stamp and os.path.exists(python) and stamp.get("key") == stamp_key() and (had_tests or not with_tests):
        return python
    if not missing_packages(requirements("dependencies") + (requirements("test") if with_tests else [])):
        return sys.executable
    begun = time.time()
    make_venv()
    install_packages(with_tests or had_tests)
    write_stamp(with_tests or had_tests)
    say("Packages are ready (%.0f s)." % (time.time() - begun))
    return python


def requirements(table):
    """The requirement strings of one list of pyproject.toml: `dependencies`, or the name of an extra. (Python 3.10 has no tomllib.)"""
    block = re.search(r"^%s = \[\n(.*?)^\]" % re.escape(table), read_text("pyproject.toml"), re.MULTILINE | re.DOTALL)
    return re.findall(r'^\s*"([^"]+)"', block.group(1), re.MULTILINE)


def missing_packages(needed):
    """Those of the requirement strings that this interpreter does not meet."""
    from importlib import metadata

    def is_met(requirement):
        name, limits = re.match(r"([\w.-]+)(.*)$", requirement).groups()
        try:
            return fits(metadata.version(name) or "0", limits)  # None where an uninstall was cut short
        except metadata.PackageNotFoundError:
            return False

    return [requirement for requirement in needed if not is_met(requirement)]


def fits(version, limits):
    """Whether `version` ("2.13.0+cpu") lies within `limits` (">=2.6,<3"): only `>=` and `<`, all that pyproject.toml uses."""
    bounds = re.findall(r"(>=|<)([\d.]+)", limits)
    return all((release(version) >= release(bound)) == (operator == ">=") for operator, bound in bounds)


def release(version):
    """The leading numbers of a version, padded so that 6 equals 6.0.0."""
    numbers = [int(part) for part in re.match(r"\d+(\.\d+)*", version).group().split(".")]
    return tuple(numbers + [0] * (6 - len(numbers)))


def make_venv():
    """Make .venv, or make it anew where an interrupted or outdated one does not run pip; a working one is kept."""
    if runs_pip(venv_python()):
        return
    from importlib import util

    if not (util.find_spec("venv") and util.find_spec("ensurepip")):
        raise CannotStart(
            "This Python cannot make virtual environments (no venv or ensurepip module): on Debian or Ubuntu run "
            "`sudo apt install python3-venv`, elsewhere use the Python of https://www.python.org/downloads/, and start again."
        )
    if shutil.disk_usage(ROOT).free < SPACE_BYTES:
        raise OSError(errno.ENOSPC, "No space left on device", ROOT)
    folder = os.path.join(ROOT, ".venv")
    say("Making the environment %s ..." % folder)
    run_installer([sys.executable, "-m", "venv", "--clear", folder])


def runs_pip(python):
    """Whether `python` exists, is new enough, and has a whole pip."""
    check = "import sys, pip._internal.cli.main; sys.exit(sys.version_info[:2] < %r)" % (OLDEST_PYTHON,)
    return os.path.exists(python) and succeeds([python, "-c", check])


def succeeds(command):
    with open(os.devnull, "w") as nowhere:
        try:
            return subprocess.call(command, stdout=nowhere, stderr=nowhere) == 0
        except OSError:
            return False


def install_packages(with_tests):
    """Install this clone and its requirements into .venv, at the tested versions, with pip's own progress on the screen."""
    say("Installing the packages: minutes the first time, nothing later ...")
    constraints = os.path.join(ROOT, "assets", "constraints.txt")
    command = [venv_python(), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--constraint", constraints]
    run_installer(command + ["--editable", ROOT + ("[test]" if with_tests else "")])


def run_installer(command):
    """Run pip or venv with its output on the screen; a failure is raised as a sentence made from what it said."""
    process = subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.PIPE, universal_newlines=True, errors="replace")
    said = []
    for line in process.stderr:
        said.append(line)
        sys.stderr.write(line)
    if process.wait() != 0:
        raise CannotStart(explain_failure("".join(said)))


def explain_failure(said):
    """One sentence on why set-up failed, from what the operating system, venv or pip said."""
    for pattern, advice in ADVICE:
        if re.search(pattern, said, re.IGNORECASE):
            return advice
    last = ([line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"])[-1]
    return "Set-up failed (%s): start again; if it fails again, delete the .venv folder first." % last


def venv_python():
    return os.path.join(ROOT, ".venv", *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def read_stamp():
    """What the last finished set-up put into .venv: {"key": of what, "tests": whether with the test extras}; {} if none finished."""
    try:
        stamp = json.loads(read_text(".venv", "peft-studio.json"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(with_tests):
    """Written last and renamed into place: an interrupted set-up leaves no new stamp and is taken up again."""
    path = os.path.join(ROOT, ".venv", "peft-studio.json")
    with open(path + ".new", "w") as file:
        json.dump({"key": stamp_key(), "tests": with_tests}, file)
    os.replace(path + ".new", path)


def stamp_key():
    """Changes with what is to be installed and with the Python it is installed for. Needs a .venv."""
    texts = [read_text("pyproject.toml"), read_text("assets", "constraints.txt"), read_text(".venv", "pyvenv.cfg")]
    return hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()


def read_text(*path):
    with open(os.path.join(ROOT, *path), "rb") as file:
        return file.read().decode("utf-8")


def say(text):
    """Tell the person; standard output belongs to the command that is started."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
